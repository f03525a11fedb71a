// SPDX-License-Identifier: GPL-2.0-or-later
/* apply-impl.h: what the files apply*.c share. */
#ifndef HV_APPLY_IMPL_H
#define HV_APPLY_IMPL_H

#include "apply.h"
#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"

#define BLK 4096u
#define APPLY_ATTEMPTS 8
#define APPLY_MAX_DEVS 64u
#define APPLY_COMMIT_LIMIT_MS (15u * 60 * 1000) /* hooks: an initramfs, ... */

enum op_verdict {
    OP_UNKNOWN,
    OP_IS_FROM,
    OP_IS_TO,
    OP_META,    /* content is there, mode or owner are not yet */
    OP_KEPT,    /* a conffile that the guest changed: stays */
    OP_CHANGED, /* neither: a conflict */
};

/* What the guest has at one path, and what is done about it. */
struct op_work {
    uint64_t size;
    uint8_t type;  /* enum wire_node_type */
    uint8_t flags; /* enum wire_state_flags */
    uint8_t dev;   /* index in devs */
    uint8_t verdict;
    uint8_t method; /* enum wire_method; 0 = nothing to do, or impossible */
    uint8_t error;  /* enum wire_error of its staging */
    bool seen : 1;
    /* What the extents say, if the device's probe holds. */
    bool ext_old : 1;       /* all of it is served as the old content */
    bool ext_new : 1;       /* ... as the new content, from the pool */
    bool ext_same_blks : 1; /* on the very blocks it had in the image */
    bool ask_hash : 1;
    bool is_from : 1, is_to : 1; /* content, for sure */
    bool dist : 1;               /* goes beside a kept conffile */
    bool staged : 1;
    /* These live through all attempts. */
    bool no_in_place : 1, no_token : 1;
    uint8_t n_changes; /* how often it changed under our hands */
};

struct group_work {
    bool todo;     /* this job is about it */
    bool excluded; /* ... but it cannot be done */
    bool selected;
    char *reason, *path; /* why it is excluded; the first reason stays */
};

struct dev_work {
    uint64_t dev;
    uint32_t probe_op; /* WIRE_NO_INDEX: none can be used */
    bool probe_is_file;
    bool token_ok; /* a token came back as the block it names */
    bool map_ok;   /* ... and where the agent said that it is */
};

struct apply {
    const struct hv_env *env;
    const struct hv_apply_request *req;
    struct bstore_patch *patch;
    const struct bstore_manifest *m;
    struct bstore_image *from_image;
    bool image_is_from; /* the volume's image is the patch's "from" */

    /* The list as it is; entry: this patch's, or n_old. */
    struct bstore_applied *old;
    size_t n_old, entry;
    bool unfinished; /* that entry was never finished: look at everything */

    struct op_work *ops;
    struct group_work *groups;
    struct dev_work devs[APPLY_MAX_DEVS];
    unsigned n_devs;

    uint8_t job_id[16], secret[32];
    bool session_open, begun, committed;
    uint8_t *copy_buf; /* WIRE_DATA_MAX */

    /* Of the attempt under way. */
    uint32_t n_done, n_all; /* for progress */
    bool prepare_changed;
    uint32_t *refused; /* by LEASE or EVICT */
    uint32_t n_refused;

    /* For the report. */
    int64_t started_ms;
    json_t *conflicts, *kept, *notes, *users, *restarted;
    uint64_t cpu_us, written_bytes;
};

/* An attempt found that a group cannot be done, or that a method does not
 * work: begin again without it. */
#define APPLY_AGAIN (-ERESTART)

static inline const struct bstore_node *op_from(const struct apply *a, uint32_t i)
{
    return a->req->rollback ? &a->m->ops[i].new_node : &a->m->ops[i].old_node;
}

static inline const struct bstore_node *op_to(const struct apply *a, uint32_t i)
{
    return a->req->rollback ? &a->m->ops[i].old_node : &a->m->ops[i].new_node;
}

static inline bool bit_get(const uint8_t *bits, uint32_t i)
{
    return bits[i / 8] >> (i % 8) & 1;
}

static inline void bit_set(uint8_t *bits, uint32_t i, bool on)
{
    if (on)
        bits[i / 8] |= (uint8_t)(1u << (i % 8));
    else
        bits[i / 8] &= (uint8_t)~(1u << (i % 8));
}

void apply_progress(struct apply *a, const char *stage, uint64_t done,
                    uint64_t total);
/* Op i is no longer what it was when checked: look again, but not for ever.
 * Always APPLY_AGAIN. */
int apply_changed(struct apply *a, uint32_t i);
/* Leaves group g out; path may be NULL. */
void apply_exclude(struct apply *a, uint32_t g, const char *path,
                   const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The digest of a file node's content, also of a second name of an inode. */
const struct bstore_digest *apply_digest(const struct apply *a,
                                         const struct bstore_node *n, bool new_side);

/* apply-check.c: BEGIN ... HASHED: fills ops[].is_from, is_to, verdict. */
int apply_check(struct apply *a, struct bs_err *err);
/* apply-extents.c: what an OP_STATE's extents prove. */
void apply_judge_extents(struct apply *a, uint32_t i,
                         const struct wire_msg_op_state *m);
/* apply-plan.c: verdicts, methods, and the groups that go. */
void apply_plan(struct apply *a);
int apply_method(const struct apply *a, uint32_t i);
bool apply_runs(const struct apply *a, uint32_t i, struct wire_msg_stage *out);
/* apply-stage.c: SELECT ... PREPARE. */
int apply_stage(struct apply *a, struct bs_err *err);
int apply_bytes(struct apply *a, uint32_t i, uint64_t off, uint32_t n,
                uint8_t *buf);
/* apply-commit.c: the commit point and after. */
int apply_commit(struct apply *a, struct bs_err *err);
/* Reads "u32 n, n indexes" into a->refused; each must be an in-place op. */
int apply_take_refused(struct apply *a, struct wire_r *r, const char *what,
                       struct bs_err *err);
/* apply-report.c */
json_t *apply_report(struct apply *a, const char *outcome);

/* Copies of the volume's list, which a commit would free. */
int applied_copy(const struct bstore_applied *list, size_t n,
                 struct bstore_applied **out);
void applied_free(struct bstore_applied *list, size_t n);
bool applied_is_live(const struct bstore_applied *e);
/* The entry's job is done in the guest: takes the record to its final form;
 * *n may shrink. */
void applied_finish(struct bstore_applied *list, size_t *n, size_t i);

#endif
