// SPDX-License-Identifier: GPL-2.0-or-later
/* manifest-json.h: inside blockstore: values out of a manifest's JSON.
 *
 * Each answers 0, or -EBADMSG and a sentence that names the key, or -ENOMEM.
 * A missing key is an error, unless MJ_OPTIONAL is given: then *out stays as
 * it was. */
#ifndef MANIFEST_JSON_H
#define MANIFEST_JSON_H

#include <jansson.h>

#include "bstore-manifest.h"

/* Where we are, for the sentence: "ops 12: old.mode is missing". */
struct mj {
    struct bs_err *err;
    const char *list; /* NULL: the top object */
    uint32_t i;
    const char *sub; /* "old." and so on; "" = the element itself */
};

enum { MJ_OPTIONAL = 1 };

int mj_bad(const struct mj *d, const char *key, const char *what);
int mj_no_memory(const struct mj *d);

int mj_u64(const struct mj *d, const json_t *obj, const char *key, uint64_t max,
           int how, uint64_t *out);
int mj_u32(const struct mj *d, const json_t *obj, const char *key, int how,
           uint32_t *out);
int mj_i64(const struct mj *d, const json_t *obj, const char *key,
           int64_t *out);
/* A missing key is false. */
int mj_bool(const struct mj *d, const json_t *obj, const char *key, bool *out);
int mj_digest(const struct mj *d, const json_t *obj, const char *key,
              struct bstore_digest *out);
/* The bytes of a base64 string v; given, with a NUL behind them. */
int mj_bytes(const struct mj *d, const char *key, const json_t *v,
             uint8_t **out, size_t *len);
/* A string, or {"b64": "..."} for one that JSON cannot hold readably; given,
 * without NUL inside. */
int mj_text(const struct mj *d, const json_t *obj, const char *key, int how,
            char **out);
int mj_object(const struct mj *d, const json_t *obj, const char *key,
              const json_t **out);
/* A list's length, and zeroed memory for its elements, whose address goes to
 * *elems, a pointer of any type.  A missing list is an empty one: *elems and
 * *n stay as they were. */
int mj_list(const struct mj *d, const json_t *obj, const char *key, size_t max,
            size_t elem_bytes, const json_t **list, void *elems, uint32_t *n);

#endif
