// SPDX-License-Identifier: GPL-2.0-or-later
/* The link against a peer that the test plays itself, frame by frame, on the
 * listening end of the socket. */
#include <sys/eventfd.h>

#include "guest.h"

static char dir[64];
static char path[80];
static int listen_fd, wake_fd;
static struct hv_link *l;
static atomic_bool stop;

static void setup(void)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    strcpy(dir, "/tmp/blksub-link-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/sock", dir);
    strcpy(sa.sun_path, path);
    listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listen_fd, (void *)&sa, sizeof(sa)), 0);
    ck_assert_int_eq(listen(listen_fd, 4), 0);
    wake_fd = eventfd(0, EFD_NONBLOCK);
    ck_assert_int_eq(hv_link_new(path, wake_fd, 500, &l), 0);
    hv_link_set_retry(l, 10);
    atomic_store(&stop, false);
    hv_link_set_flags(l, &stop, NULL);
}

static void teardown(void)
{
    hv_link_free(l);
    close(listen_fd);
    close(wake_fd);
    unlink(path);
    rmdir(dir);
}

/* Drives the link until a connection waits, and takes it. */
static int accept_link(void)
{
    struct pollfd p = { .fd = listen_fd, .events = POLLIN };

    for (int i = 0; i < 500 && poll(&p, 1, 0) <= 0; i++)
        (void)hv_link_idle(l, 10);
    return accept(listen_fd, NULL, NULL);
}

/* The next frame that the link sends; its payload is lent. */
static struct wire_frame next_frame(int fd, const uint8_t **payload)
{
    static uint8_t buf[WIRE_PAYLOAD_MAX];
    uint8_t h[WIRE_HEADER_BYTES];
    struct wire_frame f;

    ck_assert_int_eq(recv(fd, h, sizeof(h), MSG_WAITALL), sizeof(h));
    ck_assert(wire_frame_decode(h, &f));
    if (f.len)
        ck_assert_int_eq(recv(fd, buf, f.len, MSG_WAITALL), f.len);
    ck_assert(wire_frame_crc_ok(h, buf, f.len));
    *payload = buf;
    return f;
}

static size_t hello_ok(uint8_t *buf, uint64_t nonce, uint16_t version)
{
    struct wire_msg_hello_ok ok = { .nonce = nonce, .version = version,
                                    .agent = "a\x1b", .kernel = "k" };
    uint8_t payload[512];
    struct wire_w w;

    wire_w_init(&w, payload, sizeof(payload));
    wire_put_hello_ok(&w, &ok);
    wire_frame_encode(buf, WIRE_HELLO_OK, 1, payload, (uint32_t)w.len);
    memcpy(buf + WIRE_HEADER_BYTES, payload, w.len);
    return WIRE_HEADER_BYTES + w.len;
}

static uint64_t take_nonce(int fd)
{
    struct wire_msg_hello m;
    const uint8_t *p;
    struct wire_frame f;
    struct wire_r r;

    do
        f = next_frame(fd, &p);
    while (f.type != WIRE_HELLO);
    wire_r_init(&r, p, f.len);
    ck_assert(wire_get_hello(&r, &m));
    ck_assert_uint_ne(m.nonce, 0);
    return m.nonce;
}

static void put(int fd, const void *p, size_t n)
{
    ck_assert_int_eq(send(fd, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

static int come_up(void)
{
    uint8_t buf[600];
    int fd = accept_link(), i;

    put(fd, buf, hello_ok(buf, take_nonce(fd), WIRE_VERSION));
    for (i = 0; i < 100 && !hv_link_is_up(l); i++)
        (void)hv_link_idle(l, 10);
    ck_assert(hv_link_is_up(l));
    return fd;
}

START_TEST(it_comes_up_through_any_garbage)
{
    uint8_t buf[4096], good[600];
    int fd = accept_link();
    uint64_t nonce = take_nonce(fd);
    size_t n = hello_ok(good, nonce, WIRE_VERSION), stale;

    /* Noise, half an old frame, an answer to somebody else's HELLO, one with a
     * wrong checksum, and then the right one, in small pieces. */
    memset(buf, 0x42, 100);
    put(fd, buf, 100);
    put(fd, good, 25);
    stale = hello_ok(buf, nonce ^ 1, WIRE_VERSION);
    put(fd, buf, stale);
    memcpy(buf, good, n);
    buf[n - 1] ^= 1;
    put(fd, buf, n);
    for (size_t i = 0; i < n; i++) {
        ck_assert(!hv_link_is_up(l));
        put(fd, good + i, 1);
        (void)hv_link_idle(l, 5);
    }
    for (int i = 0; i < 50 && !hv_link_is_up(l); i++)
        (void)hv_link_idle(l, 10);
    ck_assert(hv_link_is_up(l));
    ck_assert_str_eq(hv_link_hello(l)->agent, "a?");
    close(fd);
}
END_TEST

START_TEST(every_truncation_of_a_hello_leaves_it_down)
{
    uint8_t good[600];
    int fd = accept_link();
    uint64_t nonce = take_nonce(fd);
    size_t n = hello_ok(good, nonce, WIRE_VERSION), cut = (size_t)_i;

    if (cut < n) {
        put(fd, good, cut);
        for (int i = 0; i < 3; i++)
            (void)hv_link_idle(l, 5);
        ck_assert(!hv_link_is_up(l));
    }
    close(fd);
}
END_TEST

START_TEST(another_version_is_named)
{
    struct bs_err err;
    uint8_t buf[600];
    int fd = accept_link();

    put(fd, buf, hello_ok(buf, take_nonce(fd), 7));
    ck_assert_int_eq(hv_link_refresh(l, 300, &err), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.text, "version 7"));
    close(fd);
}
END_TEST

START_TEST(nobody_there_is_said_within_the_limit)
{
    struct bs_err err;
    int64_t start = hv_now_ms();

    ck_assert_int_eq(hv_link_refresh(l, 200, &err), -EHOSTUNREACH);
    ck_assert_int_lt(hv_now_ms() - start, 5000);
    close(listen_fd);
    unlink(path);
    hv_link_drop(l, "test");
    ck_assert_int_eq(hv_link_refresh(l, 200, &err), -EHOSTUNREACH);
    ck_assert_ptr_nonnull(strstr(err.text, "nobody offers"));
    listen_fd = -1;
}
END_TEST

static unsigned n_answers;

static int count_answer(void *opaque, uint32_t tag, uint16_t type,
                        struct wire_r *r, struct bs_err *err)
{
    (void)opaque;
    (void)r;
    (void)err;
    ck_assert_uint_eq(tag, n_answers);
    ck_assert_uint_eq(type, WIRE_OK);
    n_answers++;
    return 0;
}

static void *answer_all(void *arg)
{
    int fd = *(int *)arg;
    const uint8_t *p;

    for (unsigned i = 0; i < 1000; i++)
        g_send(fd, WIRE_OK, next_frame(fd, &p).seq, NULL, 0);
    return NULL;
}

START_TEST(a_thousand_requests_in_flight_are_answered_in_order)
{
    pthread_t t;
    int fd = come_up();

    n_answers = 0;
    ck_assert_int_eq(pthread_create(&t, NULL, answer_all, &fd), 0);
    for (unsigned i = 0; i < 1000; i++) {
        wire_put_u32(hv_link_payload(l), i);
        ok(hv_link_submit(l, WIRE_HOOK, count_answer, NULL, i, &err));
    }
    ok(hv_link_drain(l, &err));
    ck_assert_uint_eq(n_answers, 1000);
    pthread_join(t, NULL);
    close(fd);
}
END_TEST

static int call(struct bs_err *err)
{
    hv_link_payload(l);
    return hv_link_call(l, WIRE_LEASE, hv_answer_ok, NULL, 0, NULL, err);
}

static void *answer_once(void *arg)
{
    static const struct {
        uint16_t type;
        uint32_t seq_off;
        uint8_t flip;
    } t[] = { { WIRE_OK, 1, 0 },        { WIRE_STAGED, 0, 0 },
              { WIRE_HELLO, 0, 0 },     { WIRE_OK, 0, 17 },
              { WIRE_OK, 0, 0x81 },     { WIRE_PROGRESS, 0, 0 } };
    int *a = arg, fd = a[0];
    uint8_t h[WIRE_HEADER_BYTES];
    const uint8_t *p;
    struct wire_frame f = next_frame(fd, &p);

    wire_frame_encode(h, t[a[1]].type, f.seq + t[a[1]].seq_off, NULL, 0);
    if (t[a[1]].flip)
        h[t[a[1]].flip & 31] ^= 0x40; /* checksum; magic or reserved */
    put(fd, h, sizeof(h));
    return NULL;
}

START_TEST(an_answer_that_breaks_a_rule_ends_the_connection)
{
    struct bs_err err;
    pthread_t t;
    int a[2] = { come_up(), _i };

    ck_assert_int_eq(pthread_create(&t, NULL, answer_once, a), 0);
    ck_assert_int_eq(call(&err), -EHOSTUNREACH);
    ck_assert(!hv_link_is_up(l));
    pthread_join(t, NULL);
    close(a[0]);
    close(come_up()); /* and it comes back */
}
END_TEST

START_TEST(silence_is_not_waited_for_longer_than_the_limit)
{
    int64_t start;
    struct bs_err err;
    int fd = come_up();

    start = hv_now_ms();
    ck_assert_int_eq(call(&err), -EHOSTUNREACH);
    ck_assert_int_ge(hv_now_ms() - start, 490);
    ck_assert_int_lt(hv_now_ms() - start, 10000);
    ck_assert_ptr_nonnull(strstr(err.text, "silent"));
    close(fd);
}
END_TEST

static void *end_soon(void *arg)
{
    uint64_t one = 1;

    (void)arg;
    usleep(50000);
    atomic_store(&stop, true);
    ck_assert_int_eq(write(wake_fd, &one, 8), 8);
    return NULL;
}

START_TEST(who_is_told_to_end_does_not_wait)
{
    struct bs_err err;
    pthread_t t;
    int fd = come_up();

    ck_assert_int_eq(pthread_create(&t, NULL, end_soon, NULL), 0);
    ck_assert_int_eq(call(&err), -ECANCELED);
    pthread_join(t, NULL);
    close(fd);
}
END_TEST

static void *restart_agent(void *arg)
{
    int fd = *(int *)arg;
    uint8_t buf[600];

    /* The request is lost with the old agent; the new one knows HELLO only. */
    put(fd, buf, hello_ok(buf, take_nonce(fd), WIRE_VERSION));
    return NULL;
}

START_TEST(an_agent_that_was_started_anew_is_noticed)
{
    struct bs_err err;
    pthread_t t;
    int fd;

    hv_link_free(l);
    ck_assert_int_eq(hv_link_new(path, wake_fd, 60000, &l), 0);
    hv_link_set_retry(l, 10);
    fd = come_up();
    hv_link_allow_ping(l, true);
    ck_assert_int_eq(pthread_create(&t, NULL, restart_agent, &fd), 0);
    ck_assert_int_eq(call(&err), -EHOSTUNREACH);
    ck_assert_ptr_nonnull(strstr(err.text, "anew"));
    pthread_join(t, NULL);
    close(fd);
}
END_TEST

START_TEST(errors_are_said_with_their_code_and_cleaned)
{
    static const struct {
        uint16_t code;
        int want;
    } t[] = { { WIRE_E_NOSPC, ENOSPC }, { WIRE_E_IO, EIO }, { WIRE_E_BUSY, EBUSY },
              { WIRE_E_VERSION, EPROTO }, { 0, EPROTO }, { 99, EPROTO },
              { WIRE_E_READ_ONLY, EROFS } };
    struct bs_err err;
    uint8_t buf[256];
    struct wire_w w;
    struct wire_r r;

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        wire_w_init(&w, buf, sizeof(buf));
        g_error(&w, t[i].code, 3);
        wire_r_init(&r, buf, w.len);
        ck_assert_int_eq(hv_link_refusal(&r, "it", &err), -t[i].want);
        ck_assert_ptr_null(strchr(err.text, 27));
        for (size_t n = 0; n < w.len; n++) {
            wire_r_init(&r, buf, n);
            ck_assert_int_eq(hv_link_refusal(&r, "it", &err), -EPROTO);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("link");
    TCase *t = tcase_create("link");
    SRunner *sr;
    int n;

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, it_comes_up_through_any_garbage);
    tcase_add_loop_test(t, every_truncation_of_a_hello_leaves_it_down, 0, 110);
    tcase_add_test(t, another_version_is_named);
    tcase_add_test(t, nobody_there_is_said_within_the_limit);
    tcase_add_test(t, a_thousand_requests_in_flight_are_answered_in_order);
    tcase_add_loop_test(t, an_answer_that_breaks_a_rule_ends_the_connection, 0, 6);
    tcase_add_test(t, silence_is_not_waited_for_longer_than_the_limit);
    tcase_add_test(t, who_is_told_to_end_does_not_wait);
    tcase_add_test(t, an_agent_that_was_started_anew_is_noticed);
    tcase_add_test(t, errors_are_said_with_their_code_and_cleaned);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    n = srunner_ntests_failed(sr);
    srunner_free(sr);
    return n ? EXIT_FAILURE : EXIT_SUCCESS;
}
