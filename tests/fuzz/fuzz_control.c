/* fuzz: hv */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Lines as the control socket gets them: parsed and checked, not done. */
#include <stdint.h>
#include <string.h>

#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void one_line(const char *p, size_t len)
{
    struct hv_request req;
    struct bs_err err;
    json_t *obj;

    obj = json_loadb(p, len, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(obj) && hv_request_decode(obj, &req, &err) == 0)
        hv_request_fini(&req);
    json_decref(obj);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *p = (const char *)data, *end = p + len, *nl;

    for (; p < end; p = nl + 1) {
        nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl)
            break;
        one_line(p, (size_t)(nl - p));
    }
    return 0;
}
