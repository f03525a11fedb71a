/* fuzz: hv */
// SPDX-License-Identifier: GPL-2.0-or-later
/* A worker's answers to "map".  What is taken covers the range without gaps. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "origins.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define OFF 4096u
#define END (1u << 20)

static int follow(void *opaque, const struct bstore_origin_run *run)
{
    uint64_t *at = opaque;
    json_t *again;
    struct bstore_origin_run back;

    assert(run->off == *at && run->bytes > 0 && run->bytes <= END - *at);
    *at += run->bytes;
    again = hv_run_json(run);
    assert(again && hv_run_decode(again, &back, NULL) == 0);
    assert(back.off == run->off && back.bytes == run->bytes &&
           back.origin == run->origin && back.src_off == run->src_off);
    json_decref(again);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hv_origin_total t;
    uint64_t at = OFF, next;
    struct bs_err err;
    json_t *obj, *one;
    size_t i;

    obj = json_loadb((const char *)data, len, 0, NULL);
    if (hv_map_answer(obj, OFF, END, &next, follow, &at, &err) == 0)
        assert(next == at && next > OFF && next <= END);
    json_array_foreach(json_object_get(obj, "totals"), i, one)
        if (hv_total_decode(one, &t, &err) == 0)
            assert(t.hole_bytes <= t.bytes);
    json_decref(obj);
    return 0;
}
