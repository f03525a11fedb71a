// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "hv-check.h"
#include "origins.h"
#include "request.h"

#define LOG_DEFAULT 100
#define LOG_MAX 10000 /* of the map's runs too */
#define HOLD_DEFAULT_S 60
#define HOLD_MAX_S 3600

enum member { M_PATCH, M_STRATEGY, M_DRY_RUN, M_RESTART, M_PATHS, M_UNITS, M_LIMIT,
              M_OFFSET, M_BYTES, M_TOTALS, M_SIZE, M_RATE, M_WHAT };
#define BIT(m) (1u << (m))

static const char *const member_names[] = {
    [M_PATCH] = "patch", [M_STRATEGY] = "strategy", [M_DRY_RUN] = "dry_run",
    [M_RESTART] = "restart", [M_PATHS] = "paths", [M_UNITS] = "units",
    [M_LIMIT] = "limit", [M_OFFSET] = "offset", [M_BYTES] = "bytes",
    [M_TOTALS] = "totals", [M_SIZE] = "size_bytes", [M_RATE] = "rate",
    [M_WHAT] = "what",
};

static const struct {
    const char *name;
    enum hv_cmd cmd;
    unsigned may; /* members beside id and cmd */
} commands[] = {
    { "ping", HV_CMD_PING, 0 },
    { "status", HV_CMD_STATUS, 0 },
    { "apply", HV_CMD_APPLY,
      BIT(M_PATCH) | BIT(M_STRATEGY) | BIT(M_DRY_RUN) | BIT(M_RESTART) },
    { "rollback", HV_CMD_ROLLBACK,
      BIT(M_PATCH) | BIT(M_STRATEGY) | BIT(M_DRY_RUN) | BIT(M_RESTART) },
    { "cancel", HV_CMD_CANCEL, BIT(M_WHAT) },
    { "users", HV_CMD_USERS, 0 },
    { "flush", HV_CMD_FLUSH, BIT(M_PATHS) },
    { "restart", HV_CMD_RESTART, BIT(M_UNITS) },
    { "log", HV_CMD_LOG, BIT(M_LIMIT) },
    { "map", HV_CMD_MAP,
      BIT(M_OFFSET) | BIT(M_BYTES) | BIT(M_LIMIT) | BIT(M_TOTALS) },
    { "metrics", HV_CMD_METRICS, 0 },
    { "hold", HV_CMD_HOLD, BIT(M_LIMIT) },
    { "resume", HV_CMD_RESUME, 0 },
    { "resize", HV_CMD_RESIZE, BIT(M_SIZE) },
    { "check", HV_CMD_CHECK, BIT(M_RATE) },
};

static int take_bool(const json_t *v, const char *key, bool *out,
                     struct bs_err *err)
{
    if (!json_is_boolean(v))
        return bs_fail(err, EINVAL, "\"%s\" is true or false", key);
    *out = json_is_true(v);
    return 0;
}

static int take_patch(const json_t *v, struct hv_request *out,
                      struct bs_err *err)
{
    if (!json_is_string(v) ||
        bstore_digest_from_hex(&out->apply.patch, json_string_value(v)) < 0)
        return bs_fail(err, EINVAL, "\"patch\" is the digest of a patch, 64 "
                       "hexadecimal digits");
    return 0;
}

static int take_strategy(const json_t *v, struct hv_request *out,
                         struct bs_err *err)
{
    static const char *const names[] = {
        [HV_AUTO] = "auto", [HV_IN_PLACE] = "in-place", [HV_TOKEN] = "token",
        [HV_COPY] = "copy",
    };
    size_t i;

    for (i = 0; json_is_string(v) && i < N_ELEMS(names); i++)
        if (strcmp(json_string_value(v), names[i]) == 0) {
            out->apply.strategy = (enum hv_strategy)i;
            return 0;
        }
    return bs_fail(err, EINVAL, "\"strategy\" is \"auto\", \"in-place\", "
                   "\"token\" or \"copy\"");
}

static int take_names(const json_t *v, const char *key, struct hv_request *out,
                      struct bs_err *err)
{
    size_t i, n = json_array_size(v);

    if (!json_is_array(v) || n > HV_NAMES_MAX)
        return bs_fail(err, EINVAL, "\"%s\" is an array of at most %d strings",
                       key, HV_NAMES_MAX);
    out->names = calloc(n + 1, sizeof(*out->names));
    for (i = 0; out->names && i < n; i++) {
        const json_t *s = json_array_get(v, i);

        if (!json_is_string(s) || json_string_length(s) == 0)
            return bs_fail(err, EINVAL, "\"%s\" holds something that is no name",
                           key);
        out->names[i] = strdup(json_string_value(s));
        if (!out->names[i])
            return bs_fail(err, ENOMEM, "no memory");
        out->n_names++;
    }
    return out->names ? 0 : bs_fail(err, ENOMEM, "no memory");
}

static int take_limit(const json_t *v, struct hv_request *out,
                      struct bs_err *err)
{
    int max = out->cmd == HV_CMD_HOLD ? HOLD_MAX_S : LOG_MAX;

    if (!json_is_integer(v) || json_integer_value(v) < 1 ||
        json_integer_value(v) > max)
        return bs_fail(err, EINVAL, "\"limit\" is 1 to %d", max);
    out->limit = (size_t)json_integer_value(v);
    return 0;
}

static int take_bytes(const json_t *v, const char *key, uint64_t *out,
                      struct bs_err *err)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return bs_fail(err, EINVAL, "\"%s\" is a number of bytes", key);
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int take_what(const json_t *v, struct hv_request *out,
                     struct bs_err *err)
{
    const char *what = json_is_string(v) ? json_string_value(v) : "";

    out->of_check = strcmp(what, "check") == 0;
    if (!out->of_check && strcmp(what, "job") != 0)
        return bs_fail(err, EINVAL, "\"what\" is \"job\" or \"check\"");
    return 0;
}

static int take_member(const char *key, const json_t *v, unsigned may,
                       unsigned *seen, struct hv_request *out,
                       struct bs_err *err)
{
    unsigned m = 0;

    while (m < N_ELEMS(member_names) &&
           (!(may & BIT(m)) || strcmp(key, member_names[m]) != 0))
        m++;
    *seen |= m < N_ELEMS(member_names) ? BIT(m) : 0;
    switch (m) {
    case M_PATCH:
        return take_patch(v, out, err);
    case M_STRATEGY:
        return take_strategy(v, out, err);
    case M_DRY_RUN:
        return take_bool(v, key, &out->apply.dry_run, err);
    case M_RESTART:
        return take_bool(v, key, &out->apply.restart, err);
    case M_PATHS:
    case M_UNITS:
        return take_names(v, key, out, err);
    case M_LIMIT:
        return take_limit(v, out, err);
    case M_OFFSET:
        return take_bytes(v, key, &out->offset, err);
    case M_BYTES:
        out->has_bytes = true;
        return take_bytes(v, key, &out->bytes, err);
    case M_TOTALS:
        return take_bool(v, key, &out->totals, err);
    case M_SIZE:
        return take_bytes(v, key, &out->size_bytes, err);
    case M_RATE:
        if (json_integer_value(v) > HV_CHECK_RATE_MAX)
            return bs_fail(err, EINVAL, "\"rate\" is at most %lld",
                           HV_CHECK_RATE_MAX);
        return take_bytes(v, key, &out->rate_bytes, err);
    case M_WHAT:
        return take_what(v, out, err);
    default:
        return bs_fail(err, EINVAL, "this command has no member \"%.64s\"", key);
    }
}

int hv_request_decode(const json_t *obj, struct hv_request *out,
                      struct bs_err *err)
{
    const json_t *id = json_object_get(obj, "id"), *v;
    const char *name, *key;
    unsigned seen = 0, missing;
    size_t c;
    int r = 0;

    memset(out, 0, sizeof(*out));
    if (!json_is_integer(id))
        return bs_fail(err, EINVAL, "a request has an integer \"id\"");
    out->id = json_integer_value(id);
    name = json_string_value(json_object_get(obj, "cmd"));
    for (c = 0; name && c < N_ELEMS(commands); c++)
        if (strcmp(name, commands[c].name) == 0)
            break;
    if (!name || c == N_ELEMS(commands))
        return bs_fail(err, EINVAL, "a request has a known \"cmd\"");
    out->cmd = commands[c].cmd;
    out->limit = out->cmd == HV_CMD_MAP    ? HV_MAP_LIMIT
                 : out->cmd == HV_CMD_HOLD ? HOLD_DEFAULT_S
                                           : LOG_DEFAULT;
    out->apply.rollback = out->cmd == HV_CMD_ROLLBACK;
    out->rate_bytes = HV_CHECK_RATE;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
        if (strcmp(key, "id") == 0 || strcmp(key, "cmd") == 0)
            continue;
        r = take_member(key, v, commands[c].may, &seen, out, err);
        if (r < 0)
            break;
    }
    missing = commands[c].may & ~seen &
              (BIT(M_PATCH) | BIT(M_UNITS) | BIT(M_SIZE));
    if (r == 0 && missing)
        r = bs_fail(err, EINVAL, "\"%s\" is missing",
                    member_names[__builtin_ctz(missing)]);
    if (r < 0) {
        json_int_t keep = out->id;

        hv_request_fini(out);
        out->id = keep;
    }
    return r;
}

void hv_request_fini(struct hv_request *req)
{
    size_t i;

    for (i = 0; i < req->n_names; i++)
        free(req->names[i]);
    free(req->names);
    memset(req, 0, sizeof(*req));
}
