// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "bs/bytes.h"
#include "content.h"
#include "groups.h"
#include "hooks.h"
#include "publish.h"
#include "util.h"

enum { NAME_MAX_BYTES = 127 }; /* blksub-patch(5) */

/* One image's digests are made by one thread; the caller's own thread waits,
 * tells how far they are, and asks whether to go on. */
struct hashing {
    pthread_t thread;
    struct pub_tree *t;
    const char *what;
    struct bs_err err;
    struct hash_pair *both;
};

struct hash_pair {
    struct hashing h[2];
    atomic_ullong done;
    atomic_bool stop;

    pthread_mutex_t lock; /* guards the field below */
    unsigned n_running;
    pthread_cond_t changed;
};

struct job {
    const struct publish_opts *opts;
    struct pub_tree *trees[2]; /* old, new */
    struct pub_policy *policy;
    struct pub_dpkg *dbs[2];
    struct pub_changes changes;
    struct pub_groups groups;
    struct bstore_manifest *m;
    struct bstore_bundle_writer *w;
    uint64_t *pool_blk; /* by change */
    uint64_t hashed;
};

static void *hash_thread(void *arg)
{
    struct hashing *h = arg;
    struct hash_pair *both = h->both;

    if (pub_tree_hash(h->t, h->what, &both->done, &both->stop, &h->err) < 0)
        atomic_store(&both->stop, true);
    pthread_mutex_lock(&both->lock);
    both->n_running--;
    pthread_cond_signal(&both->changed);
    pthread_mutex_unlock(&both->lock);
    return NULL;
}

/* true: all are through.  Wakes up now and then for the progress. */
static bool wait_locked(struct hash_pair *both)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_nsec += 100 * 1000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_nsec -= 1000000000;
        ts.tv_sec++;
    }
    if (both->n_running > 0)
        pthread_cond_timedwait(&both->changed, &both->lock, &ts);
    return both->n_running == 0;
}

static int hash_both(struct job *job, struct bs_err *err)
{
    const struct bstore_progress *p = &job->opts->progress;
    struct hash_pair both = { .lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER };
    uint64_t total = pub_tree_content_bytes(job->trees[0]) +
                     pub_tree_content_bytes(job->trees[1]);
    unsigned i, n;
    bool through = false, canceled = false;
    int r = 0;

    both.n_running = 2;
    for (n = 0; n < 2; n++) {
        both.h[n] = (struct hashing){ .t = job->trees[n], .both = &both,
                                      .what = n ? "new image" : "old image" };
        r = -pthread_create(&both.h[n].thread, NULL, hash_thread, &both.h[n]);
        if (r < 0) {
            atomic_store(&both.stop, true);
            bs_fail_errno(err, -r, "cannot start a thread");
            break;
        }
    }
    while (r == 0 && !through) {
        pthread_mutex_lock(&both.lock);
        through = wait_locked(&both);
        pthread_mutex_unlock(&both.lock);
        if (p->step && !canceled &&
            p->step(p->opaque, atomic_load(&both.done), total) != 0) {
            canceled = true;
            atomic_store(&both.stop, true);
        }
    }
    for (i = 0; i < n; i++)
        pthread_join(both.h[i].thread, NULL);
    if (r < 0)
        return r;
    /* The one that failed stopped the other. */
    for (i = 0; i < 2; i++)
        if (both.h[i].err.code && both.h[i].err.code != ECANCELED) {
            *err = both.h[i].err;
            return -err->code;
        }
    if (canceled)
        return bs_fail(err, ECANCELED, "stopped");
    job->hashed = total;
    return 0;
}

/* ---- the manifest ---- */

static int copy_node(struct bstore_node *to, const struct pub_tree *t, size_t at)
{
    const struct bstore_node *from;
    const char *link;
    uint32_t i;

    if (at == PUB_NONE)
        return 0;
    from = &t->entries[at].inode->node;
    *to = *from;
    to->target = NULL;
    to->xattrs = NULL;
    to->n_xattrs = 0;
    to->link = NULL;
    link = pub_link(t, at);
    if (link && !(to->link = strdup(link)))
        return -ENOMEM;
    if (from->target && !(to->target = strdup(from->target)))
        return -ENOMEM;
    if (from->n_xattrs == 0)
        return 0;
    to->xattrs = calloc(from->n_xattrs, sizeof(*to->xattrs));
    if (!to->xattrs)
        return -ENOMEM;
    for (i = 0; i < from->n_xattrs; i++) {
        struct bstore_xattr *x = &to->xattrs[i];

        to->n_xattrs++;
        x->len = from->xattrs[i].len;
        x->name = strdup(from->xattrs[i].name);
        x->value = malloc((size_t)x->len + 1);
        if (!x->name || !x->value)
            return -ENOMEM;
        memcpy(x->value, from->xattrs[i].value, x->len);
    }
    return 0;
}

static int fill_op(struct job *job, size_t i, struct bstore_op *op)
{
    const struct pub_changes *c = &job->changes;
    const struct pub_change *x = &c->v[i];
    const struct pub_inode *o = pub_old(c, x);
    int r;

    op->group = x->group;
    op->path = strdup(x->path);
    if (!op->path)
        return -ENOMEM;
    r = copy_node(&op->old_node, c->old_tree, x->old_at);
    if (r == 0)
        r = copy_node(&op->new_node, c->new_tree, x->new_at);
    if (r < 0)
        return r;
    if (pub_needs_content(c, x)) {
        op->flags |= BSTORE_OP_CONTENT;
        op->pool_blk = job->pool_blk[i];
    }
    if (pub_in_place(c, x))
        op->flags |= BSTORE_OP_IN_PLACE;
    if (pub_dpkg_is_conffile(job->dbs[0], x->path) ||
        pub_dpkg_is_conffile(job->dbs[1], x->path))
        op->flags |= BSTORE_OP_CONFFILE;
    if (o && o->node.type == BSTORE_FILE && o->n_extents > 0) {
        op->old_extents = calloc(o->n_extents, sizeof(*op->old_extents));
        if (!op->old_extents)
            return -ENOMEM;
        memcpy(op->old_extents, o->extents,
               o->n_extents * sizeof(*op->old_extents));
        op->n_old_extents = o->n_extents;
    }
    return 0;
}

static int add_left_out(struct bstore_manifest *m, const struct pub_change *x)
{
    struct bstore_left_out *l = &m->left_out[m->n_left_out++];

    l->path = pub_text_escape(x->path);
    l->reason = strdup(x->why_not);
    if (!l->path || !l->reason)
        return -ENOMEM;
    /* Escaped, a name may be four times as long. */
    if (strlen(l->path) >= BSTORE_PATH_MAX)
        l->path[BSTORE_PATH_MAX - 1] = 0;
    return 0;
}

static int make_ops(struct job *job)
{
    const struct pub_changes *c = &job->changes;
    struct bstore_manifest *m = job->m;
    size_t i;
    int r = 0;

    m->ops = calloc(c->n + 1, sizeof(*m->ops));
    m->left_out = calloc(c->n + 1, sizeof(*m->left_out));
    if (!m->ops || !m->left_out)
        return -ENOMEM;
    for (i = 0; i < c->n && r == 0; i++)
        r = c->v[i].why_not ? add_left_out(m, &c->v[i])
                            : fill_op(job, i, &m->ops[m->n_ops++]);
    return r;
}

/* "2026-11-18 0123456789ab to ba9876543210" */
static char *default_name(const struct publish_opts *opts, int64_t created)
{
    char a[BSTORE_DIGEST_HEX], b[BSTORE_DIGEST_HEX], day[32] = "", *name;
    time_t t = (time_t)created;
    struct tm tm;

    if (gmtime_r(&t, &tm))
        strftime(day, sizeof(day), "%Y-%m-%d", &tm);
    bstore_digest_to_hex(&opts->old_digest, a);
    bstore_digest_to_hex(&opts->new_digest, b);
    return asprintf(&name, "%s %.12s to %.12s", day, a, b) < 0 ? NULL : name;
}

static int image_size(int fd, uint64_t *out, struct bs_err *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return bs_fail_errno(err, errno, "image: cannot stat");
    *out = bs_align_up((uint64_t)st.st_size, 4096);
    return 0;
}

static int make_head(struct job *job, struct bs_err *err)
{
    const struct publish_opts *o = job->opts;
    struct bstore_manifest *m;
    int r;

    if (o->name && (!o->name[0] || strlen(o->name) > NAME_MAX_BYTES ||
                    !pub_text_ok(o->name)))
        return bs_fail(err, EINVAL, "a patch's name is one line of at most %d "
                       "bytes of UTF-8", NAME_MAX_BYTES);
    m = job->m = calloc(1, sizeof(*m));
    if (!m)
        return bs_fail_errno(err, ENOMEM, "publish");
    m->created = (int64_t)time(NULL);
    m->serial = o->serial ? o->serial : (uint64_t)m->created;
    m->name = o->name ? strdup(o->name) : default_name(o, m->created);
    if (!m->name)
        return bs_fail_errno(err, ENOMEM, "publish");
    m->from = o->old_digest;
    m->to = o->new_digest;
    r = image_size(o->old_fd, &m->from_size_bytes, err);
    return r < 0 ? r : image_size(o->new_fd, &m->to_size_bytes, err);
}

/* Groups and stanzas change hands. */
static void give_groups(struct job *job)
{
    struct bstore_manifest *m = job->m;
    struct pub_groups *g = &job->groups;

    m->groups = g->v;
    m->n_groups = g->n;
    m->stanzas = g->stanzas;
    m->n_stanzas = g->n_stanzas;
    g->v = NULL;
    g->n = 0;
    g->stanzas = NULL;
    g->n_stanzas = 0;
}

static void count(const struct job *job, struct publish_report *r)
{
    const struct bstore_manifest *m = job->m;
    uint32_t i;

    r->n_ops = m->n_ops;
    r->n_groups = m->n_groups;
    r->n_packages = job->groups.n_packages;
    r->n_left_out = m->n_left_out;
    for (i = 0; i < m->n_ops; i++) {
        const struct bstore_op *op = &m->ops[i];

        if (op->old_node.type == BSTORE_ABSENT)
            r->n_added++;
        else if (op->new_node.type == BSTORE_ABSENT)
            r->n_removed++;
        else if ((op->flags & BSTORE_OP_CONTENT) ||
                 op->old_node.type != op->new_node.type ||
                 op->old_node.type == BSTORE_SYMLINK || op->new_node.link)
            r->n_replaced++;
        else
            r->n_meta++;
        if (op->flags & BSTORE_OP_IN_PLACE)
            r->n_in_place++;
    }
}

static int read_images(struct job *job, struct bs_err *err)
{
    const struct publish_opts *o = job->opts;
    int r;

    r = pub_tree_open_image(o->old_fd, "old image", &job->trees[0], err);
    if (r == 0)
        r = pub_tree_open_image(o->new_fd, "new image", &job->trees[1], err);
    if (r == 0)
        r = pub_policy_load(o->policy_path, job->trees[1], &job->policy, err);
    if (r == 0)
        r = pub_dpkg_load(job->trees[0], &job->dbs[0], err);
    if (r < 0)
        return job->dbs[0] || !job->policy ? r : bs_prefix(err, r, "old image");
    r = pub_dpkg_load(job->trees[1], &job->dbs[1], err);
    if (r < 0)
        return bs_prefix(err, r, "new image");
    return hash_both(job, err);
}

static int plan(struct job *job, struct bs_err *err)
{
    int r;

    r = pub_compare(job->trees[0], job->trees[1], job->policy, &job->changes,
                    err);
    if (r == 0)
        r = pub_groups_make(&job->changes, job->dbs[0], job->dbs[1],
                            &job->groups, err);
    if (r < 0)
        return r;
    if (job->changes.n > BSTORE_MAX_OPS)
        return bs_fail(err, EINVAL, "the images differ in %zu paths, more than "
                       "a patch holds: have they anything in common?",
                       job->changes.n);
    job->pool_blk = calloc(job->changes.n + 1, sizeof(*job->pool_blk));
    if (!job->pool_blk)
        return bs_fail_errno(err, ENOMEM, "publish");
    return 0;
}

int publish_run(const struct publish_opts *opts, struct publish_report *report,
                struct bs_err *err)
{
    struct job job = { .opts = opts };
    struct publish_report rep = { 0 };
    struct bs_err e = { 0 };
    int r;

    /* What can fail at once comes before what takes long. */
    r = make_head(&job, &e);
    if (r == 0)
        r = bstore_bundle_create(opts->out_path, opts->codec, opts->level,
                                 &job.w, &e);
    if (r == 0)
        r = read_images(&job, &e);
    if (r == 0)
        r = plan(&job, &e);
    if (r == 0)
        r = pub_content_add(&job.changes, opts->codec, job.w, job.pool_blk,
                            &opts->progress, job.hashed, &rep.content_bytes,
                            &e);
    if (r < 0)
        goto out;
    give_groups(&job);
    r = make_ops(&job);
    if (r < 0) {
        bs_fail_errno(&e, -r, "publish");
        goto out;
    }
    r = pub_hooks_make(&job.changes, job.policy, job.dbs[1],
                       job.groups.of_package, job.m, &e);
    if (r < 0)
        goto out;
    count(&job, &rep);
    r = bstore_bundle_finish(job.w, job.m, opts->key, &rep.id,
                             &rep.bundle_bytes, &e);
    if (r < 0)
        goto out;
    *report = rep;
out:
    if (r < 0 && err)
        *err = e;
    bstore_bundle_writer_free(job.w);
    bstore_manifest_free(job.m);
    pub_groups_fini(&job.groups);
    pub_changes_fini(&job.changes);
    free(job.pool_blk);
    pub_dpkg_free(job.dbs[0]);
    pub_dpkg_free(job.dbs[1]);
    pub_policy_free(job.policy);
    pub_tree_close(job.trees[0]);
    pub_tree_close(job.trees[1]);
    return r;
}
