// SPDX-License-Identifier: GPL-2.0-or-later
/* JSON to struct bstore_manifest.  Here only the types of JSON are checked and
 * that each number fits its field; what the values mean is checked by
 * bstore_manifest_check() at the end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "manifest-json.h"
#include "manifest.h"

/* ---- nodes and operations ---------------------------------------------------- */

static int dec_mode(const struct mj *d, const json_t *obj, uint32_t *mode)
{
    const char *s = json_string_value(json_object_get(obj, "mode"));

    if (!s || strlen(s) != 4 || strspn(s, "01234567") != 4)
        return mj_bad(d, "mode", "is not four octal digits");
    *mode = (uint32_t)strtoul(s, NULL, 8);
    return 0;
}

static int dec_type(const struct mj *d, const json_t *obj,
                    enum bstore_node_type *type)
{
    const char *s = json_string_value(json_object_get(obj, "type"));
    int t;

    for (t = BSTORE_FILE; s && t <= BSTORE_FIFO; t++)
        if (strcmp(s, bstore_node_type_words[t]) == 0) {
            *type = (enum bstore_node_type)t;
            return 0;
        }
    return mj_bad(d, "type", "is unknown");
}

static int dec_rdev(const struct mj *d, const json_t *obj,
                    struct bstore_node *node)
{
    const json_t *v = json_object_get(obj, "rdev");
    json_int_t major = json_integer_value(json_array_get(v, 0));
    json_int_t minor = json_integer_value(json_array_get(v, 1));

    if (json_array_size(v) != 2 || !json_is_integer(json_array_get(v, 0)) ||
        !json_is_integer(json_array_get(v, 1)) || major < 0 || minor < 0 ||
        major > UINT32_MAX || minor > UINT32_MAX)
        return mj_bad(d, "rdev", "is no pair of device numbers");
    node->rdev_major = (uint32_t)major;
    node->rdev_minor = (uint32_t)minor;
    return 0;
}

static int dec_xattrs(const struct mj *d, const json_t *obj,
                      struct bstore_node *node)
{
    const json_t *list;
    uint32_t i;
    int r;

    r = mj_list(d, obj, "xattrs", MANIFEST_MAX_XATTRS, sizeof(*node->xattrs),
                &list, &node->xattrs, &node->n_xattrs);
    for (i = 0; r == 0 && i < node->n_xattrs; i++) {
        const json_t *x = json_array_get(list, i);
        struct bstore_xattr *a = &node->xattrs[i];
        size_t len = 0;

        r = mj_text(d, x, "name", 0, &a->name);
        if (r == 0)
            r = mj_bytes(d, "xattrs", json_object_get(x, "value"), &a->value,
                         &len);
        if (r == 0 && len > MANIFEST_XATTR_MAX)
            r = mj_bad(d, "xattrs", "has a value that is too large");
        a->len = (uint32_t)len;
    }
    return r;
}

static int dec_node(struct mj *d, const json_t *op, const char *key,
                    const char *sub, struct bstore_node *node)
{
    const json_t *obj = json_object_get(op, key);
    int r;

    if (!obj)
        return 0; /* absent */
    if (!json_is_object(obj))
        return mj_bad(d, key, "is no object");
    d->sub = sub;
    r = dec_type(d, obj, &node->type);
    if (r == 0)
        r = dec_mode(d, obj, &node->mode);
    if (r == 0)
        r = mj_u32(d, obj, "uid", 0, &node->uid);
    if (r == 0)
        r = mj_u32(d, obj, "gid", 0, &node->gid);
    if (r == 0)
        r = mj_i64(d, obj, "mtime", &node->mtime);
    if (r == 0 && node->type == BSTORE_FILE)
        r = mj_u64(d, obj, "size", MANIFEST_MAX_IMAGE, 0, &node->size_bytes);
    if (r == 0 && node->type == BSTORE_FILE)
        r = mj_digest(d, obj, "digest", &node->digest);
    if (r == 0 && (node->type == BSTORE_CHAR || node->type == BSTORE_BLOCK))
        r = dec_rdev(d, obj, node);
    if (r == 0)
        r = mj_text(d, obj, "target", MJ_OPTIONAL, &node->target);
    if (r == 0)
        r = mj_text(d, obj, "link", MJ_OPTIONAL, &node->link);
    if (r == 0)
        r = dec_xattrs(d, obj, node);
    d->sub = "";
    return r;
}

static int dec_extents(const struct mj *d, const json_t *obj,
                       struct bstore_op *op)
{
    const json_t *list;
    uint32_t i, k;
    int r;

    r = mj_list(d, obj, "old_extents", MANIFEST_MAX_LIST,
                sizeof(*op->old_extents), &list, &op->old_extents,
                &op->n_old_extents);
    for (i = 0; r == 0 && i < op->n_old_extents; i++) {
        const json_t *x = json_array_get(list, i);
        uint64_t v[3];

        if (json_array_size(x) != 3)
            return mj_bad(d, "old_extents", "has an element that is no triple");
        for (k = 0; k < 3; k++) {
            const json_t *num = json_array_get(x, k);

            if (!json_is_integer(num) || json_integer_value(num) < 0)
                return mj_bad(d, "old_extents",
                              "holds what is no integer >= 0");
            v[k] = (uint64_t)json_integer_value(num);
        }
        op->old_extents[i] = (struct bstore_extent){ v[0], v[1], v[2] };
    }
    return r;
}

static int dec_op(struct mj *d, const json_t *obj, struct bstore_op *op)
{
    bool in_place, conffile;
    int r;

    r = mj_text(d, obj, "path", 0, &op->path);
    if (r == 0)
        r = mj_u32(d, obj, "group", 0, &op->group);
    if (r == 0)
        r = mj_u64(d, obj, "pool_block", MANIFEST_MAX_POOL_BLKS, MJ_OPTIONAL,
                   &op->pool_blk);
    if (r == 0 && json_object_get(obj, "pool_block"))
        op->flags |= BSTORE_OP_CONTENT;
    if (r == 0)
        r = mj_bool(d, obj, "in_place", &in_place);
    if (r == 0 && in_place)
        op->flags |= BSTORE_OP_IN_PLACE;
    if (r == 0)
        r = mj_bool(d, obj, "conffile", &conffile);
    if (r == 0 && conffile)
        op->flags |= BSTORE_OP_CONFFILE;
    if (r == 0)
        r = dec_node(d, obj, "old", "old.", &op->old_node);
    if (r == 0)
        r = dec_node(d, obj, "new", "new.", &op->new_node);
    if (r == 0)
        r = dec_extents(d, obj, op);
    return r;
}

/* ---- groups and the small lists ------------------------------------------------ */

static int dec_group(const struct mj *d, const json_t *obj,
                     struct bstore_group *g)
{
    const json_t *list;
    uint32_t i;
    int r;

    r = mj_text(d, obj, "name", 0, &g->name);
    if (r == 0)
        r = mj_list(d, obj, "packages", MANIFEST_MAX_LIST, sizeof(*g->packages),
                    &list, &g->packages, &g->n_packages);
    for (i = 0; r == 0 && i < g->n_packages; i++) {
        const json_t *x = json_array_get(list, i);
        struct bstore_package *k = &g->packages[i];

        r = mj_text(d, x, "name", 0, &k->name);
        if (r == 0)
            r = mj_text(d, x, "arch", MJ_OPTIONAL, &k->arch);
        if (r == 0)
            r = mj_text(d, x, "old", MJ_OPTIONAL, &k->old_version);
        if (r == 0)
            r = mj_text(d, x, "new", MJ_OPTIONAL, &k->new_version);
    }
    if (r == 0)
        r = mj_list(d, obj, "requires", MANIFEST_MAX_GROUPS,
                    sizeof(*g->requires), &list, &g->requires, &g->n_requires);
    for (i = 0; r == 0 && i < g->n_requires; i++) {
        const json_t *x = json_array_get(list, i);

        if (!json_is_integer(x) || json_integer_value(x) < 0 ||
            json_integer_value(x) >= MANIFEST_MAX_GROUPS)
            r = mj_bad(d, "requires", "holds what is no group");
        else
            g->requires[i] = (uint32_t)json_integer_value(x);
    }
    return r;
}

static int dec_stanza(const struct mj *d, const json_t *obj,
                      struct bstore_stanza *s)
{
    int r;

    r = mj_text(d, obj, "file", 0, &s->file);
    if (r == 0)
        r = mj_u32(d, obj, "group", 0, &s->group);
    if (r == 0)
        r = mj_text(d, obj, "package", 0, &s->package);
    if (r == 0)
        r = mj_text(d, obj, "arch", MJ_OPTIONAL, &s->arch);
    if (r == 0)
        r = mj_text(d, obj, "old", MJ_OPTIONAL, &s->old_text);
    if (r == 0)
        r = mj_text(d, obj, "new", MJ_OPTIONAL, &s->new_text);
    return r;
}

static int dec_groups(struct mj *d, const json_t *top,
                      struct bstore_manifest *m)
{
    const json_t *list;
    int r;

    r = mj_list(d, top, "groups", MANIFEST_MAX_GROUPS, sizeof(*m->groups),
                &list, &m->groups, &m->n_groups);
    d->list = "groups";
    for (d->i = 0; r == 0 && d->i < m->n_groups; d->i++)
        r = dec_group(d, json_array_get(list, d->i), &m->groups[d->i]);
    d->list = NULL;
    return r;
}

static int dec_ops(struct mj *d, const json_t *top, struct bstore_manifest *m)
{
    const json_t *list;
    int r;

    r = mj_list(d, top, "ops", BSTORE_MAX_OPS, sizeof(*m->ops), &list, &m->ops,
                &m->n_ops);
    d->list = "ops";
    for (d->i = 0; r == 0 && d->i < m->n_ops; d->i++)
        r = dec_op(d, json_array_get(list, d->i), &m->ops[d->i]);
    d->list = NULL;
    return r;
}

static int dec_stanzas(struct mj *d, const json_t *top,
                       struct bstore_manifest *m)
{
    const json_t *list;
    int r;

    r = mj_list(d, top, "stanzas", MANIFEST_MAX_LIST, sizeof(*m->stanzas),
                &list, &m->stanzas, &m->n_stanzas);
    d->list = "stanzas";
    for (d->i = 0; r == 0 && d->i < m->n_stanzas; d->i++)
        r = dec_stanza(d, json_array_get(list, d->i), &m->stanzas[d->i]);
    d->list = NULL;
    return r;
}

static int dec_hooks_and_units(struct mj *d, const json_t *top,
                               struct bstore_manifest *m)
{
    const json_t *list, *x;
    int r;

    r = mj_list(d, top, "hooks", MANIFEST_MAX_LIST, sizeof(*m->hooks), &list,
                &m->hooks, &m->n_hooks);
    d->list = "hooks";
    for (d->i = 0; r == 0 && d->i < m->n_hooks; d->i++) {
        x = json_array_get(list, d->i);
        m->hooks[d->i].group = BSTORE_NO_GROUP;
        r = mj_u32(d, x, "group", MJ_OPTIONAL, &m->hooks[d->i].group);
        if (r == 0)
            r = mj_text(d, x, "name", 0, &m->hooks[d->i].name);
    }
    d->list = NULL;
    if (r == 0)
        r = mj_list(d, top, "units", MANIFEST_MAX_LIST, sizeof(*m->units),
                    &list, &m->units, &m->n_units);
    d->list = "units";
    for (d->i = 0; r == 0 && d->i < m->n_units; d->i++) {
        x = json_array_get(list, d->i);
        r = mj_u32(d, x, "group", 0, &m->units[d->i].group);
        if (r == 0)
            r = mj_text(d, x, "name", 0, &m->units[d->i].name);
    }
    d->list = NULL;
    return r;
}

static int dec_left_out(struct mj *d, const json_t *top,
                        struct bstore_manifest *m)
{
    const json_t *list, *x;
    int r;

    r = mj_list(d, top, "left_out", MANIFEST_MAX_LIST, sizeof(*m->left_out),
                &list, &m->left_out, &m->n_left_out);
    d->list = "left_out";
    for (d->i = 0; r == 0 && d->i < m->n_left_out; d->i++) {
        x = json_array_get(list, d->i);
        r = mj_text(d, x, "path", 0, &m->left_out[d->i].path);
        if (r == 0)
            r = mj_text(d, x, "reason", 0, &m->left_out[d->i].reason);
    }
    d->list = NULL;
    return r;
}

/* ---- the top object -------------------------------------------------------------- */

static int dec_format(const struct mj *d, const json_t *top)
{
    const char *s = json_string_value(json_object_get(top, "format"));
    const json_t *features = json_object_get(top, "requires_features");
    uint64_t version;
    int r;

    if (!s || strcmp(s, MANIFEST_FORMAT) != 0)
        return mj_bad(d, "format", "is not \"" MANIFEST_FORMAT "\"");
    r = mj_u64(d, top, "version", INT64_MAX, 0, &version);
    if (r < 0)
        return r;
    if (version != MANIFEST_VERSION)
        return bs_fail(d->err, ENOTSUP, "manifest: version is %ju, not %d",
                       (uintmax_t)version, MANIFEST_VERSION);
    if (!json_is_array(features))
        return mj_bad(d, "requires_features", "is no list");
    if (json_array_size(features) == 0)
        return 0;
    s = json_string_value(json_array_get(features, 0));
    if (!s)
        return mj_bad(d, "requires_features", "holds what is no text");
    return bs_fail(d->err, ENOTSUP,
                   "manifest: requires_features names the unknown %.64s", s);
}

static int dec_image(struct mj *d, const json_t *top, const char *key,
                     const char *sub, struct bstore_digest *digest,
                     uint64_t *bytes)
{
    const json_t *obj;
    int r;

    r = mj_object(d, top, key, &obj);
    if (r < 0)
        return r;
    d->sub = sub;
    r = mj_digest(d, obj, "image", digest);
    if (r == 0)
        r = mj_u64(d, obj, "bytes", MANIFEST_MAX_IMAGE, 0, bytes);
    d->sub = "";
    return r;
}

static int dec_pool(struct mj *d, const json_t *top, struct bstore_manifest *m)
{
    const json_t *obj;
    int r;

    r = mj_object(d, top, "pool", &obj);
    if (r < 0)
        return r;
    d->sub = "pool.";
    r = mj_u64(d, obj, "blocks", MANIFEST_MAX_POOL_BLKS, 0, &m->pool_blks);
    if (r == 0)
        r = mj_u32(d, obj, "clusters", 0, &m->n_clusters);
    if (r == 0)
        r = mj_digest(d, obj, "index", &m->index_digest);
    d->sub = "";
    return r;
}

static int dec_head(struct mj *d, const json_t *top, struct bstore_manifest *m)
{
    int r;

    r = dec_format(d, top);
    if (r == 0)
        r = mj_text(d, top, "name", 0, &m->name);
    if (r == 0)
        r = mj_u64(d, top, "serial", INT64_MAX, 0, &m->serial);
    if (r == 0)
        r = mj_i64(d, top, "created", &m->created);
    if (r == 0)
        r = dec_image(d, top, "from", "from.", &m->from, &m->from_size_bytes);
    if (r == 0)
        r = dec_image(d, top, "to", "to.", &m->to, &m->to_size_bytes);
    if (r == 0)
        r = dec_pool(d, top, m);
    if (r == 0)
        r = mj_text(d, top, "reboot", MJ_OPTIONAL, &m->reboot_reason);
    if (r == 0)
        m->reboot = m->reboot_reason != NULL;
    return r;
}

int bstore_manifest_decode(const char *text, size_t len,
                           struct bstore_manifest **out, struct bs_err *err)
{
    struct mj d = { .err = err, .sub = "" };
    struct bstore_manifest *m = NULL;
    json_error_t jerr;
    json_t *top;
    int r;

    if (len > MANIFEST_RAW_MAX)
        return bs_fail(err, EBADMSG, "manifest: has %zu bytes, more than %u",
                       len, MANIFEST_RAW_MAX);
    top = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);
    if (!top)
        return bs_fail(err, EBADMSG, "manifest: is no JSON: %s in line %d",
                       jerr.text, jerr.line);
    r = mj_no_memory(&d);
    m = calloc(1, sizeof(*m));
    if (!m)
        goto out;
    r = dec_head(&d, top, m);
    if (r == 0)
        r = dec_groups(&d, top, m);
    if (r == 0)
        r = dec_ops(&d, top, m);
    if (r == 0)
        r = dec_stanzas(&d, top, m);
    if (r == 0)
        r = dec_hooks_and_units(&d, top, m);
    if (r == 0)
        r = dec_left_out(&d, top, m);
    if (r == 0)
        r = bstore_manifest_check(m, err);
    if (r < 0)
        goto out;
    *out = m;
    m = NULL; /* handed over */
out:
    json_decref(top);
    bstore_manifest_free(m);
    return r;
}
