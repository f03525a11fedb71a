// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hv-check.h"
#include "hv-history.h"

#define HISTORY_FINDINGS_MAX 20
#define HISTORY_LOOK 10000 /* entries */

json_t *hv_finding_json(const struct bstore_finding *f)
{
    json_t *guest = f->guest_known ? json_array() : json_null();
    unsigned i;

    for (i = 0; f->guest_known && i < f->n_guest; i++)
        json_array_append_new(guest,
                              json_pack("{s:I, s:I}", "offset",
                                        (json_int_t)f->guest[i].off, "bytes",
                                        (json_int_t)f->guest[i].bytes));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:s?, s:o, s:i, s:s, s:s}", "part",
                     bstore_check_part_name(f->part), "path", f->path, "offset",
                     (json_int_t)f->off, "bytes", (json_int_t)f->bytes, "block",
                     (json_int_t)(f->off / 4096), "file", f->file, "guest", guest,
                     "guest_more", (int)f->n_more, "what", f->what, "todo",
                     f->todo);
}

json_t *hv_check_json(const struct bstore_check_result *res,
                      const json_t *findings, int64_t duration_ms)
{
    return json_pack(
        "{s:s, s:I, s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
        "outcome", res->n_findings ? "damaged" : "clean", "n_findings",
        (json_int_t)res->n_findings, "findings", (json_t *)(uintptr_t)findings,
        "read_bytes", (json_int_t)res->read_bytes, "images",
        (json_int_t)res->n_images, "patches", (json_int_t)res->n_patches,
        "own_bytes", (json_int_t)res->own_blks * 4096, "compared_bytes",
        (json_int_t)res->n_compared * 4096, "taken_bytes",
        (json_int_t)res->n_taken * 4096, "pauses", (json_int_t)res->n_pauses,
        "begun", (json_int_t)res->begun, "ended", (json_int_t)res->ended,
        "duration_ms", (json_int_t)duration_ms);
}

json_t *hv_check_history(const json_t *result, const struct bs_err *err)
{
    const json_t *findings = json_object_get(result, "findings"), *one;
    json_t *e = json_copy((json_t *)(uintptr_t)result), *few = json_array();
    size_t i;

    json_array_foreach(findings, i, one)
        if (i < HISTORY_FINDINGS_MAX)
            json_array_append(few, (json_t *)(uintptr_t)one);
    json_object_set_new(e, "findings", few);
    json_object_set_new(e, "time", json_integer(time(NULL)));
    json_object_set_new(e, "what", json_string("check"));
    if (err && err->code) {
        const char *code = strerrorname_np(err->code);

        json_object_set_new(e, "error",
                            json_pack("{s:s, s:s}", "code", code ? code : "EIO",
                                      "text", err->text));
    }
    return e;
}

json_t *hv_check_last(int dirfd)
{
    json_t *list = NULL, *e, *last = NULL;
    const char *what;
    size_t i;

    if (hv_history_read(dirfd, HISTORY_LOOK, &list, NULL) < 0)
        return NULL;
    for (i = json_array_size(list); !last && i-- > 0;) {
        e = json_array_get(list, i);
        what = json_string_value(json_object_get(e, "what"));
        if (what && strcmp(what, "check") == 0)
            last = json_incref(e);
    }
    json_decref(list);
    return last;
}
