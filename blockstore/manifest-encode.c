// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "manifest.h"

const char *const bstore_node_type_words[BSTORE_FIFO + 1] = {
    [BSTORE_FILE] = "file",     [BSTORE_DIR] = "dir",
    [BSTORE_SYMLINK] = "symlink", [BSTORE_CHAR] = "char",
    [BSTORE_BLOCK] = "block",   [BSTORE_FIFO] = "fifo",
};

/* jansson answers NULL or -1 when there is no memory, passes NULL on, and
 * says so once more at the end: objects are put together without a test at
 * each step, and `bad` collects. */
struct enc {
    bool bad;
};

static void put(struct enc *e, json_t *obj, const char *key, json_t *value)
{
    if (json_object_set_new(obj, key, value) < 0)
        e->bad = true;
}

static void append(struct enc *e, json_t *list, json_t *value)
{
    if (json_array_append_new(list, value) < 0)
        e->bad = true;
}

static void put_int(struct enc *e, json_t *obj, const char *key, uint64_t v)
{
    put(e, obj, key, json_integer((json_int_t)v));
}

static json_t *b64(const void *bytes, size_t len)
{
    size_t room = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(room);
    json_t *s = NULL;

    if (text) {
        sodium_bin2base64(text, room, bytes, len,
                          sodium_base64_VARIANT_ORIGINAL);
        s = json_string(text);
    }
    free(text);
    return s;
}

/* Newline and tab are the only control characters that stay readable. */
static bool is_plain(const char *s)
{
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && *s != '\n' && *s != '\t') ||
            *s == 0x7f)
            return false;
    return true;
}

static json_t *text(struct enc *e, const char *s)
{
    json_t *v = is_plain(s) ? json_string(s) : NULL; /* NULL: not UTF-8 */

    if (v)
        return v;
    v = json_object();
    put(e, v, "b64", b64(s, strlen(s)));
    return v;
}

static void put_text(struct enc *e, json_t *obj, const char *key, const char *s)
{
    if (s)
        put(e, obj, key, text(e, s));
}

static void put_digest(struct enc *e, json_t *obj, const char *key,
                       const struct bstore_digest *d)
{
    char hex[BSTORE_DIGEST_HEX];

    put(e, obj, key, json_string(bstore_digest_to_hex(d, hex)));
}

static json_t *enc_image(struct enc *e, const struct bstore_digest *d,
                         uint64_t bytes)
{
    json_t *o = json_object();

    put_digest(e, o, "image", d);
    put_int(e, o, "bytes", bytes);
    return o;
}

static json_t *enc_node(struct enc *e, const struct bstore_node *n)
{
    json_t *o = json_object(), *list;
    char mode[16];
    uint32_t i;

    put(e, o, "type", json_string(bstore_node_type_words[n->type]));
    snprintf(mode, sizeof(mode), "%04o", n->mode);
    put(e, o, "mode", json_string(mode));
    put_int(e, o, "uid", n->uid);
    put_int(e, o, "gid", n->gid);
    put(e, o, "mtime", json_integer(n->mtime));
    if (n->type == BSTORE_FILE) {
        put_int(e, o, "size", n->size_bytes);
        put_digest(e, o, "digest", &n->digest);
    }
    if (n->type == BSTORE_CHAR || n->type == BSTORE_BLOCK) {
        list = json_array();
        append(e, list, json_integer(n->rdev_major));
        append(e, list, json_integer(n->rdev_minor));
        put(e, o, "rdev", list);
    }
    put_text(e, o, "target", n->target);
    put_text(e, o, "link", n->link);
    if (n->n_xattrs == 0)
        return o;
    list = json_array();
    for (i = 0; i < n->n_xattrs; i++) {
        json_t *x = json_object();

        put_text(e, x, "name", n->xattrs[i].name);
        put(e, x, "value", b64(n->xattrs[i].value, n->xattrs[i].len));
        append(e, list, x);
    }
    put(e, o, "xattrs", list);
    return o;
}

static json_t *enc_op(struct enc *e, const struct bstore_op *op)
{
    json_t *o = json_object(), *list, *x;
    uint32_t i;

    put_text(e, o, "path", op->path);
    put_int(e, o, "group", op->group);
    if (op->flags & BSTORE_OP_CONTENT)
        put_int(e, o, "pool_block", op->pool_blk);
    if (op->flags & BSTORE_OP_IN_PLACE)
        put(e, o, "in_place", json_true());
    if (op->flags & BSTORE_OP_CONFFILE)
        put(e, o, "conffile", json_true());
    if (op->old_node.type != BSTORE_ABSENT)
        put(e, o, "old", enc_node(e, &op->old_node));
    if (op->new_node.type != BSTORE_ABSENT)
        put(e, o, "new", enc_node(e, &op->new_node));
    if (op->n_old_extents == 0)
        return o;
    list = json_array();
    for (i = 0; i < op->n_old_extents; i++) {
        x = json_array();
        append(e, x, json_integer((json_int_t)op->old_extents[i].file_off));
        append(e, x, json_integer((json_int_t)op->old_extents[i].disk_off));
        append(e, x, json_integer((json_int_t)op->old_extents[i].bytes));
        append(e, list, x);
    }
    put(e, o, "old_extents", list);
    return o;
}

static json_t *enc_group(struct enc *e, const struct bstore_group *g)
{
    json_t *o = json_object(), *list = json_array();
    uint32_t i;

    put_text(e, o, "name", g->name);
    for (i = 0; i < g->n_packages; i++) {
        const struct bstore_package *k = &g->packages[i];
        json_t *p = json_object();

        put_text(e, p, "name", k->name);
        put_text(e, p, "arch", k->arch);
        put_text(e, p, "old", k->old_version);
        put_text(e, p, "new", k->new_version);
        append(e, list, p);
    }
    put(e, o, "packages", list);
    list = json_array();
    for (i = 0; i < g->n_requires; i++)
        append(e, list, json_integer(g->requires[i]));
    put(e, o, "requires", list);
    return o;
}

static json_t *enc_stanza(struct enc *e, const struct bstore_stanza *s)
{
    json_t *o = json_object();

    put_text(e, o, "file", s->file);
    put_int(e, o, "group", s->group);
    put_text(e, o, "package", s->package);
    put_text(e, o, "arch", s->arch);
    put_text(e, o, "old", s->old_text);
    put_text(e, o, "new", s->new_text);
    return o;
}

static json_t *enc_in_group(struct enc *e, uint32_t group, const char *name)
{
    json_t *o = json_object();

    if (group != BSTORE_NO_GROUP)
        put_int(e, o, "group", group);
    put_text(e, o, "name", name);
    return o;
}

static void enc_lists(struct enc *e, json_t *top,
                      const struct bstore_manifest *m)
{
    json_t *list, *o;
    uint32_t i;

    list = json_array();
    for (i = 0; i < m->n_groups; i++)
        append(e, list, enc_group(e, &m->groups[i]));
    put(e, top, "groups", list);
    list = json_array();
    for (i = 0; i < m->n_ops; i++)
        append(e, list, enc_op(e, &m->ops[i]));
    put(e, top, "ops", list);
    list = json_array();
    for (i = 0; i < m->n_stanzas; i++)
        append(e, list, enc_stanza(e, &m->stanzas[i]));
    put(e, top, "stanzas", list);
    list = json_array();
    for (i = 0; i < m->n_hooks; i++)
        append(e, list, enc_in_group(e, m->hooks[i].group, m->hooks[i].name));
    put(e, top, "hooks", list);
    list = json_array();
    for (i = 0; i < m->n_units; i++)
        append(e, list, enc_in_group(e, m->units[i].group, m->units[i].name));
    put(e, top, "units", list);
    list = json_array();
    for (i = 0; i < m->n_left_out; i++) {
        o = json_object();
        put_text(e, o, "path", m->left_out[i].path);
        put_text(e, o, "reason", m->left_out[i].reason);
        append(e, list, o);
    }
    put(e, top, "left_out", list);
}

int bstore_manifest_encode(const struct bstore_manifest *m, char **text_out,
                           size_t *len, struct bs_err *err)
{
    struct enc e = { false };
    json_t *top, *pool;
    char *s = NULL;
    int r;

    r = bstore_manifest_check(m, err);
    if (r < 0)
        return r;
    top = json_object();
    put(&e, top, "format", json_string(MANIFEST_FORMAT));
    put_int(&e, top, "version", MANIFEST_VERSION);
    put(&e, top, "requires_features", json_array());
    put_text(&e, top, "name", m->name);
    put_int(&e, top, "serial", m->serial);
    put(&e, top, "created", json_integer(m->created));
    put(&e, top, "from", enc_image(&e, &m->from, m->from_size_bytes));
    put(&e, top, "to", enc_image(&e, &m->to, m->to_size_bytes));
    pool = json_object();
    put_int(&e, pool, "blocks", m->pool_blks);
    put_int(&e, pool, "clusters", m->n_clusters);
    put_digest(&e, pool, "index", &m->index_digest);
    put(&e, top, "pool", pool);
    put_text(&e, top, "reboot", m->reboot_reason);
    enc_lists(&e, top, m);
    if (!e.bad)
        s = json_dumps(top, JSON_COMPACT);
    json_decref(top);
    if (!s)
        return bs_fail(err, ENOMEM, "manifest: no memory");
    *len = strlen(s);
    if (*len > MANIFEST_RAW_MAX) {
        free(s);
        return bs_fail(err, EBADMSG, "manifest: has %zu bytes, more than %u",
                       *len, MANIFEST_RAW_MAX);
    }
    *text_out = s;
    return 0;
}
