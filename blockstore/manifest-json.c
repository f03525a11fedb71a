// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "manifest-json.h"

int mj_bad(const struct mj *d, const char *key, const char *what)
{
    if (d->list)
        return bs_fail(d->err, EBADMSG, "manifest: %s %u: %s%s %s", d->list,
                       d->i, d->sub, key, what);
    return bs_fail(d->err, EBADMSG, "manifest: %s%s %s", d->sub, key, what);
}

int mj_no_memory(const struct mj *d)
{
    return bs_fail(d->err, ENOMEM, "manifest: no memory");
}

int mj_u64(const struct mj *d, const json_t *obj, const char *key, uint64_t max,
           int how, uint64_t *out)
{
    const json_t *v = json_object_get(obj, key);

    if (!v && how & MJ_OPTIONAL)
        return 0;
    if (!v)
        return mj_bad(d, key, "is missing");
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        (uint64_t)json_integer_value(v) > max)
        return mj_bad(d, key, "is no integer of its range");
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

int mj_u32(const struct mj *d, const json_t *obj, const char *key, int how,
           uint32_t *out)
{
    uint64_t v = *out;
    int r;

    r = mj_u64(d, obj, key, UINT32_MAX, how, &v);
    *out = (uint32_t)v;
    return r;
}

int mj_i64(const struct mj *d, const json_t *obj, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(obj, key);

    if (!json_is_integer(v))
        return mj_bad(d, key, "is no integer");
    *out = json_integer_value(v);
    return 0;
}

int mj_bool(const struct mj *d, const json_t *obj, const char *key, bool *out)
{
    const json_t *v = json_object_get(obj, key);

    *out = false;
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return mj_bad(d, key, "is neither true nor false");
    *out = json_is_true(v);
    return 0;
}

int mj_digest(const struct mj *d, const json_t *obj, const char *key,
              struct bstore_digest *out)
{
    const char *s = json_string_value(json_object_get(obj, key));

    if (!s || bstore_digest_from_hex(out, s) < 0)
        return mj_bad(d, key, "is no digest of 64 hexadecimal digits");
    return 0;
}

/* libsodium 1.0.18 takes every byte >= 0x80 for a '/'. */
static bool is_ascii(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s >= 0x80)
            return false;
    return true;
}

int mj_bytes(const struct mj *d, const char *key, const json_t *v,
             uint8_t **out, size_t *len)
{
    size_t room = json_string_length(v) / 4 * 3 + 4;
    uint8_t *buf;

    if (!json_is_string(v) || !is_ascii(json_string_value(v)))
        return mj_bad(d, key, "is not in base64");
    buf = malloc(room);
    if (!buf)
        return mj_no_memory(d);
    if (sodium_base642bin(buf, room - 1, json_string_value(v),
                          json_string_length(v), NULL, len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0) {
        free(buf);
        return mj_bad(d, key, "is not in base64");
    }
    buf[*len] = '\0';
    *out = buf;
    return 0;
}

int mj_text(const struct mj *d, const json_t *obj, const char *key, int how,
            char **out)
{
    const json_t *v = json_object_get(obj, key);
    uint8_t *bytes;
    size_t len;
    int r;

    if (!v && how & MJ_OPTIONAL)
        return 0;
    if (!v)
        return mj_bad(d, key, "is missing");
    if (json_is_string(v)) {
        *out = strdup(json_string_value(v));
        return *out ? 0 : mj_no_memory(d);
    }
    if (!json_is_object(v))
        return mj_bad(d, key, "is no text");
    r = mj_bytes(d, key, json_object_get(v, "b64"), &bytes, &len);
    if (r < 0)
        return r;
    if (memchr(bytes, '\0', len)) {
        free(bytes);
        return mj_bad(d, key, "holds a NUL");
    }
    *out = (char *)bytes;
    return 0;
}

int mj_object(const struct mj *d, const json_t *obj, const char *key,
              const json_t **out)
{
    *out = json_object_get(obj, key);
    if (!json_is_object(*out))
        return mj_bad(d, key, "is no object");
    return 0;
}

int mj_list(const struct mj *d, const json_t *obj, const char *key, size_t max,
            size_t elem_bytes, const json_t **list, void *elems, uint32_t *n)
{
    void *mem;
    size_t count;

    *list = json_object_get(obj, key);
    if (!*list)
        return 0;
    if (!json_is_array(*list))
        return mj_bad(d, key, "is no list");
    count = json_array_size(*list);
    if (count > max)
        return mj_bad(d, key, "has too many elements");
    if (count == 0)
        return 0;
    mem = calloc(count, elem_bytes);
    if (!mem)
        return mj_no_memory(d);
    memcpy(elems, &mem, sizeof(mem));
    *n = (uint32_t)count;
    return 0;
}
