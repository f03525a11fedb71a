// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "bs/log.h"
#include "link.h"

#define RETRY_MS 500        /* between attempts to connect, unless set */
#define PING_MS 10000       /* between HELLOs to an idle agent */
#define OVERDUE_MS 3000     /* an answer: is it still the same agent? */
#define PING_LIMIT_MS 20000 /* an idle agent that takes longer is gone */
#define REQUEST_LIMIT_MS (3600 * 1000) /* one request, with any progress */
#define WINDOW 128u
#define OUT_MAX (2u * (WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX))
#define IN_MAX (WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX)
#define HELLO_OK_MAX 1024u

/*   DOWN --connect--> OPEN --HELLO_OK--> UP
 *    ^                 |                 |
 *    +---- drop -------+------ drop -----+   */
enum link_state { LINK_DOWN, LINK_OPEN, LINK_UP };

struct pending {
    uint32_t seq, tag;
    uint16_t type;
    hv_answer_fn *fn;
    void *opaque;
};

struct hv_link {
    char *path;
    int wake_fd;
    unsigned usual_limit_ms;
    const atomic_bool *stop, *cancel;

    int fd;
    enum link_state state;
    int64_t retry_at; /* DOWN: not before */
    int retry_ms;
    char problem[160];
    struct bs_log_limit log_limit;

    /* HELLO: nonce 0 = no answer is awaited. */
    uint64_t nonce;
    uint32_t hello_seq;
    bool may_ping;
    int64_t hello_sent, hello_answered;
    struct hv_hello hello;

    uint32_t seq;
    struct pending pending[WINDOW];
    unsigned head, n_pending;
    int64_t last_frame;  /* or when the agent began to owe an answer */
    int64_t head_since;
    unsigned limit_ms;
    hv_progress_fn *progress;
    void *progress_opaque;
    int fail; /* what an answer function returned first */
    struct bs_err fail_err;

    struct wire_w payload;
    uint8_t *in, *out;
    size_t in_len, out_off, out_len;
};

int64_t hv_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void hv_clean_text(char *dst, size_t cap, const char *src)
{
    size_t i;

    for (i = 0; i + 1 < cap && src[i]; i++)
        dst[i] = src[i] >= 0x20 && src[i] < 0x7f ? src[i] : '?';
    dst[i] = 0;
}

int hv_link_new(const char *path, int wake_fd, unsigned limit_ms,
                struct hv_link **out)
{
    struct hv_link *l;
    uint8_t *payload;

    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->fd = -1;
    l->wake_fd = wake_fd;
    l->retry_ms = RETRY_MS;
    l->usual_limit_ms = l->limit_ms = limit_ms;
    l->path = strdup(path);
    l->in = malloc(IN_MAX);
    l->out = malloc(OUT_MAX);
    payload = malloc(WIRE_PAYLOAD_MAX);
    wire_w_init(&l->payload, payload, WIRE_PAYLOAD_MAX);
    snprintf(l->problem, sizeof(l->problem), "not connected yet");
    if (!l->path || !l->in || !l->out || !payload) {
        hv_link_free(l);
        return -ENOMEM;
    }
    *out = l;
    return 0;
}

void hv_link_free(struct hv_link *l)
{
    if (!l)
        return;
    if (l->fd >= 0)
        close(l->fd);
    free(l->path);
    free(l->in);
    free(l->out);
    free(l->payload.buf);
    free(l);
}

void hv_link_set_flags(struct hv_link *l, const atomic_bool *stop,
                       const atomic_bool *cancel)
{
    l->stop = stop;
    l->cancel = cancel;
}

void hv_link_set_retry(struct hv_link *l, int retry_ms)
{
    l->retry_ms = retry_ms;
}

void hv_link_get_flags(const struct hv_link *l, const atomic_bool **stop,
                       const atomic_bool **cancel)
{
    *stop = l->stop;
    *cancel = l->cancel;
}

void hv_link_allow_ping(struct hv_link *l, bool allow)
{
    l->may_ping = allow;
}

bool hv_link_is_up(const struct hv_link *l)
{
    return l->state == LINK_UP;
}

const struct hv_hello *hv_link_hello(const struct hv_link *l)
{
    return &l->hello;
}

const char *hv_link_problem(const struct hv_link *l)
{
    return l->problem;
}

void hv_link_drop(struct hv_link *l, const char *why)
{
    if (l->state == LINK_UP)
        bs_log_limited(&l->log_limit, BS_LOG_WARN, "agent",
                       "lost the agent: %s", why);
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->state = LINK_DOWN;
    l->retry_at = hv_now_ms() + l->retry_ms;
    l->n_pending = 0;
    l->nonce = 0;
    l->in_len = l->out_off = l->out_len = 0;
    snprintf(l->problem, sizeof(l->problem), "%s", why);
}

/* ---- sending ---- */

static bool out_has_room(const struct hv_link *l, size_t n)
{
    return OUT_MAX - (l->out_len - l->out_off) >= n;
}

/* The caller has made sure of the room. */
static void queue_frame(struct hv_link *l, uint16_t type, uint32_t seq,
                        const void *payload, size_t len)
{
    assert(len <= WIRE_PAYLOAD_MAX && out_has_room(l, WIRE_HEADER_BYTES + len));
    if (OUT_MAX - l->out_len < WIRE_HEADER_BYTES + len) {
        memmove(l->out, l->out + l->out_off, l->out_len - l->out_off);
        l->out_len -= l->out_off;
        l->out_off = 0;
    }
    wire_frame_encode(l->out + l->out_len, type, seq, payload, (uint32_t)len);
    l->out_len += WIRE_HEADER_BYTES;
    if (len > 0)
        memcpy(l->out + l->out_len, payload, len);
    l->out_len += len;
}

static void flush_out(struct hv_link *l)
{
    while (l->fd >= 0 && l->out_off < l->out_len) {
        ssize_t n = send(l->fd, l->out + l->out_off, l->out_len - l->out_off,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            hv_link_drop(l, strerror(errno));
            return;
        }
        l->out_off += (size_t)n;
    }
    if (l->out_off == l->out_len)
        l->out_off = l->out_len = 0;
}

/* Asks anew, or, while an answer is awaited, the same again: an agent that
 * starts late then finds several, and any of them brings the link up. */
static void send_hello(struct hv_link *l)
{
    uint8_t buf[32];
    struct wire_w w;
    struct wire_msg_hello m = { WIRE_VERSION, WIRE_VERSION, 0 };

    l->hello_sent = hv_now_ms();
    if (l->out_off < l->out_len)
        return; /* nobody has read the last one yet */
    while (l->nonce == 0)
        if (getrandom(&l->nonce, sizeof(l->nonce), 0) < 0)
            l->nonce = (uint64_t)hv_now_ms() << 20 | ++l->seq;
    m.nonce = l->nonce;
    wire_w_init(&w, buf, sizeof(buf));
    wire_put_hello(&w, &m);
    l->hello_seq = ++l->seq;
    queue_frame(l, WIRE_HELLO, l->hello_seq, buf, w.len);
    flush_out(l);
}

/* ---- receiving ---- */

/* 1: this was the HELLO_OK that is awaited. */
static int take_hello(struct hv_link *l, const uint8_t *payload, uint32_t len)
{
    struct wire_msg_hello_ok m;
    struct wire_r r;

    wire_r_init(&r, payload, len);
    if (l->nonce == 0 || !wire_get_hello_ok(&r, &m) || m.nonce != l->nonce)
        return 0;
    l->nonce = 0;
    l->hello_answered = hv_now_ms();
    l->hello.version = m.version;
    l->hello.phase = m.phase;
    l->hello.direction = m.direction;
    memcpy(l->hello.job_id, m.job_id, sizeof(m.job_id));
    memcpy(l->hello.patch_id, m.patch_id, sizeof(m.patch_id));
    memcpy(l->hello.boot_id, m.boot_id, sizeof(m.boot_id));
    hv_clean_text(l->hello.agent, sizeof(l->hello.agent), m.agent);
    hv_clean_text(l->hello.kernel, sizeof(l->hello.kernel), m.kernel);
    return 1;
}

/* OPEN: looks for the HELLO_OK anywhere in what came, since the stream may
 * begin in the middle of an old conversation. */
static void resync(struct hv_link *l)
{
    size_t pos, keep = l->in_len;
    struct wire_frame f;

    for (pos = 0; pos < l->in_len; pos++) {
        const uint8_t *p = l->in + pos;
        size_t left = l->in_len - pos;
        bool candidate;

        if (left < WIRE_HEADER_BYTES) {
            keep = keep < pos ? keep : pos;
            break;
        }
        candidate = wire_frame_decode(p, &f) && f.len <= HELLO_OK_MAX &&
                    (f.type == WIRE_HELLO_OK || f.type == WIRE_ERROR);
        if (!candidate)
            continue;
        if (left - WIRE_HEADER_BYTES < f.len) {
            keep = keep < pos ? keep : pos;
            continue;
        }
        if (!wire_frame_crc_ok(p, p + WIRE_HEADER_BYTES, f.len))
            continue;
        if (f.type == WIRE_ERROR) {
            struct wire_msg_error e;
            struct wire_r r;

            wire_r_init(&r, p + WIRE_HEADER_BYTES, f.len);
            if (wire_get_error(&r, &e) && e.code == WIRE_E_VERSION)
                snprintf(l->problem, sizeof(l->problem),
                         "the agent speaks another version of the protocol");
        } else if (take_hello(l, p + WIRE_HEADER_BYTES, f.len)) {
            if (l->hello.version != WIRE_VERSION) {
                snprintf(l->problem, sizeof(l->problem),
                         "the agent speaks version %u of the protocol, the "
                         "worker %u", l->hello.version, WIRE_VERSION);
                continue;
            }
            l->state = LINK_UP;
            keep = pos + WIRE_HEADER_BYTES + f.len;
            break;
        }
    }
    /* A candidate is short: what is older than that is no part of one. */
    memmove(l->in, l->in + keep, l->in_len - keep);
    l->in_len -= keep;
}

static bool is_answer_to(uint16_t answer, uint16_t request)
{
    if (answer == WIRE_OK || answer == WIRE_ERROR)
        return true;
    if (request == WIRE_STAGE_END)
        return answer == WIRE_STAGED;
    return answer == (request | 0x80) && answer != WIRE_HELLO_OK;
}

static int take_answer(struct hv_link *l, const struct wire_frame *f,
                       const uint8_t *payload)
{
    struct pending p = l->pending[l->head % WINDOW];
    struct wire_r r;
    int e;

    if (l->n_pending == 0 || f->seq != p.seq)
        return -EPROTO;
    wire_r_init(&r, payload, f->len);
    if (f->type == WIRE_PROGRESS) {
        struct wire_msg_progress m;

        if (!wire_get_progress(&r, &m))
            return -EPROTO;
        if (l->progress)
            l->progress(l->progress_opaque, m.done, m.total, m.text);
        return 0;
    }
    if (!is_answer_to(f->type, p.type))
        return -EPROTO;
    l->head++;
    l->n_pending--;
    l->head_since = hv_now_ms();
    if (l->fail == 0 && p.fn) {
        e = p.fn(p.opaque, p.tag, f->type, &r, &l->fail_err);
        if (e < 0)
            l->fail = e;
    }
    return 0;
}

/* Requests are answered in order: one from before the HELLO never will be. */
static bool lost_requests(const struct hv_link *l)
{
    return l->n_pending > 0 &&
           (int32_t)(l->pending[l->head % WINDOW].seq - l->hello_seq) < 0;
}

static void take_frames(struct hv_link *l)
{
    size_t pos = 0;

    while (l->state == LINK_UP && l->in_len - pos >= WIRE_HEADER_BYTES) {
        const uint8_t *p = l->in + pos;
        struct wire_frame f;

        if (!wire_frame_decode(p, &f)) {
            hv_link_drop(l, "the agent sent something that is no frame");
            return;
        }
        if (l->in_len - pos - WIRE_HEADER_BYTES < f.len)
            break;
        if (!wire_frame_crc_ok(p, p + WIRE_HEADER_BYTES, f.len)) {
            hv_link_drop(l, "a frame of the agent has a wrong checksum");
            return;
        }
        pos += WIRE_HEADER_BYTES + f.len;
        l->last_frame = hv_now_ms();
        if (f.type == WIRE_HELLO_OK) { /* of a ping, or late */
            if (take_hello(l, p + WIRE_HEADER_BYTES, f.len) && lost_requests(l)) {
                hv_link_drop(l, "the agent was started anew");
                return;
            }
        } else if (take_answer(l, &f, p + WIRE_HEADER_BYTES) < 0) {
            hv_link_drop(l, "the agent sent an answer that nobody asked for");
            return;
        }
    }
    memmove(l->in, l->in + pos, l->in_len - pos);
    l->in_len -= pos;
}

static void read_in(struct hv_link *l)
{
    ssize_t n;

    n = recv(l->fd, l->in + l->in_len, IN_MAX - l->in_len, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (n <= 0) {
        hv_link_drop(l, n == 0 ? "the channel was closed" : strerror(errno));
        return;
    }
    l->in_len += (size_t)n;
    if (l->state == LINK_OPEN)
        resync(l);
    if (l->state == LINK_UP)
        take_frames(l);
}

/* Waits once, for at most timeout_ms, and does what can be done. */
static void step(struct hv_link *l, int64_t timeout_ms)
{
    struct pollfd p[2] = {
        { .fd = l->wake_fd, .events = POLLIN },
        { .fd = l->fd, .events = POLLIN },
    };
    uint64_t n;

    if (l->out_off < l->out_len)
        p[1].events |= POLLOUT;
    if (timeout_ms < 0)
        timeout_ms = 0;
    if (poll(p, 2, timeout_ms > 60000 ? 60000 : (int)timeout_ms) <= 0)
        return;
    if (p[0].revents & POLLIN)
        (void)!read(l->wake_fd, &n, sizeof(n));
    if (l->fd >= 0 && p[1].revents & POLLOUT)
        flush_out(l);
    if (l->fd >= 0 && p[1].revents & (POLLIN | POLLHUP | POLLERR))
        read_in(l);
}

static bool told_to_end(const struct hv_link *l)
{
    return (l->stop && atomic_load(l->stop)) ||
           (l->cancel && atomic_load(l->cancel));
}

/* ---- being connected ---- */

static void try_connect(struct hv_link *l)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd;

    l->retry_at = hv_now_ms() + l->retry_ms;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    strcpy(sa.sun_path, l->path); /* its length was checked */
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        snprintf(l->problem, sizeof(l->problem),
                 "nobody offers the agent's channel: %s", strerror(errno));
        close(fd);
        return;
    }
    l->fd = fd;
    l->state = LINK_OPEN;
    l->nonce = 0;
    l->in_len = l->out_off = l->out_len = 0;
    snprintf(l->problem, sizeof(l->problem),
             "the channel is there, but no agent answers on it");
    send_hello(l);
}

int hv_link_idle(struct hv_link *l, int timeout_ms)
{
    int64_t now = hv_now_ms(), due, until = now + timeout_ms;
    bool was_up = l->state == LINK_UP;

    if (l->state == LINK_DOWN && now >= l->retry_at)
        try_connect(l);
    if (l->state == LINK_UP && l->nonce != 0 &&
        now - l->hello_sent > PING_LIMIT_MS) {
        hv_link_drop(l, "the agent does not answer any more");
        was_up = false;
    }
    if (l->state == LINK_DOWN)
        due = l->retry_at;
    else
        due = (l->nonce ? l->hello_sent : l->hello_answered) + PING_MS;
    if (l->state == LINK_UP && l->nonce)
        due = l->hello_sent + PING_LIMIT_MS + 1;
    else if (l->state != LINK_DOWN && now >= due) {
        send_hello(l);
        due = now + PING_MS;
    }
    step(l, (due < until ? due : until) - now);
    if (l->state == LINK_UP && !was_up) {
        bs_log(BS_LOG_INFO, "agent", "connected version=%s kernel=%s",
               l->hello.agent, l->hello.kernel);
        return 1;
    }
    return 0;
}

int hv_link_refresh(struct hv_link *l, int limit_ms, struct bs_err *err)
{
    int64_t until = hv_now_ms() + limit_ms, now;
    bool asked = false;

    for (;;) {
        now = hv_now_ms();
        if (told_to_end(l))
            return bs_fail(err, ECANCELED, "stopped on request");
        if (l->state == LINK_DOWN && now >= l->retry_at)
            try_connect(l);
        if (l->state == LINK_UP && asked)
            return 0;
        if (l->state == LINK_UP) {
            l->state = LINK_OPEN; /* what is on its way may be cut short */
            l->nonce = 0;         /* and an older answer proves nothing */
            send_hello(l);
        }
        asked = l->state == LINK_OPEN; /* a HELLO is on its way */
        if (now >= until)
            break;
        step(l, l->state == LINK_DOWN && l->retry_at < until ?
                    l->retry_at - now : until - now);
    }
    return bs_fail(err, strstr(l->problem, "version") ? EPROTO : EHOSTUNREACH,
                   "no agent in the guest: %s", l->problem);
}

/* ---- requests ---- */

struct wire_w *hv_link_payload(struct hv_link *l)
{
    l->payload.len = 0;
    return &l->payload;
}

static int lost(struct hv_link *l, struct bs_err *err)
{
    return bs_fail(err, EHOSTUNREACH, "lost the guest's agent: %s", l->problem);
}

/* Waits once for the agent, which owes answers. */
static int wait_step(struct hv_link *l, struct bs_err *err)
{
    int64_t now = hv_now_ms(), left;

    if (told_to_end(l))
        return bs_fail(err, ECANCELED, "stopped on request");
    left = l->last_frame + l->limit_ms - now;
    if (left > l->head_since + REQUEST_LIMIT_MS - now)
        left = l->head_since + REQUEST_LIMIT_MS - now;
    if (l->may_ping && l->nonce == 0) {
        int64_t overdue = l->last_frame > l->hello_sent ? l->last_frame :
                                                          l->hello_sent;

        if (now - overdue >= OVERDUE_MS)
            send_hello(l);
        if (left > OVERDUE_MS)
            left = OVERDUE_MS;
    }
    if (left <= 0) {
        hv_link_drop(l, "it was silent for too long");
        return lost(l, err);
    }
    step(l, left);
    return l->state == LINK_UP ? 0 : lost(l, err);
}

static int take_failure(struct hv_link *l, struct bs_err *err)
{
    int r = l->fail;

    if (err)
        *err = l->fail_err;
    if (l->n_pending == 0)
        l->fail = 0; /* all is read: the conversation may go on */
    return r;
}

int hv_link_submit(struct hv_link *l, uint16_t type, hv_answer_fn *fn,
                   void *opaque, uint32_t tag, struct bs_err *err)
{
    size_t len = l->payload.len;
    int r;

    if (l->state != LINK_UP)
        return lost(l, err);
    if (!wire_w_ok(&l->payload))
        return bs_fail(err, EINVAL, "a request to the agent would have %zu "
                       "bytes, more than a frame holds", len);
    while (l->fail == 0 && (l->n_pending == WINDOW ||
                            !out_has_room(l, WIRE_HEADER_BYTES + len))) {
        r = wait_step(l, err);
        if (r < 0)
            return r;
    }
    if (l->fail < 0)
        return take_failure(l, err);
    if (told_to_end(l))
        return bs_fail(err, ECANCELED, "stopped on request");
    if (l->n_pending == 0)
        l->last_frame = l->head_since = hv_now_ms();
    l->pending[(l->head + l->n_pending) % WINDOW] = (struct pending){
        .seq = ++l->seq, .tag = tag, .type = type, .fn = fn, .opaque = opaque,
    };
    l->n_pending++;
    queue_frame(l, type, l->seq, l->payload.buf, len);
    flush_out(l);
    return l->state == LINK_UP ? 0 : lost(l, err);
}

int hv_link_drain(struct hv_link *l, struct bs_err *err)
{
    int r;

    while (l->state == LINK_UP && l->n_pending > 0) {
        r = wait_step(l, err);
        if (r < 0)
            return r;
    }
    if (l->fail < 0)
        return take_failure(l, err);
    return l->state == LINK_UP ? 0 : lost(l, err);
}

int hv_link_call(struct hv_link *l, uint16_t type, hv_answer_fn *fn,
                 void *opaque, unsigned limit_ms, hv_progress_fn *progress,
                 struct bs_err *err)
{
    int r;

    l->progress = progress;
    l->progress_opaque = opaque;
    if (limit_ms > l->usual_limit_ms)
        l->limit_ms = limit_ms;
    r = hv_link_submit(l, type, fn, opaque, 0, err);
    if (r == 0)
        r = hv_link_drain(l, err);
    l->limit_ms = l->usual_limit_ms;
    l->progress = NULL;
    return r;
}

void hv_link_settle(struct hv_link *l, unsigned limit_ms)
{
    int64_t until = hv_now_ms() + limit_ms, now;

    if (l->fail == 0)
        l->fail = -ECANCELED; /* so that no answer function is called */
    while (l->state == LINK_UP && l->n_pending > 0) {
        now = hv_now_ms();
        if (now >= until) {
            hv_link_drop(l, "it did not answer what it was asked");
            break;
        }
        step(l, until - now);
    }
    l->fail = 0;
}

int hv_link_malformed(const char *what, struct bs_err *err)
{
    return bs_fail(err, EPROTO, "the agent's answer to %s is malformed", what);
}

int hv_link_refusal(struct wire_r *r, const char *what, struct bs_err *err)
{
    static const int codes[] = {
        [WIRE_E_PROTOCOL] = EPROTO,   [WIRE_E_VERSION] = EPROTO,
        [WIRE_E_BUSY] = EBUSY,        [WIRE_E_NOSPC] = ENOSPC,
        [WIRE_E_IO] = EIO,            [WIRE_E_DIGEST] = EBADMSG,
        [WIRE_E_CHANGED] = EAGAIN,    [WIRE_E_UNSUPPORTED] = EOPNOTSUPP,
        [WIRE_E_NO_JOB] = ENOENT,     [WIRE_E_READ_ONLY] = EROFS,
    };
    struct wire_msg_error m;
    char text[256];
    int code = EPROTO;

    if (!wire_get_error(r, &m))
        return hv_link_malformed(what, err);
    if (m.code < sizeof(codes) / sizeof(codes[0]) && codes[m.code])
        code = codes[m.code];
    hv_clean_text(text, sizeof(text), m.text);
    return bs_fail(err, code, "the guest's agent refuses %s: %s", what, text);
}

int hv_answer_ok(void *opaque, uint32_t tag, uint16_t type, struct wire_r *r,
                 struct bs_err *err)
{
    (void)opaque;
    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "a request", err);
    if (type != WIRE_OK || !wire_r_end(r))
        return hv_link_malformed("a request", err);
    return 0;
}
