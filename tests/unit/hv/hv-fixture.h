// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-fixture.h: a store with a patch of three groups, a volume, and a guest on
 * it whose files are those of the golden image.
 *
 *   a  /lib/a1 (in place), /lib/a2 (grows), stanza
 *   b  needs a: /lib/b1 (in place), /etc/b.conf (conffile, grows), stanza
 *   c  /c/link (symlink), /c/new (added), /c/newdir (added), /c/old (removed) */
#ifndef TEST_HV_FIXTURE_H
#define TEST_HV_FIXTURE_H

#include <sys/eventfd.h>

#include "apply.h"
#include "guest.h"

enum { OP_C_LINK, OP_C_NEW, OP_C_NEWDIR, OP_C_OLD, OP_B_CONF, OP_A1, OP_A2, OP_B1,
       N_TEST_OPS };

struct hv_fix {
    struct fix fix;
    struct bstore_volume *v;
    struct bstore_digest patch;
    struct guest g;
    struct hv_link *link;
    int wake_fd;
    atomic_bool stop, cancel, committed;
    struct hv_env env;
    struct hv_apply_request req;
    struct bs_err err;
    json_t *report;
    uint8_t *pool;
    unsigned n_progress;
};

/* first block in the image, blocks, old size, new size */
static const struct {
    const char *path;
    uint32_t group, flags;
    uint64_t blk, old_size, new_size;
} hv_files[N_TEST_OPS] = {
    [OP_C_LINK] = { "/c/link", 2, 0, 0, 0, 0 },
    [OP_C_NEW] = { "/c/new", 2, BSTORE_OP_CONTENT, 0, 0, 5000 },
    [OP_C_NEWDIR] = { "/c/newdir", 2, 0, 0, 0, 0 },
    [OP_C_OLD] = { "/c/old", 2, 0, 100, 5000, 0 },
    [OP_B_CONF] = { "/etc/b.conf", 1, BSTORE_OP_CONTENT | BSTORE_OP_CONFFILE, 103,
                    300, 400 },
    [OP_A1] = { "/lib/a1", 0, BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE, 106, 8000,
                8000 },
    [OP_A2] = { "/lib/a2", 0, BSTORE_OP_CONTENT, 109, 4096, 9000 },
    [OP_B1] = { "/lib/b1", 1, BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE, 112, 4096,
                4096 },
};

static inline void hv_node(struct bstore_node *n, uint64_t size)
{
    n->type = size ? BSTORE_FILE : BSTORE_ABSENT;
    n->mode = 0644;
    n->size_bytes = size;
}

static inline void hv_special(struct bstore_op *op, unsigned i)
{
    if (i == OP_C_LINK) {
        op->old_node.type = op->new_node.type = BSTORE_SYMLINK;
        op->old_node.target = strdup("old");
        op->new_node.target = strdup("new");
        op->old_node.mode = op->new_node.mode = 0777;
    } else if (i == OP_C_NEWDIR) {
        op->new_node.type = BSTORE_DIR;
        op->new_node.mode = 0755;
    }
}

static inline void hv_make_patch(struct hv_fix *h)
{
    struct bstore_bundle_writer *w = NULL;
    struct bstore_manifest *m = calloc(1, sizeof(*m));
    struct bstore_seckey key;
    uint64_t at = 0, bytes, blks;
    char path[128];

    m->name = strdup("test patch");
    m->serial = 5;
    m->from = h->fix.image;
    bstore_digest_of(&m->to, "to", 2);
    m->from_size_bytes = m->to_size_bytes = (uint64_t)IMAGE_BLKS * BLK;
    m->n_groups = 3;
    m->groups = calloc(3, sizeof(*m->groups));
    for (unsigned g = 0; g < 3; g++)
        m->groups[g].name = strndup(&"abc"[g], 1);
    m->groups[1].n_requires = 1;
    m->groups[1].requires = calloc(1, sizeof(uint32_t));
    m->n_ops = N_TEST_OPS;
    m->ops = calloc(m->n_ops, sizeof(*m->ops));
    m->n_stanzas = 2;
    m->stanzas = calloc(2, sizeof(*m->stanzas));
    for (unsigned i = 0; i < 2; i++) {
        m->stanzas[i].file = strdup("/var/lib/dpkg/status");
        m->stanzas[i].group = i;
        m->stanzas[i].package = strndup(&"ab"[i], 1);
        m->stanzas[i].arch = strdup("amd64");
        m->stanzas[i].old_text = strdup("Package: x\nVersion: 1\n");
        m->stanzas[i].new_text = strdup("Package: x\nVersion: 2\n");
    }
    m->n_hooks = 2;
    m->hooks = calloc(2, sizeof(*m->hooks));
    m->hooks[0].group = BSTORE_NO_GROUP;
    m->hooks[0].name = strdup("ldconfig");
    m->hooks[1].group = 1;
    m->hooks[1].name = strdup("daemon-reload");
    h->pool = calloc(16, BLK);
    fill(h->pool, 16 * BLK, 77);
    snprintf(path, sizeof(path), "%s/hv.bundle", h->fix.dir);
    ok(bstore_bundle_create(path, BSTORE_CODEC_ZLIB, 1, &w, &err));
    for (unsigned i = 0; i < N_TEST_OPS; i++) {
        struct bstore_op *op = &m->ops[i];

        op->path = strdup(hv_files[i].path);
        op->group = hv_files[i].group;
        op->flags = hv_files[i].flags;
        hv_node(&op->old_node, hv_files[i].old_size);
        hv_node(&op->new_node, hv_files[i].new_size);
        hv_special(op, i);
        if (hv_files[i].old_size) {
            op->n_old_extents = 1;
            op->old_extents = calloc(1, sizeof(struct bstore_extent));
            op->old_extents[0] = (struct bstore_extent){
                0, hv_files[i].blk * BLK,
                bs_align_up(hv_files[i].old_size, BLK) };
            bstore_digest_of(&op->old_node.digest,
                             h->fix.golden + hv_files[i].blk * BLK,
                             hv_files[i].old_size);
        }
        if (!hv_files[i].new_size)
            continue;
        blks = bs_div_up(hv_files[i].new_size, BLK);
        memset(h->pool + at * BLK + hv_files[i].new_size, 0,
               blks * BLK - hv_files[i].new_size);
        bstore_digest_of(&op->new_node.digest, h->pool + at * BLK,
                         hv_files[i].new_size);
        ok(bstore_bundle_add(w, h->pool + at * BLK, (uint32_t)blks, NULL, 0, NULL,
                             0, &op->pool_blk, &err));
        ck_assert_uint_eq(op->pool_blk, at);
        at += blks;
    }
    snprintf(path, sizeof(path), "%s/k.key", h->fix.dir);
    ok(bstore_seckey_load(path, &key, &err));
    ok(bstore_bundle_finish(w, m, &key, &h->patch, &bytes, &err));
    bstore_bundle_writer_free(w);
    bstore_manifest_free(m);
    snprintf(path, sizeof(path), "%s/hv.bundle", h->fix.dir);
    ok(bstore_patch_import(h->fix.store, path, NULL, &h->patch, &err));
}

static inline void hv_progress(void *opaque, const char *stage, uint64_t done,
                               uint64_t total)
{
    struct hv_fix *h = opaque;

    ck_assert_ptr_nonnull(stage);
    ck_assert(total == 0 || done <= total);
    h->n_progress++;
}

/* The guest is on: its files are the image's. */
static inline void hv_guest_files(struct hv_fix *h)
{
    for (unsigned i = 0; i < N_TEST_OPS; i++) {
        struct gfile *f = g_find(&h->g, hv_files[i].path);

        f->mode = 0644;
        if (i == OP_C_LINK) {
            f->type = WIRE_SYMLINK;
            f->mode = 0777;
            strcpy(f->target, "old");
        } else if (hv_files[i].old_size) {
            f->type = WIRE_FILE;
            f->size = hv_files[i].old_size;
            f->n_extents = 1;
            f->e[0] = (struct wire_extent){ 0, hv_files[i].blk * BLK,
                                            bs_align_up(f->size, BLK) };
        }
    }
}

static inline void hv_init(struct hv_fix *h, unsigned limit_ms)
{
    memset(h, 0, sizeof(*h));
    fix_init(&h->fix);
    hv_make_patch(h);
    ok(bstore_volume_create(h->fix.store, "g", &h->fix.image,
                            (uint64_t)G_VOLUME_BLKS * BLK, &err));
    h->v = fix_open(&h->fix, "g");
    hv_guest_files(h);
    g_start(&h->g, h->fix.dir, h->v);
    h->wake_fd = eventfd(0, EFD_NONBLOCK);
    ck_assert_int_eq(hv_link_new(h->g.path, h->wake_fd, limit_ms, &h->link), 0);
    hv_link_set_flags(h->link, &h->stop, &h->cancel);
    hv_link_set_retry(h->link, 10);
    h->env = (struct hv_env){ .store = h->fix.store, .volume = h->v,
                              .link = h->link, .committed = &h->committed,
                              .agent_wait_ms = 2000, .progress = hv_progress,
                              .opaque = h };
    h->req.patch = h->patch;
}

static inline void hv_fini(struct hv_fix *h)
{
    json_decref(h->report);
    g_stop(&h->g);
    hv_link_free(h->link);
    close(h->wake_fd);
    bstore_volume_close(h->v);
    free(h->pool);
    fix_fini(&h->fix);
}

/* Runs the job; the report is h->report. */
static inline int hv_run(struct hv_fix *h)
{
    json_decref(h->report);
    h->report = NULL;
    memset(&h->err, 0, sizeof(h->err));
    atomic_store(&h->committed, false);
    return hv_apply_run(&h->env, &h->req, &h->report, &h->err);
}

#define run_ok(h)                                                              \
    do {                                                                       \
        int r__ = hv_run(h);                                                   \
        ck_assert_msg(r__ == 0, "%d: %s", r__, (h)->err.text);                 \
    } while (0)

static inline bool hv_is(const struct hv_fix *h, unsigned i, bool is_new)
{
    struct gfile *f = g_find((struct guest *)(uintptr_t)&h->g, hv_files[i].path);
    struct bstore_digest d, want;
    uint64_t at = 0, size = is_new ? hv_files[i].new_size : hv_files[i].old_size;

    if (i == OP_C_LINK)
        return strcmp(f->target, is_new ? "new" : "old") == 0;
    if (i == OP_C_NEWDIR)
        return (f->type == WIRE_DIR) == is_new;
    if (size == 0)
        return f->type == WIRE_ABSENT;
    if (f->type != WIRE_FILE || f->size != size)
        return false;
    for (unsigned k = 0; k < i; k++)
        at += bs_div_up(hv_files[k].new_size, BLK);
    bstore_digest_of(&want, is_new ? h->pool + at * BLK :
                                     h->fix.golden + hv_files[i].blk * BLK, size);
    g_digest((struct guest *)(uintptr_t)&h->g, f, &d);
    return bstore_digest_eq(&d, &want);
}

static inline void hv_all(const struct hv_fix *h, bool is_new)
{
    for (unsigned i = 0; i < N_TEST_OPS; i++)
        ck_assert_msg(hv_is(h, i, is_new), "%s is not %s", hv_files[i].path,
                      is_new ? "new" : "old");
}

static inline const char *hv_text(const struct hv_fix *h, const char *key)
{
    const char *s = json_string_value(json_object_get(h->report, key));

    return s ? s : "";
}

static inline json_int_t hv_files_by(const struct hv_fix *h, const char *method)
{
    return json_integer_value(json_object_get(
        json_object_get(json_object_get(h->report, "methods"), method), "files"));
}

static inline json_int_t hv_number(const struct hv_fix *h, const char *key)
{
    return json_integer_value(json_object_get(h->report, key));
}

static inline size_t hv_n_applied(const struct hv_fix *h)
{
    size_t n;

    bstore_volume_applied(h->v, &n);
    return n;
}

static inline enum bstore_applied_phase hv_phase(const struct hv_fix *h)
{
    const struct bstore_applied *list;
    size_t n;

    list = bstore_volume_applied(h->v, &n);
    ck_assert_uint_ge(n, 1);
    return list[n - 1].phase;
}

static inline void hv_lie(struct hv_fix *h, uint16_t to, unsigned nth,
                          enum g_lie lie, uint16_t code, uint32_t index)
{
    h->g.lie_to = to;
    h->g.lie = lie;
    h->g.lie_code = code;
    h->g.lie_index = index;
    atomic_store(&h->g.lie_nth, nth);
}

#endif
