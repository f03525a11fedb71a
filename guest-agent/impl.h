/* SPDX-License-Identifier: GPL-2.0-or-later */
/* impl.h: what the files of the agent share; seen by this folder only.
 *
 * One process, one thread, one channel, one job at a time.  Requests are
 * handled one after the other to the end; nothing here waits without a limit.
 *
 * Invariants
 *  (1) Nothing is put over a path of the guest before the journal holds the
 *      mark that allows it: a hidden file not before the job's records are
 *      durable, a path not before the COMMITTING mark is.
 *  (2) Hidden names follow from job id and op index alone, so what may have to
 *      be undone is known without looking through folders.
 *  (3) Each step of commit and of undo may be done again without harm. */
#ifndef AGENT_IMPL_H
#define AGENT_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "blksub-wire.h"

#ifndef BLKSUB_VERSION
#define BLKSUB_VERSION "0"
#endif

#define AGENT_BLK 4096u
#define AGENT_MAX_OPS (1u << 20)
#define AGENT_MAX_GROUPS (1u << 20)
#define AGENT_MAX_STANZAS (1u << 17)
#define AGENT_MAX_HOOKS 64u
#define AGENT_MAX_NOTES 256u
#define AGENT_JOB_BYTES_MAX (512ull << 20) /* of OP and STANZA payloads */

#define N_ELEMS(a) (sizeof(a) / sizeof((a)[0]))

struct agent;

/* ---- msg.c: errors, answers, the log ---- */

/* Why a request failed: an errno (msg.c turns it into an enum wire_error),
 * the op it is about and one sentence. */
struct agent_err {
    int code; /* positive errno */
    uint32_t index;
    char text[512];
};

/* Fills err (may be NULL) and returns -code. */
int agent_fail(struct agent_err *err, int code, uint32_t index, const char *fmt,
               ...) __attribute__((format(printf, 4, 5)));
void agent_log(const struct agent *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* As agent_log, with --verbose only. */
void agent_debug(const struct agent *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Answers of the request in hand (a->seq).  agent_reply() lends a writer over
 * the agent's one output buffer, agent_answer() sends what it holds. */
struct wire_w *agent_reply(struct agent *a);
void agent_answer(struct agent *a, uint16_t type);
void agent_answer_ok(struct agent *a);
void agent_answer_index(struct agent *a, uint16_t type, uint32_t index);
void agent_answer_error(struct agent *a, const struct agent_err *err);
/* At most one a second is sent; done == total always. */
void agent_progress(struct agent *a, uint32_t done, uint32_t total,
                    const char *text);

/* What the admin should read, sent with COMMITTED. */
struct agent_notes {
    char *text[AGENT_MAX_NOTES];
    uint32_t n;
    bool full;
};
void agent_note(struct agent *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void agent_notes_clear(struct agent_notes *notes);

/* ---- xen-console.c ---- */
/* The PV console of that name, raw and non-blocking; or negative errno, -ENOENT
 * where there is none. */
int agent_open_xen_console(const char *name);

/* ---- channel.c ---- */
struct agent_chan {
    const char *path;
    int fd;
    bool is_socket;
    bool lost;     /* host is gone; set by a failed send or read */
    bool synced;   /* false: drop bytes up to the next valid HELLO */
    uint8_t *buf;  /* one frame and what follows it */
    size_t len;
};

int agent_chan_init(struct agent_chan *c, const char *path);
void agent_chan_fini(struct agent_chan *c);
/* Waits until the channel is open and a host is there. */
int agent_chan_wait(struct agent_chan *c);
/* Next whole frame: 1 and *f, *payload (lent until the next call); 0 when the
 * host went away; -EINTR when a signal came.  *used, 0 at first, is what the
 * call before left to be dropped. */
int agent_chan_read(struct agent_chan *c, struct wire_frame *f,
                    const uint8_t **payload, size_t *used);
/* The frame at the start of the bytes held: 1 and its length in *used, or 0
 * when more bytes are needed.  Drops what is malformed. */
int agent_chan_take(struct agent_chan *c, struct wire_frame *f,
                    const uint8_t **payload, size_t *used);
int agent_chan_send(struct agent_chan *c, uint16_t type, uint32_t seq,
                    const void *payload, uint32_t len);

/* ---- path.c: names below the root ---- */

/* Opens the folder that holds path (O_PATH), links followed but never out of
 * the root; *name is the last component, inside path. */
int agent_open_parent(struct agent *a, const char *path, const char **name);
/* The nearest ancestor folder of path that exists. */
int agent_open_ancestor(struct agent *a, const char *path);
/* Opens a regular file or a folder for reading, nothing else: -ESTALE. Never
 * follows a link in the last component, never waits for a lease. */
int agent_open_file(struct agent *a, const char *path);
int agent_open_file_at(int dirfd, const char *name);
int agent_lstat(struct agent *a, const char *path, struct stat *st);
#define AGENT_HIDDEN_NAME 48
void agent_hidden_name(const struct agent *a, uint32_t index,
                       char out[AGENT_HIDDEN_NAME]);

/* ---- ops.c: the job's tables ---- */

/* What stood at a path when OP_STATE was answered. */
struct agent_ident {
    uint8_t type; /* enum wire_node_type */
    uint64_t ino, size;
    int64_t ctime_s;
    uint32_t ctime_ns;
};

struct agent_op {
    uint8_t *payload; /* of the OP message, owned; NULL = not sent */
    uint32_t len;
    uint32_t group;
    const char *path; /* in payload */
    uint8_t from_type, to_type;
    uint8_t method;   /* enum wire_method, 0 = nothing staged */
    uint8_t stage_flags;
    bool copying;     /* between STAGE COPY and STAGE_END */
    bool kept;        /* the guest changed it after PREPARE: left alone */
    bool proved;      /* in place: reads as `to` */
    bool made;        /* a folder this job has made */
    int lease_fd;     /* in place; -1 = none */
    struct agent_ident was;
};

struct agent_stanza {
    uint8_t *payload; /* of the STANZA message, owned */
    uint32_t len;
    uint32_t group;
};

/*   NONE --BEGIN--> CHECKING --SELECT--> STAGING --PREPARE--> PREPARED
 *    ^ ^              |                    |                    |  |
 *    | +----ABORT-----+-------ABORT--------+-------ABORT--------+ COMMIT
 *    |                                                             v
 *    +-------------(journal removed)------------------------- COMMITTING
 * STAGING and later have a journal.  What is found at start-up in STAGING is
 * undone at once; PREPARED and COMMITTING wait for the host. */
enum agent_state {
    AGENT_NONE,
    AGENT_CHECKING,
    AGENT_STAGING,
    AGENT_PREPARED,
    AGENT_COMMITTING,
};

struct agent_job {
    enum agent_state state;
    uint8_t job_id[16], patch_id[32], secret[32];
    uint8_t direction, flags;
    char *name;
    uint32_t n_groups;
    uint8_t *selected; /* a bit for each group */
    uint32_t n_ops;
    struct agent_op *ops;
    struct agent_stanza *stanzas;
    uint32_t n_stanzas;
    char *hooks[AGENT_MAX_HOOKS];
    uint32_t n_hooks;
    uint32_t *swaps; /* ops whose new folder takes a non-folder's place */
    uint32_t n_swaps;
    char **made_dirs; /* parents made beside the ops, in order */
    uint32_t n_made_dirs;
    uint64_t payload_bytes;
    uint32_t copy_index; /* of copy_fd */
    int copy_fd;         /* hidden file that DATA goes to, or -1 */
    uint64_t cpu_us0, written0; /* when the job began */
};

void agent_job_init(struct agent_job *job);
void agent_job_fini(struct agent_job *job);
/* Fills an empty job from BEGIN. */
int agent_job_begin(struct agent_job *job, const struct wire_msg_begin *m,
                    struct agent_err *err);
/* Takes a copy of a checked payload. */
int agent_job_add_op(struct agent_job *job, const uint8_t *payload, uint32_t len,
                     uint32_t *index, struct agent_err *err);
int agent_job_add_stanza(struct agent_job *job, const uint8_t *payload,
                         uint32_t len, struct agent_err *err);
int agent_job_select(struct agent_job *job, uint32_t n, const uint8_t *bits,
                     struct agent_err *err);
int agent_job_add_hook(struct agent_job *job, const char *name,
                       struct agent_err *err);
int agent_job_add_made_dir(struct agent_job *job, const char *path);
bool agent_job_selected(const struct agent_job *job, uint32_t group);
/* The op of that index if it was sent, else NULL. */
struct agent_op *agent_job_op(struct agent_job *job, uint32_t index);
/* Decodes again what agent_job_add_op() has checked. */
void agent_op_get(const struct agent_op *op, struct wire_msg_op *m);
void agent_stanza_get(const struct agent_stanza *s, struct wire_msg_stanza *m);
/* True for ops that commit has to look at. */
bool agent_op_goes(const struct agent_job *job, const struct agent_op *op);
uint8_t agent_node_type(mode_t mode);
void agent_ident_of(struct agent_ident *id, const struct stat *st);
bool agent_ident_eq(const struct agent_ident *a, const struct agent_ident *b);
/* 0, or -ESTALE when the path is no longer what OP_STATE saw. */
int agent_op_recheck(struct agent *a, const struct agent_op *op);

/* True when this job made the folder, as an op or as a parent of one. */
bool agent_job_made(const struct agent_job *job, const char *path);

struct agent_fs { /* what a file system allows, by st_dev */
    dev_t dev;
    bool token;     /* tokens can work */
    bool extents;   /* physical offsets mean something */
    uint64_t start; /* of the partition, bytes; UINT64_MAX: not known */
    bool read_only;
};
#define AGENT_FS_CACHE 8

/* ---- the agent ---- */
struct agent_last { /* the job finished last */
    bool there;
    uint8_t job_id[16], patch_id[32];
    uint8_t direction;
};

struct agent {
    /* Set by agent_init(), never changed. */
    char *root;      /* real path, "/" for the running system */
    bool is_system;  /* root is "/": hooks and units may be run */
    bool verbose;
    const char *stop_step; /* --debug-stop */
    unsigned stop_count;
    int root_fd, state_fd;
    int (*send)(void *arg, uint16_t type, uint32_t seq, const void *payload,
                uint32_t len);
    void *send_arg;

    uint8_t *out; /* output payload */
    struct wire_w reply;
    uint32_t seq;      /* of the request in hand */
    int64_t progress_ms; /* when PROGRESS was sent last */
    bool greeted;

    struct agent_job job;
    struct agent_fs fs[AGENT_FS_CACHE]; /* as BEGIN found them */
    unsigned n_fs;
    struct agent_last last;
    struct agent_notes notes;
    int journal_fd;
    uint32_t journal_seq;
    uint64_t journal_bytes; /* whole frames */
    int dpkg_lock_fd[2];
    int64_t dpkg_wait_ms; /* for its locks, at PREPARE */
    uint64_t child_written; /* bytes that hooks wrote */
    void *io_buf;           /* AGENT_IO_BYTES, aligned to 4096 */
};
#define AGENT_IO_BYTES (1u << 20)

struct agent_cfg {
    const char *root, *state;
    bool verbose;
    const char *stop_step; /* NULL, or "STEP" or "STEP:N" */
};

/* run.c: the limit of descriptors is ours alone. */
void agent_raise_fd_limit(void);
/* Opens root and state folder, deals with the journal found there. */
int agent_init(struct agent *a, const struct agent_cfg *cfg,
               struct agent_err *err);
void agent_fini(struct agent *a);
/* The names --debug-stop knows, NULL-terminated. */
extern const char *const agent_steps[];
/* Here the journal and the tree are in a state named step: tests kill us. */
void agent_step(struct agent *a, const char *step);
int64_t agent_now_ms(void);

/* ---- journal.c: blksub-agent-journal(5) ---- */
enum {
    JOURNAL_HEAD = 0x40,
    JOURNAL_IDENT = 0x41,
    JOURNAL_MADE = 0x42,
};
struct agent_journal_info {
    bool aborting;      /* an ABORT mark is there */
    size_t whole_bytes; /* up to the torn tail */
    uint32_t next_seq;
};
/* What bytes of a journal say, up to the first frame that is torn: fills an
 * empty job.  0; -ENOENT there is no whole beginning; -ENOTSUP made by a newer
 * agent; -EBADMSG; -ENOMEM. */
int agent_journal_decode(const uint8_t *buf, size_t len, struct agent_job *job,
                         struct agent_journal_info *info, struct agent_err *err);
/* Writes all that the job holds so far, durably. */
int agent_journal_create(struct agent *a, struct agent_err *err);
int agent_journal_append(struct agent *a, uint16_t type, const void *payload,
                         size_t len, struct agent_err *err);
int agent_journal_sync(struct agent *a, struct agent_err *err);
/* Room for the marks, so that a full file system can stop neither COMMIT nor
 * ABORT at its mark. */
int agent_journal_reserve(struct agent *a, struct agent_err *err);
int agent_journal_ident(struct agent *a, uint32_t index, struct agent_err *err);
/* Removes it and forgets the job. */
int agent_journal_end(struct agent *a, struct agent_err *err);
/* Writes STATE/last for the job in hand. */
int agent_last_write(struct agent *a, struct agent_err *err);
/* Calls each with the paths of the last job's regular files. */
int agent_last_paths(struct agent *a, int (*each)(void *arg, const char *path),
                     void *arg);
/* Reads what is in the state folder; undoes what was not prepared. */
int agent_recover(struct agent *a, struct agent_err *err);

/* ---- undo.c ---- */
/* Removes all hidden files and folders of the job; may be done again. */
int agent_undo(struct agent *a, struct agent_err *err);
/* Removes what is staged for one op. */
int agent_unstage(struct agent *a, uint32_t index, struct agent_err *err);
/* As agent_unstage, and the journal hears of it (stage.c). */
int agent_stage_forget(struct agent *a, uint32_t index, struct agent_err *err);
/* At the end of commit: what belongs to ops that did not go. */
void agent_undo_leftovers(struct agent *a);
/* ABORT mark, undo, end. */
int agent_abort(struct agent *a, struct agent_err *err);

/* ---- check.c, extents.c, digest.c ---- */
/* fd: anything on it, O_PATH will do. */
int agent_fs_of(struct agent *a, int fd, struct agent_fs *out);
/* Fills m->extents: 1 complete and plain, 0 not, or -errno. */
int agent_extents(int fd, const struct agent_fs *fs, struct wire_msg_op_state *m);
/* BLAKE2b-256 of bytes [0, size) of fd (O_DIRECT or not); -ESTALE: shorter. */
int agent_digest_fd(struct agent *a, int fd, uint64_t size, uint8_t out[32]);

/* ---- meta.c ---- */
/* Mode, owner, xattrs and mtime as `to` says, but what the guest changed
 * against `from` stays as it is at cur.  Both are O_PATH descriptors and may
 * be the same node; cur_fd -1: `to` as it is. */
int agent_meta_apply(int node_fd, int cur_fd, const struct wire_node *from,
                     const struct wire_node *to);
/* True when mode, owner and xattrs are what n says. */
bool agent_meta_is(int node_fd, const struct stat *st, const struct wire_node *n,
                   const struct wire_node *other);

/* ---- token.c ---- */
/* Makes fd (empty, O_RDWR) a file of size bytes from the runs; leaves O_DIRECT
 * set.  -EOPNOTSUPP when the file system cannot. */
int agent_token_write(struct agent *a, int fd, uint64_t size,
                      const struct wire_run *runs, uint32_t n_runs);

/* ---- inplace.c ---- */
void agent_lease_init(void);
/* Looks for lease breaks: what is not prepared gives way at once. */
void agent_lease_poll(struct agent *a);
void agent_lease_drop(struct agent_op *op);
void agent_lease_drop_all(struct agent *a);
/* Drops cached pages; how many are left, or -errno. */
int64_t agent_evict(int fd, uint64_t size);
int64_t agent_cached_pages(int fd, uint64_t size);
/* Evicts an in-place file and compares: sets op->proved. */
int agent_prove(struct agent *a, struct agent_op *op);

/* ---- stanza.c (pure), dpkg.c ---- */
struct agent_par { /* a paragraph in a database's bytes */
    size_t off, len; /* without the empty lines after it */
};
/* The paragraph of package (and arch, "" = any): true and *out. */
bool agent_par_find(const char *text, size_t len, const char *package,
                    const char *arch, struct agent_par *out);
/* The value of a field's first line, copied: true if there. */
bool agent_par_field(const char *text, size_t len, const char *field, char *out,
                     size_t cap);
enum wire_match agent_par_match(const char *text, size_t len,
                                const struct wire_msg_stanza *m, char *version,
                                size_t cap);
/* The database with the paragraph made what `to` says; *out is given. */
int agent_par_merge(const char *text, size_t len, const struct wire_msg_stanza *m,
                    char **out, size_t *out_len);

/* Takes the package manager's locks, waiting at most limit_ms; -EBUSY. */
int agent_dpkg_lock(struct agent *a, int64_t limit_ms, struct agent_err *err);
void agent_dpkg_unlock(struct agent *a);
bool agent_dpkg_needed(const struct agent *a);
/* -ESTALE when a selected paragraph is neither `from` nor `to`. */
int agent_dpkg_recheck(struct agent *a, struct agent_err *err);
int agent_dpkg_merge(struct agent *a, struct agent_err *err);

/* ---- run.c: programs, with a limit ---- */
/* Runs argv with its output in out (cut at cap); kills its process group at
 * limit_ms.  The exit code, 128 + signal, or -ETIMEDOUT or another -errno.
 * tick, if not NULL, is called about once a second. */
int agent_run(struct agent *a, const char *const argv[], int64_t limit_ms,
              char *out, size_t cap, void (*tick)(struct agent *a));
/* hooks.c: what goes wrong is a note. */
void agent_hook_run(struct agent *a, const char *name);

/* ---- commit.c, put.c ---- */
int agent_commit(struct agent *a, struct agent_err *err);
/* Makes the file systems of all ops that go durable. */
int agent_sync_all(struct agent *a, struct agent_err *err);
/* 0 if what was staged for an op is still there, else -ESTALE. */
int agent_put_ready(struct agent *a, uint32_t index);
/* The steps of commit for one op: 1 done now, 0 nothing (left) to do. */
int agent_put_staged(struct agent *a, uint32_t index);
int agent_put_link(struct agent *a, uint32_t index);
int agent_put_folder(struct agent *a, uint32_t index);
int agent_put_meta(struct agent *a, uint32_t index);
int agent_put_removal(struct agent *a, uint32_t index);

/* ---- request handlers, a file each ---- */
#define HANDLER(name) \
    int agent_do_##name(struct agent *a, struct wire_r *r, struct agent_err *err)
HANDLER(begin); /* job.c */
HANDLER(select);
HANDLER(hook);
HANDLER(prepare);
HANDLER(commit);
HANDLER(abort);
HANDLER(op); /* check.c */
HANDLER(hash);
HANDLER(probe);
HANDLER(stanza); /* dpkg.c */
HANDLER(stage);  /* stage.c */
HANDLER(data);
HANDLER(stage_end);
HANDLER(lease); /* inplace.c */
HANDLER(evict);
HANDLER(users);   /* users.c */
HANDLER(flush);   /* flush.c */
HANDLER(restart); /* hooks.c */

/* job.c: the one way to change the state. */
void agent_set_state(struct agent_job *job, enum agent_state to);
uint64_t agent_cpu_us(void);
uint64_t agent_written_bytes(const struct agent *a);

/* dispatch.c: does one request and sends its answer. */
void agent_request(struct agent *a, const struct wire_frame *f,
                   const uint8_t *payload);
/* The host went away, is back, or says HELLO: what needs no journal is dropped,
 * and what others may wait for is given up. */
void agent_new_peer(struct agent *a);

#endif
