/* fuzz: hv */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Metrics of workers, put together.  What was taken once can be taken again,
 * and is the same then. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hv-prom.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int merged(const char *text, size_t len, char **out, size_t *n)
{
    struct hv_prom_merge *m;
    struct bs_err err;
    int r;

    if (hv_prom_merge_new(&m) < 0)
        abort();
    r = hv_prom_merge_add(m, text, len, &err);
    if (hv_prom_merge_text(m, out, n) < 0)
        abort();
    hv_prom_merge_free(m);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *once, *twice;
    size_t n, k;

    if (merged((const char *)data, len, &once, &n) < 0) {
        assert(n == 0);
    } else {
        assert(n <= len);
        assert(merged(once, n, &twice, &k) == 0);
        assert(k == n && memcmp(once, twice, n) == 0);
        free(twice);
    }
    free(once);
    return 0;
}
