// SPDX-License-Identifier: GPL-2.0-or-later
/* One disk, its ring: events, indexes, the order of requests, stopping, what is
 * refused, and what a hostile guest gets logged. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "disk.h"

/* ---- events and indexes ---------------------------------------------------- */

START_TEST(the_guest_is_notified_when_it_asked_for_it)
{
    struct frsp rsp;
    int fd = g.ports[0].to_front;

    begin(HV_BLKIF_X86_64, false, 512);
    ck_assert(front_may_sleep(&f));
    do_one(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE });
    ck_assert(take_event(fd));
    /* It did not ask again. */
    do_one(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE });
    ck_assert(!take_event(fd));
    /* It asked for the third of three. */
    *ring_word(&f, RSP_EVENT) = f.rsp_cons + 3;
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(!take_event(fd));
        front_put(&f, &(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE });
        front_publish(&f);
        process_all(b);
    }
    ck_assert(take_event(fd));
    for (unsigned i = 0; i < 3; i++)
        ck_assert(front_get(&f, &rsp));
}
END_TEST

START_TEST(the_backend_asks_for_an_event_before_it_sleeps)
{
    begin(HV_BLKIF_X86_64, false, 512);
    process_all(b);
    ck_assert_uint_eq(*ring_word(&f, REQ_EVENT), f.req_prod + 1);
    for (unsigned i = 0; i < 5; i++) {
        do_one(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE });
        ck_assert_uint_eq(*ring_word(&f, REQ_EVENT), f.req_prod + 1);
    }
    /* A request that comes between the last look and the sleep is seen by the
     * look after the asking; test_blkback-model has it with threads. */
}
END_TEST

static unsigned n_prod_reads;
static void add_when_looked_at(struct guest *guest, void *at, size_t n)
{
    (void)guest, (void)n;
    /* The second look at req_prod is the one behind req_event. */
    if (((uintptr_t)at & (PAGE - 1)) == REQ_PROD * 4 && ++n_prod_reads == 2) {
        front_put(&f, &(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE, .id = 77 });
        *ring_word(&f, REQ_PROD) = f.req_prod; /* and no event */
    }
}

START_TEST(a_request_between_last_look_and_sleep_is_seen)
{
    struct frsp rsp;

    begin(HV_BLKIF_X86_64, false, 512);
    process_all(b);
    g.on_read = add_when_looked_at;
    n_prod_reads = 0;
    send_event(g.ports[0].to_back);
    process_all(b);
    ck_assert(front_get(&f, &rsp));
    ck_assert_uint_eq(rsp.id, 77);
}
END_TEST

START_TEST(impossible_producer_indexes_halt_the_ring)
{
    static const int32_t by[] = { 33, 34, 1000, INT32_MAX, INT32_MIN, -1, -2, -32 };
    struct blkif_request_segment s[1];

    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    for (unsigned i = 0; i < 40; i++)
        expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
               BLKIF_OP_READ, 0);
    *ring_word(&f, REQ_PROD) = f.req_prod + (uint32_t)by[_i];
    send_event(g.ports[0].to_back);
    process_all(b);
    ck_assert_uint_eq(stats().halted, 1);
    ck_assert_uint_eq(stats().consumed, 40);
    /* It does not come back by putting the index right. */
    *ring_word(&f, REQ_PROD) = f.req_prod + 1;
    send_event(g.ports[0].to_back);
    process_all(b);
    ck_assert_uint_eq(stats().consumed, 40);
    ck_assert_uint_eq(*ring_word(&f, RSP_PROD), f.rsp_cons);
}
END_TEST

START_TEST(a_full_ring_is_served_whatever_the_indexes)
{
    static const uint32_t starts[] = { 0, 31, UINT32_MAX, UINT32_MAX - 1,
                                       UINT32_MAX - 31, UINT32_MAX - 511,
                                       0x7fffffff, 0x80000000 };
    struct blkif_request_segment s[1];
    struct frsp rsp;

    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    front_init(&f, &g, _i & 1 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64, (unsigned)_i % 5,
               0, starts[_i]);
    ck_assert_int_eq(connect_fronts(b, &f, 1, true, 512, false, &err), 0);
    s[0] = seg(new_page(&g), 0, 7);
    for (unsigned round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < f.n_slots; i++)
            front_put(&f, &(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1,
                                          .segs = s, .id = i });
        front_publish(&f);
        process_all(b);
        for (uint32_t i = 0; i < f.n_slots; i++) {
            ck_assert(front_get(&f, &rsp));
            ck_assert_uint_eq(rsp.id, i); /* one thread: in order */
            ck_assert_int_eq(rsp.status, 0);
        }
    }
    ck_assert_uint_eq(stats().halted, 0);
}
END_TEST

/* ---- order, stopping ------------------------------------------------------- */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_cond = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static unsigned n_at_gate, n_after;
static char seen[64];

/* Writes to the first MiB wait until the gate opens. */
static void gate(struct guest *guest, char what, uint64_t off)
{
    (void)guest;
    pthread_mutex_lock(&gate_lock);
    if (what == 'w' && off < 1 << 20) {
        n_at_gate++;
        pthread_cond_broadcast(&gate_cond);
        while (!gate_open)
            pthread_cond_wait(&gate_cond, &gate_lock);
    }
    if (strlen(seen) + 1 < sizeof(seen))
        seen[strlen(seen)] = what;
    n_after++;
    pthread_cond_broadcast(&gate_cond);
    pthread_mutex_unlock(&gate_lock);
}

static void set_gate(bool open)
{
    pthread_mutex_lock(&gate_lock);
    gate_open = open;
    pthread_cond_broadcast(&gate_cond);
    pthread_mutex_unlock(&gate_lock);
}

static void wait_for(const unsigned *what, unsigned n)
{
    pthread_mutex_lock(&gate_lock);
    while (*what < n)
        pthread_cond_wait(&gate_cond, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static void begin_gated(unsigned n_threads)
{
    config.n_threads = n_threads;
    gate_open = false;
    n_at_gate = n_after = 0;
    memset(seen, 0, sizeof(seen));
    g.on_io = gate;
    begin(HV_BLKIF_X86_64, false, 512);
}

START_TEST(responses_come_as_requests_end)
{
    struct blkif_request_segment s[1];
    struct frsp rsp;

    begin_gated(2);
    s[0] = seg(new_page(&g), 0, 7);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s,
                                  .id = 1 });
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s,
                                  .id = 2, .sector = 4096 });
    front_publish(&f);
    hv_blkback_process(b);
    while (!front_get(&f, &rsp))
        if (front_may_sleep(&f))
            front_sleep(&f);
    ck_assert_uint_eq(rsp.id, 2);
    set_gate(true);
    while (!front_get(&f, &rsp))
        if (front_may_sleep(&f))
            front_sleep(&f);
    ck_assert_uint_eq(rsp.id, 1);
}
END_TEST

START_TEST(more_requests_than_unanswered_ones_leave_room_for_halt_the_ring)
{
    struct blkif_request_segment s[1];
    struct frsp rsp;

    begin_gated(1);
    s[0] = seg(new_page(&g), 0, 7);
    for (unsigned i = 0; i < f.n_slots - 1; i++)
        front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s,
                                      .id = i });
    front_publish(&f);
    hv_blkback_process(b);
    wait_for(&n_at_gate, 1);
    *ring_word(&f, REQ_PROD) = f.req_prod + 2; /* there is room for one */
    send_event(g.ports[0].to_back);
    hv_blkback_process(b);
    ck_assert_uint_eq(stats().halted, 1);
    ck_assert_uint_eq(stats().consumed, f.n_slots - 1);
    set_gate(true);
    for (unsigned i = 0; i < f.n_slots - 1; i++) {
        while (!front_get(&f, &rsp))
            if (front_may_sleep(&f))
                front_sleep(&f);
        ck_assert_uint_eq(rsp.id, i);
        ck_assert_int_eq(rsp.status, 0);
    }
}
END_TEST

static pthread_t io_thread;
static void note_thread(struct guest *guest, char what, uint64_t off)
{
    (void)guest, (void)what, (void)off;
    io_thread = pthread_self();
}

START_TEST(a_lone_request_needs_no_thread_if_the_disk_is_told_so)
{
    config.n_threads = 2;
    config.poll_does_lone = _i;
    g.on_io = note_thread;
    begin(HV_BLKIF_X86_64, false, 512);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE });
    front_publish(&f);
    hv_blkback_process(b);
    hv_blkback_stop(b);
    hv_blkback_disconnect(b);
    ck_assert_int_eq(pthread_equal(io_thread, pthread_self()) != 0, _i);
}
END_TEST

START_TEST(a_barrier_waits_and_is_waited_for)
{
    struct blkif_request_segment s[1];
    struct frsp rsp;

    begin_gated(4);
    s[0] = seg(new_page(&g), 0, 7);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s });
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s,
                                  .sector = 8 });
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE_BARRIER, .n_segs = 1,
                                  .segs = s, .sector = 4096 });
    front_put(&f, &(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s });
    front_publish(&f);
    hv_blkback_process(b);
    wait_for(&n_at_gate, 2);
    ck_assert_uint_eq(n_after, 0);
    set_gate(true);
    for (unsigned i = 0; i < 4; i++)
        while (!front_get(&f, &rsp))
            if (front_may_sleep(&f))
                front_sleep(&f);
    wait_for(&n_after, 5); /* its lock is seen's, too */
    ck_assert_str_eq(seen, "wwfWr");
}
END_TEST

START_TEST(a_stopped_disk_ends_what_it_has_and_takes_nothing)
{
    struct pollfd p;
    struct blkif_request_segment s[1];
    struct frsp rsp;

    begin_gated(2);
    p = (struct pollfd){ .fd = hv_blkback_fd(b), .events = POLLIN };
    s[0] = seg(new_page(&g), 0, 7);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s });
    front_publish(&f);
    hv_blkback_process(b);
    wait_for(&n_at_gate, 1);
    hv_blkback_stop(b);
    hv_blkback_process(b);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s,
                                  .id = 5 });
    front_publish(&f);
    hv_blkback_process(b);
    ck_assert(!hv_blkback_drained(b));
    ck_assert_uint_eq(stats().inflight, 1);
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    set_gate(true);
    ck_assert_int_eq(poll(&p, 1, 60000), 1); /* it says when it is drained */
    hv_blkback_process(b);
    ck_assert(hv_blkback_drained(b));
    ck_assert(front_get(&f, &rsp));
    ck_assert(!front_get(&f, &rsp));
    hv_blkback_resume(b);
    ck_assert_int_eq(poll(&p, 1, 60000), 1);
    hv_blkback_process(b);
    while (!front_get(&f, &rsp))
        if (front_may_sleep(&f))
            front_sleep(&f);
    ck_assert_uint_eq(rsp.id, 5);
}
END_TEST

static void *open_gate_later(void *opaque)
{
    (void)opaque;
    wait_for(&n_at_gate, 1);
    set_gate(true);
    return NULL;
}

START_TEST(disconnecting_waits_for_what_is_under_way)
{
    struct blkif_request_segment s[1];
    struct frsp rsp;
    pthread_t t;

    begin_gated(1);
    s[0] = seg(new_page(&g), 0, 7);
    for (unsigned i = 0; i < 3; i++)
        front_put(&f, &(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 1, .segs = s });
    front_publish(&f);
    hv_blkback_process(b);
    pthread_create(&t, NULL, open_gate_later, NULL);
    hv_blkback_disconnect(b);
    pthread_join(t, NULL);
    for (unsigned i = 0; i < 3; i++)
        ck_assert(front_get(&f, &rsp));
    ck_assert_uint_eq(atomic_load(&g.shared->n_pages_mapped), 0);
    ck_assert_int_ne(access(log_name(), F_OK), 0);
    /* And the same disk again, with a new ring. */
    front_init(&f, &g, HV_BLKIF_X86_32, 2, 1, 5);
    ck_assert_int_eq(connect_fronts(b, &f, 1, true, 4096, false, &err), 0);
    front_put(&f, &(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE, .id = 6 });
    front_publish(&f);
    hv_blkback_process(b);
    while (!front_get(&f, &rsp))
        if (front_may_sleep(&f))
            front_sleep(&f);
    ck_assert_uint_eq(rsp.id, 6);
}
END_TEST

/* ---- refusals -------------------------------------------------------------- */

START_TEST(impossible_connections_are_refused)
{
    struct hv_blkback_ring_params p[HV_BLKBACK_MAX_RINGS + 1] = { 0 };
    struct hv_blkback_conn good = { .n_rings = 1, .rings = p, .sector_bytes = 512 };
    struct hv_blkback_conn c;
    uint32_t ref = new_page(&g);

    config.size_bytes = (4 << 20) - 512;
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    p[0].refs[0] = ref;
    c = good;
    c.n_rings = 0;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EINVAL);
    c.n_rings = 17;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EINVAL);
    c = good;
    c.ring_order = 5;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EINVAL);
    c = good;
    c.sector_bytes = 1024;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EINVAL);
    c.sector_bytes = 4096; /* the disk is no multiple of it */
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EINVAL);
    c = good;
    p[0].port = MAX_PORTS;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EFAULT);
    p[0].port = 0;
    c.ring_order = 1; /* its second page is not granted */
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EFAULT);
    c.ring_order = 0;
    c.n_rings = 2; /* the second ring's page is not */
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EFAULT);
    ck_assert_uint_eq(atomic_load(&g.shared->n_pages_mapped), 0);
    ck_assert_uint_eq(atomic_load(&g.shared->n_bound), 0);
    c = good;
    c.adopt = true;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -ENOENT);
    c.adopt = false;
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), 0);
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EBUSY);
}
END_TEST

START_TEST(bad_disks_are_refused)
{
    struct hv_blkback_config c = config;

    c.n_threads = HV_BLKBACK_MAX_THREADS + 1;
    ck_assert_int_eq(hv_blkback_new(&c, &b, &err), -EINVAL);
    c = config;
    c.max_segs = 257;
    ck_assert_int_eq(hv_blkback_new(&c, &b, &err), -EINVAL);
    c = config;
    c.io = NULL;
    ck_assert_int_eq(hv_blkback_new(&c, &b, &err), -EINVAL);
    c = config;
    c.inflight_path = "/nonexistent/folder/log";
    ck_assert_int_eq(hv_blkback_new(&c, &b, &err), 0);
    front_init(&f, &g, HV_BLKIF_X86_64, 0, 0, 0);
    ck_assert_int_eq(connect_fronts(b, &f, 1, false, 512, false, &err), -ENOENT);
    ck_assert(strstr(err.text, "/nonexistent/folder/log"));
}
END_TEST

/* A memory file system that is full shows when the log is made, not as a SIGBUS
 * in mid-I/O. */
START_TEST(no_room_for_the_log_is_said_in_time)
{
    struct rlimit limit, small;

    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    front_init(&f, &g, HV_BLKIF_X86_64, 4, 0, 0);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){ 100000, limit.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    ck_assert_int_eq(connect_fronts(b, &f, 1, false, 512, false, &err), -EFBIG);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert(strstr(err.text, "no room for"));
    ck_assert_int_ne(access(log_name(), F_OK), 0);
    ck_assert_int_eq(connect_fronts(b, &f, 1, false, 512, false, &err), 0);
}
END_TEST

START_TEST(a_hostile_guest_does_not_fill_the_log)
{
    struct blkif_request_segment s[1];
    char text[65536];
    ssize_t n;
    int pipes[2], old, lines = 0;

    s[0] = seg(1, 0, 7); /* no such grant: an I/O error each */
    ck_assert_int_eq(pipe2(pipes, O_NONBLOCK), 0);
    old = dup(2);
    dup2(pipes[1], 2);
    begin(HV_BLKIF_X86_64, true, 512);
    for (unsigned i = 0; i < 20000; i++) {
        do_one(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s });
        do_one(&(struct freq){ .op = (uint8_t)i, .n_segs = 99 });
    }
    for (unsigned i = 0; i < 50; i++) { /* reconnect storm, a broken ring each */
        hv_blkback_disconnect(b);
        front_init(&f, &g, HV_BLKIF_X86_64, 0, 0, i);
        ck_assert_int_eq(connect_fronts(b, &f, 1, true, 512, false, &err), 0);
        *ring_word(&f, REQ_PROD) = i + 1000;
        process_all(b);
    }
    dup2(old, 2);
    n = read(pipes[0], text, sizeof(text));
    for (ssize_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    ck_assert_int_gt(lines, 0);
    ck_assert_int_le(lines, 60); /* 6 in 10 seconds */
    ck_assert_uint_eq(stats().halted, 50);
    close(old);
    close(pipes[0]);
    close(pipes[1]);
}
END_TEST

/* On a host that is no Xen domain the real one says so; on one that is, it
 * opens. */
START_TEST(the_real_one_says_what_is_missing)
{
    struct hv_xen *xen = NULL;
    int r = hv_xen_open(1, &xen, &err);

    if (access("/dev/xen/gntdev", R_OK | W_OK) == 0) {
        ck_assert_int_eq(r, 0);
    } else {
        ck_assert_int_eq(r, -ENODEV);
        ck_assert(strstr(err.text, "/dev/xen/gntdev"));
    }
    hv_xen_close(xen);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkback-ring");
    TCase *tc = tcase_create("blkback-ring");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, the_guest_is_notified_when_it_asked_for_it);
    tcase_add_test(tc, the_backend_asks_for_an_event_before_it_sleeps);
    tcase_add_test(tc, a_request_between_last_look_and_sleep_is_seen);
    tcase_add_loop_test(tc, impossible_producer_indexes_halt_the_ring, 0, 8);
    tcase_add_loop_test(tc, a_full_ring_is_served_whatever_the_indexes, 0, 8);
    tcase_add_test(tc, responses_come_as_requests_end);
    tcase_add_test(tc, more_requests_than_unanswered_ones_leave_room_for_halt_the_ring);
    tcase_add_loop_test(tc, a_lone_request_needs_no_thread_if_the_disk_is_told_so,
                        0, 2);
    tcase_add_test(tc, a_barrier_waits_and_is_waited_for);
    tcase_add_test(tc, a_stopped_disk_ends_what_it_has_and_takes_nothing);
    tcase_add_test(tc, disconnecting_waits_for_what_is_under_way);
    tcase_add_test(tc, impossible_connections_are_refused);
    tcase_add_test(tc, bad_disks_are_refused);
    tcase_add_test(tc, no_room_for_the_log_is_said_in_time);
    tcase_add_test(tc, a_hostile_guest_does_not_fill_the_log);
    tcase_add_test(tc, the_real_one_says_what_is_missing);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
