/* fuzz: hv */
// SPDX-License-Identifier: GPL-2.0-or-later
/* What an agent can send.  The first byte says where it goes:
 *   0       raw bytes instead of the answer to HELLO
 *   1       raw bytes in the middle of a conversation
 *   else    the payload of a well-formed answer to a request
 * The link and the peer, which is this program, live in one thread: an answer
 * is put into the socket before the request is made. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "apply-impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct hv_link *l;
static int listen_fd = -1, peer = -1;
static char dir[] = "/tmp/blksub-fuzz-XXXXXX", path[64];
static uint32_t seq; /* the last one that the link has used */

static void clean_up(void)
{
    hv_link_free(l);
    unlink(path);
    rmdir(dir);
}

static void start(void)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    if (!mkdtemp(dir))
        abort();
    snprintf(path, sizeof(path), "%s/s", dir);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listen_fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
        listen(listen_fd, 64) < 0 ||
        hv_link_new(path, eventfd(0, EFD_NONBLOCK), 1, &l) < 0)
        abort();
    hv_link_set_retry(l, 0);
    atexit(clean_up);
}

/* Reads what the link sent; gives the nonce of the last HELLO in it. */
static uint64_t listen_to(void)
{
    static uint8_t buf[1 << 16];
    struct wire_msg_hello m;
    struct wire_frame f;
    struct wire_r r;
    uint64_t nonce = 0;
    ssize_t n, at = 0;

    n = recv(peer, buf, sizeof(buf), MSG_DONTWAIT);
    while (n - at >= (ssize_t)WIRE_HEADER_BYTES &&
           wire_frame_decode(buf + at, &f)) {
        seq = f.seq;
        wire_r_init(&r, buf + at + WIRE_HEADER_BYTES, f.len);
        if (f.type == WIRE_HELLO && wire_get_hello(&r, &m))
            nonce = m.nonce;
        at += WIRE_HEADER_BYTES + f.len;
    }
    return nonce;
}

static void connect_link(void)
{
    struct pollfd p = { .fd = listen_fd, .events = POLLIN };

    hv_link_drop(l, "next");
    if (peer >= 0)
        close(peer);
    (void)hv_link_idle(l, 0);
    if (poll(&p, 1, 1000) <= 0)
        abort();
    peer = accept(listen_fd, NULL, NULL);
}

static void say(uint16_t type, uint32_t s, const void *p, size_t n)
{
    uint8_t h[WIRE_HEADER_BYTES];

    wire_frame_encode(h, type, s, p, (uint32_t)n);
    (void)!send(peer, h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n)
        (void)!send(peer, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void come_up(void)
{
    struct wire_msg_hello_ok ok = { .version = WIRE_VERSION };
    uint8_t buf[256];
    struct wire_w w;

    if (hv_link_is_up(l))
        return;
    connect_link();
    ok.nonce = listen_to();
    wire_w_init(&w, buf, sizeof(buf));
    wire_put_hello_ok(&w, &ok);
    say(WIRE_HELLO_OK, seq, buf, w.len);
    (void)hv_link_idle(l, 100);
    if (!hv_link_is_up(l))
        abort();
}

static int decode(void *opaque, uint32_t tag, uint16_t type, struct wire_r *r,
                  struct bs_err *err)
{
    static struct wire_msg_op_state s;
    struct wire_msg_stanza_state st;
    struct wire_msg_probed pr;
    struct wire_msg_hashed ha;
    struct apply *a = opaque;

    (void)tag;
    switch (type) {
    case WIRE_OP_STATE:
        if (wire_get_op_state(r, &s) && s.n_extents > WIRE_MAX_EXTENTS)
            abort();
        return 0;
    case WIRE_STANZA_STATE:
        return wire_get_stanza_state(r, &st) ? 0 : -EPROTO;
    case WIRE_PROBED:
        return wire_get_probed(r, &pr) ? 0 : -EPROTO;
    case WIRE_HASHED:
        return wire_get_hashed(r, &ha) ? 0 : -EPROTO;
    case WIRE_ERROR:
        return hv_link_refusal(r, "it", err);
    default:
        return apply_take_refused(a, r, "it", err);
    }
}

static void answer_request(uint8_t what, const uint8_t *data, size_t len)
{
    static const uint16_t types[] = { WIRE_OP, WIRE_STANZA, WIRE_PROBE, WIRE_HASH,
                                      WIRE_LEASE, WIRE_EVICT };
    struct bstore_op op = { .path = (char *)(uintptr_t)"/a" };
    struct bstore_manifest m = { .ops = &op, .n_ops = 1 };
    struct hv_env env = { .link = l };
    struct op_work work = { .method = WIRE_IN_PLACE };
    struct group_work group = { .selected = true };
    struct apply a = { .m = &m, .ops = &work, .groups = &group, .env = &env };
    char *unit = (char *)(uintptr_t)"a.service";
    json_t *out = NULL;
    struct bs_err err;
    int r;

    if (what == 2) {
        say(WIRE_USERS_ARE, seq + 1, data, len);
        r = hv_users(&env, &m, &out, &err);
    } else if (what == 3) {
        say(WIRE_FLUSHED, seq + 1, data, len);
        r = hv_flush_paths(&env, NULL, 0, &out, &err);
    } else if (what == 4) {
        say(WIRE_RESTARTED, seq + 1, data, len);
        r = hv_restart_units(&env, &unit, 1, &out, &err);
    } else {
        uint16_t type = types[what % N_ELEMS(types)];

        say(what & 128 ? WIRE_ERROR : type | 0x80, seq + 1, data, len);
        hv_link_payload(l);
        r = hv_link_call(l, type, decode, &a, 0, NULL, &err);
        free(a.refused);
    }
    if (r == 0)
        json_decref(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bs_err err;

    if (!l)
        start();
    if (len < 1 || len > 60000)
        return 0;
    if (data[0] == 0) {
        connect_link();
        (void)!send(peer, data + 1, len - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)hv_link_idle(l, 0);
        (void)hv_link_idle(l, 0);
        return 0;
    }
    come_up();
    (void)listen_to();
    if (data[0] == 1) {
        (void)!send(peer, data + 1, len - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        hv_link_payload(l);
        (void)hv_link_call(l, WIRE_LEASE, hv_answer_ok, NULL, 0, NULL, &err);
    } else {
        answer_request(data[0], data + 1, len - 1);
    }
    (void)listen_to();
    return 0;
}
