// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>
#include <sys/mman.h>

#include "unit/guest-agent/support.h"

static struct rig g;
static char content[3 * 4096 + 5];

static void setup(void)
{
    rig_init(&g, false);
    memset(content, 'c', sizeof(content));
    put_file(&g, "/f", content, sizeof(content));
    put_file(&g, "/g", content, sizeof(content));
}

static void teardown(void)
{
    rig_fini(&g);
}

/* Two files in place; their new content is the old one, as no host changes it
 * here, but for /g if other. */
static void stage(bool other)
{
    struct wire_node n = node_file(content, sizeof(content), 0644), to = n;
    struct wire_msg_op op = { 0, 0, 0, "/f", n, to };

    op.to.mode = 0600;
    rig_hello(&g);
    rig_begin(&g, 1, 2, 1, 0);
    rig_op(&g, &op);
    op.index = 1;
    op.path = "/g";
    if (other)
        op.to.digest[0] ^= 1;
    rig_op(&g, &op);
    rig_select_all(&g, 1);
    rig_stage(&g, 0, WIRE_IN_PLACE);
    rig_stage(&g, 1, WIRE_IN_PLACE);
}

/* The indexes of a LEASED or EVICTED, as bits. */
static unsigned refused(uint16_t request, uint16_t answer)
{
    unsigned bits = 0;
    uint32_t n;

    rig_req(&g);
    ask_ok(&g, request, answer);
    ck_assert(wire_get_n_indexes(&g.r, &n));
    while (n-- > 0)
        bits |= 1u << wire_get_u32(&g.r);
    return bits;
}

START_TEST(a_file_nobody_uses_is_leased_and_its_pages_are_gone)
{
    struct stat st;

    stage(false);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    ck_assert_int_ge(g.a.job.ops[0].lease_fd, 0);
    ck_assert_int_eq(agent_cached_pages(g.a.job.ops[0].lease_fd, sizeof(content)), 0);
    ck_assert_int_eq(open(at(&g, "/f"), O_RDONLY | O_NONBLOCK), -1);
    ck_assert_int_eq(errno, EWOULDBLOCK);
    /* Somebody asked: before PREPARE the agent gives way at once. */
    agent_lease_poll(&g.a);
    ck_assert_int_eq(g.a.job.ops[0].lease_fd, -1);
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_CHANGED);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    ck_assert_uint_eq(refused(WIRE_EVICT, WIRE_EVICTED), 0);
    rig_commit(&g, 1);
    ck_assert_int_eq(stat(at(&g, "/f"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(st.st_mtime, 1000000000);
    close(open(at(&g, "/f"), O_RDONLY | O_NONBLOCK)); /* nothing held */
}
END_TEST

START_TEST(a_file_that_is_open_or_mapped_is_refused)
{
    void *p;
    int fd;

    stage(false);
    fd = open(at(&g, "/f"), O_RDONLY);
    p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 1);
    close(fd);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 1);
    munmap(p, 4096);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_abort(&g, 1);
}
END_TEST

START_TEST(a_refused_file_may_be_staged_another_way)
{
    int fd;

    stage(false);
    fd = open(at(&g, "/g"), O_RDONLY);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 2);
    rig_copy(&g, 1, 0, content, sizeof(content));
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    ck_assert_uint_eq(refused(WIRE_EVICT, WIRE_EVICTED), 0);
    rig_commit(&g, 1);
    close(fd);
}
END_TEST

static void *open_it(void *arg)
{
    int fd = open(arg, O_RDONLY); /* waits for the lease */

    close(fd);
    return NULL;
}

START_TEST(an_open_waits_from_prepare_to_commit)
{
    char path[4600];
    pthread_t t;
    int fd;

    stage(false);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    fd = g.a.job.ops[0].lease_fd;
    snprintf(path, sizeof(path), "%s/f", g.root);
    ck_assert_int_eq(pthread_create(&t, NULL, open_it, path), 0);
    while (fcntl(fd, F_GETLEASE) == F_WRLCK)
        usleep(1000); /* until the other thread waits */
    agent_lease_poll(&g.a);
    ck_assert_int_eq(g.a.job.ops[0].lease_fd, fd); /* still held */
    ck_assert_uint_eq(refused(WIRE_EVICT, WIRE_EVICTED), 0);
    rig_commit(&g, 1);
    pthread_join(t, NULL);
}
END_TEST

START_TEST(content_that_is_not_the_new_one_is_told_at_evict_and_noted_at_commit)
{
    char *notes;

    stage(true);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    ck_assert_uint_eq(refused(WIRE_EVICT, WIRE_EVICTED), 2);
    rig_commit(&g, 1);
    notes = rig_notes(&g);
    ck_assert_ptr_nonnull(strstr(notes, "/g: does not read as new"));
    ck_assert_ptr_null(strstr(notes, "/f"));
    free(notes);
}
END_TEST

START_TEST(an_agent_that_was_restarted_proves_without_its_leases)
{
    char *notes;

    stage(true);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_restart(&g);
    ck_assert_uint_eq(rig_hello(&g).phase, WIRE_PHASE_PREPARED);
    ck_assert_uint_eq(refused(WIRE_EVICT, WIRE_EVICTED), 2);
    rig_restart(&g);
    rig_hello(&g);
    rig_commit(&g, 1); /* without EVICT: commit proves by itself */
    notes = rig_notes(&g);
    ck_assert_ptr_nonnull(strstr(notes, "/g: does not read as new"));
    free(notes);
}
END_TEST

START_TEST(another_size_cannot_be_had_in_place)
{
    struct wire_msg_op op = { 0, 0, 0, "/f",
                              node_file(content, sizeof(content), 0644),
                              node_file(content, 4096, 0644) };

    rig_hello(&g);
    rig_begin(&g, 1, 1, 1, 0);
    rig_op(&g, &op);
    rig_select_all(&g, 1);
    put_stage(&g, 0, WIRE_IN_PLACE, 0);
    ask_error(&g, WIRE_STAGE, WIRE_E_UNSUPPORTED);
}
END_TEST

START_TEST(flush_says_how_many_pages_were_there_and_are)
{
    struct wire_flushed m;
    struct stat st;
    void *p;
    int fd;

    fd = open(at(&g, "/f"), O_RDONLY);
    ck_assert_int_eq(fstat(fd, &st), 0);
    p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    ck_assert_int_eq(*(volatile char *)p, 'c'); /* this page is in use */
    rig_hello(&g);
    wire_put_u32(rig_req(&g), 3);
    wire_put_str(&g.w, "/f");
    wire_put_str(&g.w, "/g");
    wire_put_str(&g.w, "/no-such-file");
    ask_ok(&g, WIRE_FLUSH, WIRE_FLUSHED);
    ck_assert_uint_eq(wire_get_u32(&g.r), 2);
    ck_assert(wire_get_flushed(&g.r, &m));
    ck_assert_str_eq(m.path, "/f");
    ck_assert_uint_eq(m.pages_before, 4);
    ck_assert_uint_ge(m.pages_after, 1);
    ck_assert(wire_get_flushed(&g.r, &m));
    ck_assert_str_eq(m.path, "/g");
    ck_assert_uint_eq(m.pages_before, 4);
    ck_assert_uint_eq(m.pages_after, 0);
    ck_assert(wire_r_end(&g.r));
    munmap(p, 4096);
    close(fd);
}
END_TEST

START_TEST(flush_of_nothing_is_about_the_last_job)
{
    struct wire_flushed m;

    stage(false);
    ck_assert_uint_eq(refused(WIRE_LEASE, WIRE_LEASED), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, 1);
    rig_restart(&g);
    rig_hello(&g);
    wire_put_u32(rig_req(&g), 0);
    ask_ok(&g, WIRE_FLUSH, WIRE_FLUSHED);
    ck_assert_uint_eq(wire_get_u32(&g.r), 2);
    ck_assert(wire_get_flushed(&g.r, &m));
    ck_assert_str_eq(m.path, "/f");
    ck_assert_uint_eq(m.pages_after, 0);
}
END_TEST

static Suite *inplace_suite(void)
{
    Suite *s = suite_create("inplace");
    TCase *t = tcase_create("inplace");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_file_nobody_uses_is_leased_and_its_pages_are_gone);
    tcase_add_test(t, a_file_that_is_open_or_mapped_is_refused);
    tcase_add_test(t, a_refused_file_may_be_staged_another_way);
    tcase_add_test(t, an_open_waits_from_prepare_to_commit);
    tcase_add_test(t, content_that_is_not_the_new_one_is_told_at_evict_and_noted_at_commit);
    tcase_add_test(t, an_agent_that_was_restarted_proves_without_its_leases);
    tcase_add_test(t, another_size_cannot_be_had_in_place);
    tcase_add_test(t, flush_says_how_many_pages_were_there_and_are);
    tcase_add_test(t, flush_of_nothing_is_about_the_last_job);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(inplace)
