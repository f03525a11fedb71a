// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/mman.h>

#include "unit/guest-agent/support.h"

static struct rig g;

static void setup(void)
{
    rig_init(&g, false);
}

static void teardown(void)
{
    rig_fini(&g);
}

/* A process that maps /lib and tells, and ends when *wr is closed. */
static pid_t mapper(const char *path, int *wr)
{
    int p[2], q[2], fd;
    char c;
    pid_t pid;

    ck_assert_int_eq(pipe(p), 0);
    ck_assert_int_eq(pipe(q), 0);
    pid = fork();
    if (pid == 0) {
        close(p[1]);
        fd = open(path, O_RDONLY);
        if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) ==
                          MAP_FAILED)
            _exit(1);
        close(fd);
        if (write(q[1], "x", 1) != 1)
            _exit(1);
        _exit(read(p[0], &c, 1) == 0 ? 0 : 1);
    }
    close(p[0]);
    ck_assert_int_eq(read(q[0], &c, 1), 1);
    close(q[0]);
    close(q[1]);
    *wr = p[1];
    return pid;
}

/* How often pid is said to use path. */
static unsigned uses(pid_t pid, const char *path)
{
    struct wire_user u;
    unsigned found = 0;
    uint32_t n;

    rig_req(&g);
    ask_ok(&g, WIRE_USERS, WIRE_USERS_ARE);
    for (n = wire_get_u32(&g.r); n > 0; n--) {
        ck_assert(wire_get_user(&g.r, &u));
        found += u.pid == (uint32_t)pid && strcmp(u.path, path) == 0;
        ck_assert_uint_gt(strlen(u.comm), 0);
    }
    ck_assert(wire_r_end(&g.r));
    return found;
}

START_TEST(a_process_that_maps_a_replaced_file_is_found_once)
{
    int wr, status;
    pid_t pid;

    rig_hello(&g);
    put_text(&g, "/lib.so", "old library");
    pid = mapper(at(&g, "/lib.so"), &wr);
    ck_assert_uint_eq(uses(pid, "/lib.so"), 0);
    unlink(at(&g, "/lib.so"));
    ck_assert_uint_eq(uses(pid, "/lib.so"), 0); /* removed, not replaced */
    put_text(&g, "/lib.so", "new library");
    ck_assert_uint_eq(uses(pid, "/lib.so"), 1);
    close(wr);
    waitpid(pid, &status, 0);
    ck_assert_uint_eq(uses(pid, "/lib.so"), 0);
}
END_TEST

START_TEST(the_mapper_of_a_file_that_a_job_replaced_is_found)
{
    struct wire_msg_op op = { 0, 0, 0, "/lib.so", node_text("old", 0644),
                              node_text("new!", 0644) };
    int wr, status;
    pid_t pid;

    put_text(&g, "/lib.so", "old");
    pid = mapper(at(&g, "/lib.so"), &wr);
    rig_hello(&g);
    rig_begin(&g, 1, 1, 1, 0);
    rig_op(&g, &op);
    rig_select_all(&g, 1);
    rig_copy(&g, 0, 0, "new!", 4);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, 1);
    ck_assert_uint_eq(uses(pid, "/lib.so"), 1);
    close(wr);
    waitpid(pid, &status, 0);
}
END_TEST

START_TEST(programs_are_run_with_a_limit_and_their_output_is_kept)
{
    static const char *const say[] = { "/bin/sh", "-c", "echo one; echo two >&2; "
                                       "exit 3", NULL };
    static const char *const hang[] = { "/bin/sh", "-c", "echo x; sleep 1000", NULL };
    static const char *const leave[] = { "/bin/sh", "-c", "sleep 1000 & echo y",
                                         NULL };
    static const char *const flood[] = { "/bin/sh", "-c",
                                         "head -c 300000 /dev/zero | tr '\\0' z",
                                         NULL };
    static const char *const none[] = { "/no/such/program", NULL };
    char out[64];

    ck_assert_int_eq(agent_run(&g.a, say, 10000, out, sizeof(out), NULL), 3);
    ck_assert_str_eq(out, "one\ntwo\n");
    ck_assert_int_eq(agent_run(&g.a, hang, 300, out, sizeof(out), NULL), -ETIMEDOUT);
    ck_assert_str_eq(out, "x\n");
    ck_assert_int_eq(agent_run(&g.a, leave, 10000, out, sizeof(out), NULL), 0);
    ck_assert_str_eq(out, "y\n");
    ck_assert_int_eq(agent_run(&g.a, flood, 10000, out, sizeof(out), NULL), 0);
    ck_assert_uint_eq(strlen(out), 63);
    ck_assert_int_eq(agent_run(&g.a, none, 10000, out, sizeof(out), NULL), 127);
    ck_assert_ptr_nonnull(strstr(out, "/no/such/program"));
}
END_TEST

START_TEST(units_are_not_restarted_outside_the_running_system)
{
    static const char *const bad[] = { "", "nginx", "-a.service", "a b.service",
                                       "a.service;b.service", "a/b.service",
                                       "a.conf", ".service" };
    size_t i;

    rig_hello(&g);
    wire_put_str(rig_req(&g), "nginx.service");
    ask_error(&g, WIRE_RESTART, WIRE_E_UNSUPPORTED);
    for (i = 0; i < N_ELEMS(bad); i++) {
        wire_put_str(rig_req(&g), bad[i]);
        ask_error(&g, WIRE_RESTART, WIRE_E_PROTOCOL);
    }
}
END_TEST

static Suite *users_suite(void)
{
    Suite *s = suite_create("users");
    TCase *t = tcase_create("users");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_process_that_maps_a_replaced_file_is_found_once);
    tcase_add_test(t, the_mapper_of_a_file_that_a_job_replaced_is_found);
    tcase_add_test(t, programs_are_run_with_a_limit_and_their_output_is_kept);
    tcase_add_test(t, units_are_not_restarted_outside_the_running_system);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(users)
