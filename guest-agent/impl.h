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
/* Opens path itself; never follows a link in the last component. */
int agent_open(struct agent *a, const char *path, int flags);
int agent_lstat(struct agent *a, const char *path, struct stat *st);
/* "/proc/self/fd/N/name" for calls that know no *at form. */
#define AGENT_FD_PATH 320
void agent_fd_path(char out[AGENT_FD_PATH], int dirfd, const char *name);
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
    bool replaying; /* commit of a journal found at start-up */

    struct agent_job job;
    struct agent_last last;
    struct agent_notes notes;
    int journal_fd;
    uint32_t journal_seq;
    int dpkg_lock_fd[2];
    uint64_t child_written; /* bytes that hooks wrote */
    void *io_buf;           /* AGENT_IO_BYTES, aligned to 4096 */
};
#define AGENT_IO_BYTES (1u << 20)

struct agent_cfg {
    const char *root, *state;
    bool verbose;
    const char *stop_step; /* NULL, or "STEP" or "STEP:N" */
};

/* Opens root and state folder, deals with the journal found there. */
int agent_init(struct agent *a, const struct agent_cfg *cfg,
               struct agent_err *err);
void agent_fini(struct agent *a);
/* The names --debug-stop knows, NULL-terminated. */
extern const char *const agent_steps[];
/* Here the journal and the tree are in a state named step: tests kill us. */
void agent_step(struct agent *a, const char *step);
int64_t agent_now_ms(void);

/* dispatch.c: does one request and sends its answer. */
void agent_request(struct agent *a, const struct wire_frame *f,
                   const uint8_t *payload);
/* The host went away or says HELLO: what needs no journal is dropped. */
void agent_new_peer(struct agent *a);

#endif
