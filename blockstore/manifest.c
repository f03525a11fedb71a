// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>

#include "bstore-manifest.h"

void bstore_node_fini(struct bstore_node *node)
{
    uint32_t i;

    for (i = 0; i < node->n_xattrs; i++) {
        free(node->xattrs[i].name);
        free(node->xattrs[i].value);
    }
    free(node->xattrs);
    free(node->target);
    free(node->link);
    memset(node, 0, sizeof(*node));
}

static void group_fini(struct bstore_group *g)
{
    uint32_t i;

    for (i = 0; i < g->n_packages; i++) {
        free(g->packages[i].name);
        free(g->packages[i].arch);
        free(g->packages[i].old_version);
        free(g->packages[i].new_version);
    }
    free(g->packages);
    free(g->requires);
    free(g->name);
}

static void op_fini(struct bstore_op *op)
{
    free(op->path);
    bstore_node_fini(&op->old_node);
    bstore_node_fini(&op->new_node);
    free(op->old_extents);
}

static void stanza_fini(struct bstore_stanza *s)
{
    free(s->file);
    free(s->package);
    free(s->arch);
    free(s->old_text);
    free(s->new_text);
}

void bstore_manifest_free(struct bstore_manifest *m)
{
    uint32_t i;

    if (!m)
        return;
    for (i = 0; i < m->n_groups; i++)
        group_fini(&m->groups[i]);
    for (i = 0; i < m->n_ops; i++)
        op_fini(&m->ops[i]);
    for (i = 0; i < m->n_stanzas; i++)
        stanza_fini(&m->stanzas[i]);
    for (i = 0; i < m->n_hooks; i++)
        free(m->hooks[i].name);
    for (i = 0; i < m->n_units; i++)
        free(m->units[i].name);
    for (i = 0; i < m->n_left_out; i++) {
        free(m->left_out[i].path);
        free(m->left_out[i].reason);
    }
    free(m->groups);
    free(m->ops);
    free(m->stanzas);
    free(m->hooks);
    free(m->units);
    free(m->left_out);
    free(m->name);
    free(m->reboot_reason);
    free(m);
}

static bool text_eq(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool xattrs_eq(const struct bstore_node *a, const struct bstore_node *b)
{
    uint32_t i;

    if (a->n_xattrs != b->n_xattrs)
        return false;
    for (i = 0; i < a->n_xattrs; i++) {
        const struct bstore_xattr *x = &a->xattrs[i], *y = &b->xattrs[i];

        if (strcmp(x->name, y->name) != 0 || x->len != y->len ||
            (x->len && memcmp(x->value, y->value, x->len) != 0))
            return false;
    }
    return true;
}

bool bstore_node_eq(const struct bstore_node *a, const struct bstore_node *b)
{
    if (a->type != b->type)
        return false;
    if (a->type == BSTORE_ABSENT)
        return true;
    if (a->type == BSTORE_FILE &&
        (a->size_bytes != b->size_bytes ||
         !bstore_digest_eq(&a->digest, &b->digest)))
        return false;
    return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor &&
           text_eq(a->target, b->target) && text_eq(a->link, b->link) &&
           xattrs_eq(a, b);
}

static int path_cmp(const void *key, const void *elem)
{
    return strcmp(key, ((const struct bstore_op *)elem)->path);
}

const struct bstore_op *bstore_manifest_find(const struct bstore_manifest *m,
                                             const char *path)
{
    if (!m->n_ops)
        return NULL;
    return bsearch(path, m->ops, m->n_ops, sizeof(*m->ops), path_cmp);
}
