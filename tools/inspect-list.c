// SPDX-License-Identifier: GPL-2.0-or-later
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"

static const char *const type_names[] = {
    [BSTORE_ABSENT] = "absent", [BSTORE_FILE] = "file",
    [BSTORE_DIR] = "directory", [BSTORE_SYMLINK] = "symlink",
    [BSTORE_CHAR] = "char device", [BSTORE_BLOCK] = "block device",
    [BSTORE_FIFO] = "fifo",
};

static const char *action(const struct bstore_op *op)
{
    const struct bstore_node *o = &op->old_node, *n = &op->new_node;

    if (o->type == BSTORE_ABSENT)
        return "add";
    if (n->type == BSTORE_ABSENT)
        return "remove";
    if ((op->flags & BSTORE_OP_CONTENT) || o->type != n->type || n->link ||
        n->type == BSTORE_SYMLINK)
        return "replace";
    return "metadata";
}

static json_t *op_json(const struct bstore_manifest *m,
                       const struct bstore_op *op)
{
    const struct bstore_node *n =
        op->new_node.type ? &op->new_node : &op->old_node;
    char hex[BSTORE_DIGEST_HEX];
    json_t *o;

    o = json_pack("{s:s,s:s,s:s,s:s,s:b,s:b,s:I}", "path", op->path, "action",
                  action(op), "type", type_names[n->type], "group",
                  m->groups[op->group].name, "in_place",
                  (op->flags & BSTORE_OP_IN_PLACE) != 0, "conffile",
                  (op->flags & BSTORE_OP_CONFFILE) != 0, "bytes",
                  (json_int_t)op->new_node.size_bytes);
    if (op->old_node.type == BSTORE_FILE)
        json_object_set_new(
            o, "old_digest",
            json_string(bstore_digest_to_hex(&op->old_node.digest, hex)));
    if (op->new_node.type == BSTORE_FILE)
        json_object_set_new(
            o, "new_digest",
            json_string(bstore_digest_to_hex(&op->new_node.digest, hex)));
    if (n->target)
        json_object_set_new(o, "target", json_string(n->target));
    if (n->link)
        json_object_set_new(o, "link", json_string(n->link));
    return o;
}

static void files_json(const struct inspect *x)
{
    json_t *files = json_array(), *left = json_array();
    uint32_t i;

    for (i = 0; i < x->m->n_ops; i++)
        json_array_append_new(files, op_json(x->m, &x->m->ops[i]));
    for (i = 0; i < x->m->n_left_out; i++)
        json_array_append_new(left,
                              json_pack("{s:s,s:s}", "path",
                                        x->m->left_out[i].path, "reason",
                                        x->m->left_out[i].reason));
    cmd_print_json(json_pack("{s:o,s:o}", "files", files, "left_out", left));
}

void inspect_files(const struct cmd_ctx *ctx, const struct inspect *x)
{
    static const char *const titles[] = { "WHAT", "TYPE", "SIZE", "HOW",
                                          "GROUP", "PATH" };
    static const char *const left_titles[] = { "LEFT OUT", "WHY" };
    const struct bstore_manifest *m = x->m;
    struct cmd_table *t;
    char size[24];
    uint32_t i;

    if (ctx->json) {
        files_json(x);
        return;
    }
    t = cmd_table_new(6, titles);
    for (i = 0; i < m->n_ops; i++) {
        const struct bstore_op *op = &m->ops[i];
        const struct bstore_node *n =
            op->new_node.type ? &op->new_node : &op->old_node;

        cmd_table_row(t, (const char *[]){
            action(op), n->link ? "hard link" : type_names[n->type],
            n->type == BSTORE_FILE ? cmd_size(n->size_bytes, size) : "-",
            op->flags & BSTORE_OP_IN_PLACE  ? "in place"
            : op->flags & BSTORE_OP_CONTENT ? "new file"
                                            : "-",
            m->groups[op->group].name, op->path });
    }
    cmd_table_print(t);
    if (m->n_left_out == 0)
        return;
    putchar('\n');
    t = cmd_table_new(2, left_titles);
    for (i = 0; i < m->n_left_out; i++)
        cmd_table_row(t, (const char *[]){ m->left_out[i].path,
                                           m->left_out[i].reason });
    cmd_table_print(t);
}

static json_t *group_json(const struct bstore_manifest *m,
                          const struct bstore_group *g, uint32_t n_ops)
{
    json_t *packages = json_array(), *requires = json_array();
    uint32_t i;

    for (i = 0; i < g->n_packages; i++) {
        const struct bstore_package *p = &g->packages[i];

        json_array_append_new(
            packages, json_pack("{s:s,s:s,s:s?,s:s?}", "name", p->name, "arch",
                                p->arch, "old", p->old_version, "new",
                                p->new_version));
    }
    for (i = 0; i < g->n_requires; i++)
        json_array_append_new(requires,
                              json_string(m->groups[g->requires[i]].name));
    return json_pack("{s:s,s:i,s:o,s:o}", "name", g->name, "ops", (int)n_ops,
                     "packages", packages, "requires", requires);
}

static void group_rows(struct cmd_table *t, const struct bstore_group *g,
                       uint32_t n_ops)
{
    char ops[24];
    uint32_t i;

    snprintf(ops, sizeof(ops), "%" PRIu32, n_ops);
    if (g->n_packages == 0)
        cmd_table_row(t, (const char *[]){ g->name, ops, "-", "-", "-" });
    for (i = 0; i < g->n_packages; i++) {
        const struct bstore_package *p = &g->packages[i];

        cmd_table_row(t, (const char *[]){
            i ? "" : g->name, i ? "" : ops, p->name,
            p->old_version ? p->old_version : "-",
            p->new_version ? p->new_version : "-" });
    }
}

void inspect_packages(const struct cmd_ctx *ctx, const struct inspect *x)
{
    static const char *const titles[] = { "GROUP", "PATHS", "PACKAGE", "OLD",
                                          "NEW" };
    const struct bstore_manifest *m = x->m;
    uint32_t *n_ops = calloc(m->n_groups + 1, sizeof(*n_ops)), i;
    struct cmd_table *t = ctx->json ? NULL : cmd_table_new(5, titles);
    json_t *groups = ctx->json ? json_array() : NULL;

    for (i = 0; n_ops && i < m->n_ops; i++)
        n_ops[m->ops[i].group]++;
    for (i = 0; n_ops && i < m->n_groups; i++) {
        if (ctx->json)
            json_array_append_new(groups,
                                  group_json(m, &m->groups[i], n_ops[i]));
        else
            group_rows(t, &m->groups[i], n_ops[i]);
    }
    if (ctx->json)
        cmd_print_json(json_pack("{s:o}", "groups", groups));
    else
        cmd_table_print(t);
    free(n_ops);
}
