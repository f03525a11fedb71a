/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* What decodes is encoded and decoded again, to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "bstore-manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bstore_manifest *m = NULL, *again = NULL;
    char *text = NULL, *text2 = NULL;
    size_t n, n2;
    struct bs_err err = { 0 };

    if (bstore_manifest_decode((const char *)data, len, &m, &err) < 0) {
        if (!err.text[0])
            abort(); /* refused without a sentence */
        return 0;
    }
    if (bstore_manifest_encode(m, &text, &n, &err) < 0 ||
        bstore_manifest_decode(text, n, &again, &err) < 0 ||
        bstore_manifest_encode(again, &text2, &n2, &err) < 0 || n != n2 ||
        memcmp(text, text2, n) != 0)
        abort();
    free(text);
    free(text2);
    bstore_manifest_free(m);
    bstore_manifest_free(again);
    return 0;
}
