// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "manifest.h"

#define BAD(...) bs_fail(err, EBADMSG, "manifest: " __VA_ARGS__)

enum { EMPTY_OK = 1, LINES_OK = 2 };

/* Which element of which list a sentence is about. */
struct place {
    const char *list;
    uint32_t i;
};

static int check_text(const struct place *p, const char *field, const char *s,
                      size_t max, int how, struct bs_err *err)
{
    size_t len;

    if (!s)
        return BAD("%s %u: %s is missing", p->list, p->i, field);
    len = strlen(s);
    if (len == 0 && !(how & EMPTY_OK))
        return BAD("%s %u: %s is empty", p->list, p->i, field);
    if (len > max)
        return BAD("%s %u: %s has %zu bytes, at most %zu are allowed", p->list,
                   p->i, field, len, max);
    if (!(how & LINES_OK) && strchr(s, '\n'))
        return BAD("%s %u: %s holds a newline", p->list, p->i, field);
    return 0;
}

static int check_path(const struct place *p, const char *field, const char *s,
                      struct bs_err *err)
{
    const char *part;
    size_t len;
    int r;

    r = check_text(p, field, s, BSTORE_PATH_MAX - 1, 0, err);
    if (r < 0)
        return r;
    if (s[0] != '/' || !s[1])
        return BAD("%s %u: %s is not an absolute path below /", p->list, p->i,
                   field);
    for (part = s + 1;; part += len + 1) {
        len = strcspn(part, "/");
        if (len == 0 || (len == 1 && part[0] == '.') ||
            (len == 2 && part[0] == '.' && part[1] == '.'))
            return BAD("%s %u: %s has an empty, \".\" or \"..\" part", p->list,
                       p->i, field);
        if (len > 255)
            return BAD("%s %u: %s has a part of more than 255 bytes", p->list,
                       p->i, field);
        if (!part[len])
            return 0;
    }
}

static int check_group(const struct bstore_manifest *m, const struct place *p,
                       uint32_t group, struct bs_err *err)
{
    if (group >= m->n_groups)
        return BAD("%s %u: group is %u of %u", p->list, p->i, group,
                   m->n_groups);
    return 0;
}

/* ---- the head and the small lists ---------------------------------------- */

static int check_head(const struct bstore_manifest *m, struct bs_err *err)
{
    static const struct place top = { "patch", 0 };
    int r;

    r = check_text(&top, "name", m->name, MANIFEST_NAME_MAX, 0, err);
    if (r < 0)
        return r;
    if (m->serial > INT64_MAX)
        return BAD("serial is too large");
    if (m->from_size_bytes % 4096 || m->from_size_bytes == 0 ||
        m->from_size_bytes > MANIFEST_MAX_IMAGE)
        return BAD("from.bytes is no size of an image");
    if (m->to_size_bytes % 4096 || m->to_size_bytes == 0 ||
        m->to_size_bytes > MANIFEST_MAX_IMAGE)
        return BAD("to.bytes is no size of an image");
    if (m->pool_blks > MANIFEST_MAX_POOL_BLKS)
        return BAD("pool.blocks is too large");
    if (m->n_clusters > m->pool_blks)
        return BAD("pool.clusters exceeds pool.blocks");
    if (!m->reboot != !m->reboot_reason)
        return BAD("reboot has no reason, or a reason no reboot");
    if (m->reboot)
        return check_text(&top, "reboot", m->reboot_reason, MANIFEST_TEXT_MAX,
                          0, err);
    return 0;
}

static int check_package(const struct place *p, const struct bstore_package *k,
                         struct bs_err *err)
{
    int r;

    r = check_text(p, "package name", k->name, MANIFEST_WORD_MAX, 0, err);
    if (r == 0)
        r = check_text(p, "package arch", k->arch ? k->arch : "",
                       MANIFEST_WORD_MAX, EMPTY_OK, err);
    if (r == 0 && !k->old_version && !k->new_version)
        r = BAD("%s %u: package %s has no version", p->list, p->i, k->name);
    if (r == 0 && k->old_version)
        r = check_text(p, "package old", k->old_version, MANIFEST_WORD_MAX, 0,
                       err);
    if (r == 0 && k->new_version)
        r = check_text(p, "package new", k->new_version, MANIFEST_WORD_MAX, 0,
                       err);
    return r;
}

static int check_groups(const struct bstore_manifest *m, struct bs_err *err)
{
    struct place p = { "groups", 0 };
    uint32_t k;
    int r;

    if (m->n_groups > MANIFEST_MAX_GROUPS)
        return BAD("groups has %u elements", m->n_groups);
    for (; p.i < m->n_groups; p.i++) {
        const struct bstore_group *g = &m->groups[p.i];

        r = check_text(&p, "name", g->name, MANIFEST_WORD_MAX, 0, err);
        for (k = 0; r == 0 && k < g->n_packages; k++)
            r = check_package(&p, &g->packages[k], err);
        for (k = 0; r == 0 && k < g->n_requires; k++)
            if (g->requires[k] >= m->n_groups || g->requires[k] == p.i)
                r = BAD("groups %u: requires names group %u", p.i,
                        g->requires[k]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* NULL = absent; else whole lines with one newline at the end. */
static int check_stanza_text(const struct place *p, const char *field,
                             const char *s, struct bs_err *err)
{
    size_t len;
    int r;

    if (!s)
        return 0;
    r = check_text(p, field, s, MANIFEST_TEXT_MAX, LINES_OK, err);
    if (r < 0)
        return r;
    len = strlen(s);
    if (s[len - 1] != '\n' || len == 1 || s[len - 2] == '\n')
        return BAD("stanzas %u: %s does not end with one newline", p->i, field);
    return 0;
}

static int check_stanzas(const struct bstore_manifest *m, struct bs_err *err)
{
    struct place p = { "stanzas", 0 };
    int r;

    for (; p.i < m->n_stanzas; p.i++) {
        const struct bstore_stanza *s = &m->stanzas[p.i];

        r = check_path(&p, "file", s->file, err);
        if (r == 0)
            r = check_group(m, &p, s->group, err);
        if (r == 0)
            r = check_text(&p, "package", s->package, MANIFEST_WORD_MAX, 0,
                           err);
        if (r == 0)
            r = check_text(&p, "arch", s->arch ? s->arch : "",
                           MANIFEST_WORD_MAX, EMPTY_OK, err);
        if (r == 0 && !s->old_text && !s->new_text)
            r = BAD("stanzas %u: has neither old nor new", p.i);
        if (r == 0)
            r = check_stanza_text(&p, "old", s->old_text, err);
        if (r == 0)
            r = check_stanza_text(&p, "new", s->new_text, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_small_lists(const struct bstore_manifest *m,
                             struct bs_err *err)
{
    struct place p;
    int r = 0;

    p = (struct place){ "hooks", 0 };
    for (; r == 0 && p.i < m->n_hooks; p.i++) {
        r = check_text(&p, "name", m->hooks[p.i].name, MANIFEST_WORD_MAX, 0,
                       err);
        if (r == 0 && m->hooks[p.i].group != BSTORE_NO_GROUP)
            r = check_group(m, &p, m->hooks[p.i].group, err);
    }
    p = (struct place){ "units", 0 };
    for (; r == 0 && p.i < m->n_units; p.i++) {
        r = check_text(&p, "name", m->units[p.i].name, MANIFEST_WORD_MAX, 0,
                       err);
        if (r == 0)
            r = check_group(m, &p, m->units[p.i].group, err);
    }
    p = (struct place){ "left_out", 0 };
    for (; r == 0 && p.i < m->n_left_out; p.i++) {
        r = check_text(&p, "path", m->left_out[p.i].path, BSTORE_PATH_MAX - 1,
                       0, err);
        if (r == 0)
            r = check_text(&p, "reason", m->left_out[p.i].reason,
                           MANIFEST_TEXT_MAX, 0, err);
    }
    return r;
}

/* ---- operations ------------------------------------------------------------ */

static int check_xattrs(const struct place *p, const char *which,
                        const struct bstore_node *n, struct bs_err *err)
{
    uint32_t i;
    int r;

    if (n->n_xattrs > MANIFEST_MAX_XATTRS)
        return BAD("ops %u: %s.xattrs has %u elements", p->i, which,
                   n->n_xattrs);
    for (i = 0; i < n->n_xattrs; i++) {
        r = check_text(p, "xattr name", n->xattrs[i].name, MANIFEST_WORD_MAX,
                       0, err);
        if (r < 0)
            return r;
        if (i && strcmp(n->xattrs[i - 1].name, n->xattrs[i].name) >= 0)
            return BAD("ops %u: %s.xattrs is not sorted by name", p->i, which);
        if (n->xattrs[i].len > MANIFEST_XATTR_MAX)
            return BAD("ops %u: %s.xattrs: %s has %u bytes", p->i, which,
                       n->xattrs[i].name, n->xattrs[i].len);
    }
    return 0;
}

static int check_node(const struct place *p, const char *which,
                      const char *path, const struct bstore_node *n,
                      struct bs_err *err)
{
    bool device = n->type == BSTORE_CHAR || n->type == BSTORE_BLOCK;
    int r;

    if ((unsigned)n->type > BSTORE_FIFO)
        return BAD("ops %u: %s.type is unknown", p->i, which);
    if (n->mode > 07777)
        return BAD("ops %u: %s.mode is %o", p->i, which, n->mode);
    if (n->type != BSTORE_FILE && n->size_bytes)
        return BAD("ops %u: %s.size of what is no file", p->i, which);
    if (n->size_bytes > MANIFEST_MAX_IMAGE)
        return BAD("ops %u: %s.size is too large", p->i, which);
    if (!device && (n->rdev_major || n->rdev_minor))
        return BAD("ops %u: %s.rdev of what is no device", p->i, which);
    if ((n->type == BSTORE_SYMLINK) != (n->target != NULL))
        return BAD("ops %u: %s.target belongs to symbolic links", p->i, which);
    if (n->target) {
        r = check_text(p, "target", n->target, BSTORE_PATH_MAX - 1, 0, err);
        if (r < 0)
            return r;
    }
    if (n->link) {
        if (n->type == BSTORE_ABSENT || n->type == BSTORE_DIR)
            return BAD("ops %u: %s.link of what has no names", p->i, which);
        r = check_path(p, "link", n->link, err);
        if (r < 0)
            return r;
        if (strcmp(n->link, path) >= 0)
            return BAD("ops %u: %s.link is not the first name", p->i, which);
    }
    return check_xattrs(p, which, n, err);
}

static int check_extents(const struct bstore_manifest *m, const struct place *p,
                         const struct bstore_op *op, struct bs_err *err)
{
    uint64_t end = 0, limit = bs_align_up(op->old_node.size_bytes, 4096);
    uint32_t k;

    if (op->n_old_extents && op->old_node.type != BSTORE_FILE)
        return BAD("ops %u: old_extents of what was no file", p->i);
    for (k = 0; k < op->n_old_extents; k++) {
        const struct bstore_extent *x = &op->old_extents[k];

        if (x->bytes == 0 || x->file_off < end ||
            !bs_within(x->file_off, x->bytes, limit))
            return BAD("ops %u: old_extents %u is empty, out of order or "
                       "beyond the file", p->i, k);
        if (!bs_within(x->disk_off, x->bytes, m->from_size_bytes))
            return BAD("ops %u: old_extents %u is beyond the image", p->i, k);
        end = x->file_off + x->bytes;
    }
    return 0;
}

/* In place: the new bytes go block by block over the old ones. */
static int check_in_place(const struct place *p, const struct bstore_op *op,
                          struct bs_err *err)
{
    uint64_t end = 0;
    uint32_t k;

    if (!(op->flags & BSTORE_OP_CONTENT) ||
        op->old_node.type != BSTORE_FILE || op->old_node.size_bytes == 0 ||
        op->old_node.size_bytes != op->new_node.size_bytes)
        return BAD("ops %u: in_place needs content of the old size", p->i);
    for (k = 0; k < op->n_old_extents; k++) {
        const struct bstore_extent *x = &op->old_extents[k];

        if (x->file_off != end || x->file_off % 4096 || x->disk_off % 4096)
            return BAD("ops %u: in_place with old_extents %u not aligned or "
                       "after a hole", p->i, k);
        end = x->file_off + x->bytes;
    }
    if (end < op->old_node.size_bytes)
        return BAD("ops %u: in_place with old_extents short of the file", p->i);
    return 0;
}

static int check_content(const struct bstore_manifest *m, const struct place *p,
                         const struct bstore_op *op, struct bs_err *err)
{
    const struct bstore_node *o = &op->old_node, *n = &op->new_node;

    if (op->flags & BSTORE_OP_CONTENT) {
        if (n->type != BSTORE_FILE || n->link)
            return BAD("ops %u: pool_block of what has no content", p->i);
        if (!bs_within(op->pool_blk, bs_div_up(n->size_bytes, 4096),
                       m->pool_blks))
            return BAD("ops %u: pool_block is beyond the pool", p->i);
        return 0;
    }
    if (op->pool_blk)
        return BAD("ops %u: pool_block without content", p->i);
    if (n->type != BSTORE_FILE || n->link || n->size_bytes == 0)
        return 0;
    if (o->type != BSTORE_FILE || o->size_bytes != n->size_bytes ||
        !bstore_digest_eq(&o->digest, &n->digest))
        return BAD("ops %u: new content is in no pool block", p->i);
    return 0;
}

/* If the first name of a link set is an operation too, it is of the same kind
 * and holds the content. */
static int check_link(const struct bstore_manifest *m, const struct place *p,
                      const struct bstore_op *op, bool is_new,
                      struct bs_err *err)
{
    const struct bstore_node *n = is_new ? &op->new_node : &op->old_node, *t;
    const struct bstore_op *first;

    if (!n->link)
        return 0;
    first = bstore_manifest_find(m, n->link);
    if (!first)
        return 0;
    t = is_new ? &first->new_node : &first->old_node;
    if (t->type != n->type || t->link)
        return BAD("ops %u: %s.link names what is not the first name of its "
                   "kind", p->i, is_new ? "new" : "old");
    return 0;
}

/* No path passes through what an operation says is not a folder. */
static int check_ancestors(const struct bstore_manifest *m,
                           const struct place *p, const struct bstore_op *op,
                           struct bs_err *err)
{
    char path[BSTORE_PATH_MAX], *slash;
    const struct bstore_op *up;

    memcpy(path, op->path, strlen(op->path) + 1);
    while ((slash = strrchr(path, '/')) && slash != path) {
        *slash = '\0';
        up = bstore_manifest_find(m, path);
        if (!up)
            continue;
        if ((op->old_node.type != BSTORE_ABSENT &&
             up->old_node.type != BSTORE_DIR) ||
            (op->new_node.type != BSTORE_ABSENT &&
             up->new_node.type != BSTORE_DIR))
            return BAD("ops %u: path passes through what is no folder", p->i);
    }
    return 0;
}

static int check_op(const struct bstore_manifest *m, const struct place *p,
                    struct bs_err *err)
{
    const struct bstore_op *op = &m->ops[p->i];
    int r;

    r = check_path(p, "path", op->path, err);
    if (r == 0 && p->i && strcmp(m->ops[p->i - 1].path, op->path) >= 0)
        r = BAD("ops %u: path is not after the one before it", p->i);
    if (r == 0)
        r = check_group(m, p, op->group, err);
    if (r == 0 && op->flags & ~(uint32_t)(BSTORE_OP_CONTENT |
                                          BSTORE_OP_IN_PLACE |
                                          BSTORE_OP_CONFFILE))
        r = BAD("ops %u: unknown flags", p->i);
    if (r == 0 && op->old_node.type == BSTORE_ABSENT &&
        op->new_node.type == BSTORE_ABSENT)
        r = BAD("ops %u: has neither old nor new", p->i);
    if (r == 0)
        r = check_node(p, "old", op->path, &op->old_node, err);
    if (r == 0)
        r = check_node(p, "new", op->path, &op->new_node, err);
    if (r == 0)
        r = check_extents(m, p, op, err);
    if (r == 0)
        r = check_content(m, p, op, err);
    if (r == 0 && op->flags & BSTORE_OP_IN_PLACE)
        r = check_in_place(p, op, err);
    return r;
}

static int check_ops(const struct bstore_manifest *m, struct bs_err *err)
{
    struct place p = { "ops", 0 };
    int r = 0;

    for (; r == 0 && p.i < m->n_ops; p.i++)
        r = check_op(m, &p, err);
    /* Looking up needs all paths sorted. */
    for (p.i = 0; r == 0 && p.i < m->n_ops; p.i++) {
        r = check_link(m, &p, &m->ops[p.i], false, err);
        if (r == 0)
            r = check_link(m, &p, &m->ops[p.i], true, err);
        if (r == 0)
            r = check_ancestors(m, &p, &m->ops[p.i], err);
    }
    return r;
}

int bstore_manifest_check(const struct bstore_manifest *m, struct bs_err *err)
{
    int r;

    if (m->n_ops > BSTORE_MAX_OPS)
        return BAD("ops has %u elements", m->n_ops);
    if (m->n_stanzas > MANIFEST_MAX_LIST || m->n_hooks > MANIFEST_MAX_LIST ||
        m->n_units > MANIFEST_MAX_LIST || m->n_left_out > MANIFEST_MAX_LIST)
        return BAD("a list has more than %u elements", MANIFEST_MAX_LIST);
    r = check_head(m, err);
    if (r == 0)
        r = check_groups(m, err);
    if (r == 0)
        r = check_ops(m, err);
    if (r == 0)
        r = check_stanzas(m, err);
    if (r == 0)
        r = check_small_lists(m, err);
    return r;
}
