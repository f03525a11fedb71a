// SPDX-License-Identifier: GPL-2.0-or-later
#include "unit/guest-agent/support.h"

#define A "Package: a\nStatus: install ok installed\nVersion: 1\nDepends: b,\n c\n"
#define A2 "Package: a\nStatus: install ok installed\nVersion: 2\n"
#define HOLD "Package: a\nStatus: hold ok installed\nVersion: 1\n"
#define B "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n"
#define B386 "Package: b\nStatus: install ok installed\nArchitecture: i386\nVersion: 1\n"
#define BALL "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n"
#define AB "Package: ab\nStatus: install ok installed\nVersion: 7\n"

static struct wire_msg_stanza stanza(const char *package, const char *arch,
                                     const char *from, const char *to)
{
    return (struct wire_msg_stanza){ 0, 0, "/var/lib/dpkg/status", package, arch,
                                     from, to };
}

START_TEST(a_paragraph_is_told_from_its_neighbours)
{
    static const struct {
        const char *db, *package, *arch, *from, *to;
        int match;
        const char *version;
    } t[] = {
        { A "\n" B "\n", "a", "", A, A2, WIRE_IS_FROM, "1" },
        { A2 "\n" B "\n", "a", "", A, A2, WIRE_IS_TO, "2" },
        { HOLD "\n", "a", "", A, A2, WIRE_IS_OTHER, "1" },
        { AB "\n" B "\n", "a", "", A, A2, WIRE_IS_OTHER, "" },
        { AB "\n" B "\n", "a", "", "", A2, WIRE_IS_FROM, "" },
        { AB "\n" B "\n", "a", "", A, "", WIRE_IS_TO, "" },
        { A "\n", "a", "", "", A2, WIRE_IS_OTHER, "1" },
        { B "\n" B386 "\n", "b", "i386", B386, "", WIRE_IS_FROM, "1" },
        { B "\n", "b", "i386", "", B386, WIRE_IS_FROM, "" },
        { B "\n", "b", "all", B, BALL, WIRE_IS_FROM, "1" },
        { BALL "\n", "b", "amd64", B, BALL, WIRE_IS_TO, "2" },
        { "X: y\n" A "Z: z\n\n" B, "a", "", A, A2, WIRE_IS_FROM, "1" },
        { " \nProvides: Package: a\nPackage: ab\n\t\n" A, "a", "", A, A2,
          WIRE_IS_FROM, "1" },
        { "", "a", "", "", A, WIRE_IS_FROM, "" },
        { "\n\n" A, "a", "", A, A2, WIRE_IS_FROM, "1" },
        { "package: a\nstatus: install ok installed\nversion:1", "a", "", A, A2,
          WIRE_IS_FROM, "1" },
        { "X: y\n Package: a\n", "a", "", A, A2, WIRE_IS_OTHER, "" },
    };
    char version[256];
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        struct wire_msg_stanza m = stanza(t[i].package, t[i].arch, t[i].from, t[i].to);
        char *exact = strndup(t[i].db, strlen(t[i].db));

        ck_assert_msg((int)agent_par_match(exact, strlen(exact), &m, version,
                                           sizeof(version)) == t[i].match,
                      "row %zu", i);
        ck_assert_str_eq(version, t[i].version);
        free(exact);
    }
}
END_TEST

START_TEST(merging_changes_one_paragraph_and_no_other_byte)
{
    static const struct { const char *db, *package, *arch, *to, *want; } t[] = {
        { A "\n" B "\n", "a", "", A2, A2 "\n" B "\n" },
        { B "\n\n" A "\n", "a", "", A2, B "\n\n" A2 "\n" },
        { B "\n" A, "a", "", A2, B "\n" A2 },
        { A "\n" B "\n", "a", "", "", B "\n" },
        { A "\n" B "\n", "b", "", "", A "\n" },
        { A "\n" B "\n", "ab", "", AB, A "\n" B "\n" AB "\n" },
        { A, "ab", "", AB, A "\n" AB "\n" },
        { "", "ab", "", AB, AB "\n" },
        { A "\n", "b", "", "", A "\n" },
        { B386 "\n" B "\n", "b", "amd64", "", B386 "\n" },
    };
    size_t i, len;
    char *out;

    for (i = 0; i < N_ELEMS(t); i++) {
        struct wire_msg_stanza m = stanza(t[i].package, t[i].arch, "", t[i].to);

        ck_assert_int_eq(agent_par_merge(t[i].db, strlen(t[i].db), &m, &out, &len),
                         0);
        ck_assert_msg(len == strlen(t[i].want) && memcmp(out, t[i].want, len) == 0,
                      "row %zu: %.*s", i, (int)len, out);
        free(out);
        /* Twice is the same as once. */
        ck_assert_int_eq(agent_par_merge(t[i].want, strlen(t[i].want), &m, &out,
                                         &len), 0);
        ck_assert_msg(len == strlen(t[i].want) && memcmp(out, t[i].want, len) == 0,
                      "row %zu again", i);
        free(out);
    }
}
END_TEST

/* ---- in a job ---- */

static struct rig g;

static void setup(void)
{
    rig_init(&g, true);
    mkdir(at(&g, "/var"), 0755);
    mkdir(at(&g, "/var/lib"), 0755);
    mkdir(at(&g, "/var/lib/dpkg"), 0755);
    put_text(&g, "/var/lib/dpkg/status", A "\n" B "\n");
    chmod(at(&g, "/var/lib/dpkg/status"), 0640);
}

static void teardown(void)
{
    rig_fini(&g);
}

static void begin(void)
{
    struct wire_msg_stanza m = stanza("a", "", A, A2);
    struct wire_msg_stanza_state s;

    rig_hello(&g);
    rig_begin(&g, 1, 0, 1, 0);
    wire_put_stanza(rig_req(&g), &m);
    ask_ok(&g, WIRE_STANZA, WIRE_STANZA_STATE);
    ck_assert(wire_get_stanza_state(&g.r, &s));
    ck_assert_uint_eq(s.match, WIRE_IS_FROM);
    rig_select_all(&g, 1);
}

/* Holds one of the package manager's locks in another process. */
static pid_t hold(const char *path, int *wr)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int p[2], q[2], fd;
    char c;
    pid_t pid;

    ck_assert_int_eq(pipe(p), 0);
    ck_assert_int_eq(pipe(q), 0);
    pid = fork();
    if (pid == 0) {
        close(p[1]);
        fd = open(path, O_RDWR | O_CREAT, 0640);
        if (fd < 0 || fcntl(fd, F_SETLK, &fl) < 0 || write(q[1], "x", 1) != 1)
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

START_TEST(prepare_takes_the_locks_and_commit_gives_them_back)
{
    struct flock fl;
    struct stat st;
    int fd, status;
    pid_t pid;

    begin();
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    pid = fork(); /* a lock is another process's concern */
    if (pid == 0) {
        fd = open(at(&g, "/var/lib/dpkg/lock"), O_RDWR);
        fl = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
        _exit(fcntl(fd, F_SETLK, &fl) < 0 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
    rig_commit(&g, 1);
    assert_text(&g, "/var/lib/dpkg/status", A2 "\n" B "\n");
    ck_assert_int_eq(stat(at(&g, "/var/lib/dpkg/status"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0640);
    ck_assert(!is_there(&g, "/var/lib/dpkg/status-new"));
    ck_assert_int_eq(g.a.dpkg_lock_fd[0], -1);
}
END_TEST

START_TEST(a_running_package_manager_stops_prepare)
{
    int wr, status;
    pid_t pid;

    begin();
    pid = hold(at(&g, "/var/lib/dpkg/lock-frontend"), &wr);
    g.a.dpkg_wait_ms = 250;
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_BUSY);
    close(wr);
    waitpid(pid, &status, 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_abort(&g, 1);
    ck_assert_int_eq(g.a.dpkg_lock_fd[1], -1);
    assert_text(&g, "/var/lib/dpkg/status", A "\n" B "\n");
}
END_TEST

START_TEST(an_interrupted_dpkg_and_a_changed_package_stop_prepare)
{
    begin();
    mkdir(at(&g, "/var/lib/dpkg/updates"), 0755);
    put_text(&g, "/var/lib/dpkg/updates/0001", "x");
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_BUSY);
    unlink(at(&g, "/var/lib/dpkg/updates/0001"));
    put_text(&g, "/var/lib/dpkg/status", HOLD "\n" B "\n");
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_CHANGED);
    rig_abort(&g, 1);
}
END_TEST

static Suite *dpkg_suite(void)
{
    Suite *s = suite_create("dpkg");
    TCase *t = tcase_create("stanza"), *j = tcase_create("job");

    tcase_add_test(t, a_paragraph_is_told_from_its_neighbours);
    tcase_add_test(t, merging_changes_one_paragraph_and_no_other_byte);
    suite_add_tcase(s, t);
    tcase_add_checked_fixture(j, setup, teardown);
    tcase_set_timeout(j, 60);
    tcase_add_test(j, prepare_takes_the_locks_and_commit_gives_them_back);
    tcase_add_test(j, a_running_package_manager_stops_prepare);
    tcase_add_test(j, an_interrupted_dpkg_and_a_changed_package_stop_prepare);
    suite_add_tcase(s, j);
    return s;
}

UNIT_MAIN(dpkg)
