// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "unit/guest-agent/support.h"

static struct agent_chan chan;

static void setup(void)
{
    ck_assert_int_eq(agent_chan_init(&chan, "unused"), 0);
}

static void teardown(void)
{
    agent_chan_fini(&chan);
}

static void feed(const void *p, size_t n)
{
    memcpy(chan.buf + chan.len, p, n);
    chan.len += n;
}

static void feed_frame(uint16_t type, uint32_t seq, const void *payload, uint32_t len)
{
    uint8_t hdr[WIRE_HEADER_BYTES];

    wire_frame_encode(hdr, type, seq, payload, len);
    feed(hdr, sizeof(hdr));
    feed(payload, len);
}

static void feed_hello(uint32_t seq)
{
    struct wire_msg_hello m = { 1, 1, 5 };
    uint8_t buf[64];
    struct wire_w w;

    wire_w_init(&w, buf, sizeof(buf));
    wire_put_hello(&w, &m);
    feed_frame(WIRE_HELLO, seq, buf, (uint32_t)w.len);
}

/* The next frame's seq, or -1; and consumes it. */
static int next_seq(void)
{
    const uint8_t *payload;
    struct wire_frame f;
    size_t used = 0;

    if (!agent_chan_take(&chan, &f, &payload, &used))
        return -1;
    chan.len -= used;
    memmove(chan.buf, chan.buf + used, chan.len);
    return (int)f.seq;
}

START_TEST(nothing_counts_before_a_hello)
{
    feed_frame(WIRE_USERS, 1, "", 0);
    feed_frame(WIRE_FLUSH, 2, "\0\0\0\0", 4);
    feed_hello(3);
    feed_frame(WIRE_USERS, 4, "", 0);
    ck_assert_int_eq(next_seq(), 3);
    ck_assert_int_eq(next_seq(), 4);
    ck_assert_int_eq(next_seq(), -1);
}
END_TEST

START_TEST(after_a_malformed_frame_all_is_dropped_up_to_the_next_hello)
{
    static const char junk[] = "BSw1 but this is no frame BSwBSw1\x10";

    feed_hello(1);
    ck_assert_int_eq(next_seq(), 1);
    feed(junk, sizeof(junk));
    feed_frame(WIRE_USERS, 2, "", 0);
    feed_hello(3);
    ck_assert_int_eq(next_seq(), 3);
    feed_frame(WIRE_USERS, 4, "", 0);
    chan.buf[16] ^= 1; /* checksum */
    feed_frame(WIRE_USERS, 5, "", 0);
    ck_assert_int_eq(next_seq(), -1);
    feed_hello(6);
    ck_assert_int_eq(next_seq(), 6);
}
END_TEST

START_TEST(a_hello_inside_a_broken_frame_is_found)
{
    uint8_t hdr[WIRE_HEADER_BYTES];

    feed_hello(1);
    ck_assert_int_eq(next_seq(), 1);
    wire_frame_encode(hdr, WIRE_DATA, 2, "", 0);
    hdr[8] = WIRE_HEADER_BYTES + 12; /* the length that HELLO then has */
    feed(hdr, sizeof(hdr));
    feed_hello(3);
    ck_assert_int_eq(next_seq(), 3);
}
END_TEST

START_TEST(bytes_may_come_one_by_one)
{
    const uint8_t *payload;
    struct wire_frame f;
    uint8_t all[256];
    size_t i, n, used;

    feed_frame(WIRE_USERS, 1, "", 0);
    feed_hello(2);
    n = chan.len;
    memcpy(all, chan.buf, n);
    chan.len = 0;
    for (i = 0; i < n; i++) {
        feed(all + i, 1);
        ck_assert_int_eq(agent_chan_take(&chan, &f, &payload, &used), i == n - 1);
    }
    ck_assert_uint_eq(f.seq, 2);
}
END_TEST

START_TEST(the_largest_frame_fits)
{
    uint8_t *big = calloc(1, WIRE_PAYLOAD_MAX);

    feed_hello(1);
    ck_assert_int_eq(next_seq(), 1);
    feed_frame(WIRE_DATA, 2, big, WIRE_PAYLOAD_MAX);
    ck_assert_int_eq(next_seq(), 2);
    free(big);
}
END_TEST

/* ---- over a socket ---- */

static void *accept_twice(void *arg)
{
    struct wire_msg_hello m = { 1, 1, 5 };
    int listen_fd = *(int *)arg, i, fd;
    uint8_t buf[64], hdr[WIRE_HEADER_BYTES];
    struct wire_w w;

    wire_w_init(&w, buf, sizeof(buf));
    wire_put_hello(&w, &m);
    for (i = 0; i < 2; i++) {
        fd = accept(listen_fd, NULL, NULL);
        wire_frame_encode(hdr, WIRE_HELLO, 10 + (uint32_t)i, buf, (uint32_t)w.len);
        if (write(fd, hdr, sizeof(hdr)) < 0 || write(fd, buf, w.len) < 0)
            abort();
        if (read(fd, hdr, sizeof(hdr)) != sizeof(hdr)) /* the answer below */
            abort();
        close(fd);
    }
    return NULL;
}

START_TEST(a_host_that_went_away_is_waited_for_and_met_anew)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct agent_chan c;
    const uint8_t *payload;
    struct wire_frame f;
    char *dir = scratch(false);
    size_t used;
    pthread_t t;
    int fd, i;

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
    ck_assert_int_eq(agent_chan_init(&c, sa.sun_path), 0);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(pthread_create(&t, NULL, accept_twice, &fd), 0);
    for (i = 0; i < 2; i++) {
        ck_assert_int_eq(agent_chan_wait(&c), 0);
        used = 0;
        ck_assert_int_eq(agent_chan_read(&c, &f, &payload, &used), 1);
        ck_assert_uint_eq(f.seq, 10 + (uint32_t)i);
        ck_assert_int_eq(agent_chan_send(&c, WIRE_OK, f.seq, "", 0), 0);
        ck_assert_int_eq(agent_chan_read(&c, &f, &payload, &used), 0);
        ck_assert_int_lt(agent_chan_send(&c, WIRE_OK, f.seq, "", 0), 0);
    }
    pthread_join(t, NULL);
    close(fd);
    agent_chan_fini(&c);
    rm_tree(dir);
    free(dir);
}
END_TEST

static Suite *channel_suite(void)
{
    Suite *s = suite_create("channel");
    TCase *t = tcase_create("channel");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nothing_counts_before_a_hello);
    tcase_add_test(t, after_a_malformed_frame_all_is_dropped_up_to_the_next_hello);
    tcase_add_test(t, a_hello_inside_a_broken_frame_is_found);
    tcase_add_test(t, bytes_may_come_one_by_one);
    tcase_add_test(t, the_largest_frame_fits);
    tcase_add_test(t, a_host_that_went_away_is_waited_for_and_met_anew);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(channel)
