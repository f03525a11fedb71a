// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/resource.h>

#include "unit/guest-agent/scenario.h"

static struct rig g;

static void setup(void)
{
    rig_init(&g, true);
}

static void teardown(void)
{
    rig_fini(&g);
}

START_TEST(a_job_makes_every_kind_of_change)
{
    struct scenario sc;
    struct stat a, b;
    char target[16] = "", *notes;

    sc_tree(&g);
    sc_ops(&sc);
    sc_prepare(&g, &sc);
    assert_text(&g, "/bin/tool", "old tool");
    assert_text(&g, "/var/lib/dpkg/status", OLD_STATUS);
    rig_commit(&g, JOB);
    assert_text(&g, "/bin/tool", "new tool!");
    assert_text(&g, "/lib/liba.so", big_new);
    assert_text(&g, "/hard/a", "hard new");
    assert_text(&g, "/hard/b", "hard new");
    assert_text(&g, "/etc/conf", "changed by the admin");
    assert_text(&g, "/etc/conf.dpkg-dist", "conf 2");
    assert_text(&g, "/newdir/f", "in new");
    assert_text(&g, "/auto/p/f", "auto");
    assert_text(&g, "/swap/f", "swapped");
    assert_text(&g, "/swap/sub/g", "below");
    assert_text(&g, "/swap/auto/h", "lower");
    assert_text(&g, "/unswap", "now a file");
    assert_text(&g, "/empty", "");
    assert_text(&g, "/var/lib/dpkg/status", NEW_STATUS);
    ck_assert(!is_there(&g, "/gone"));
    ck_assert(!is_there(&g, "/goned"));
    ck_assert(!is_there(&g, "/lib/f")); /* the link was not written through */
    ck_assert_int_eq(stat(at(&g, "/bin/tool"), &a), 0);
    ck_assert_uint_eq(a.st_mode, S_IFREG | 04755);
    ck_assert_int_eq(a.st_mtime, 1000000000);
    ck_assert_int_eq(stat(at(&g, "/lib/mode"), &a), 0);
    ck_assert_uint_eq(a.st_mode & 07777, 0600);
    ck_assert_int_eq(stat(at(&g, "/hard/a"), &a), 0);
    ck_assert_int_eq(stat(at(&g, "/hard/b"), &b), 0);
    ck_assert_uint_eq(a.st_ino, b.st_ino);
    ck_assert_uint_eq(a.st_nlink, 2);
    ck_assert_int_eq(stat(at(&g, "/newdir"), &a), 0);
    ck_assert_uint_eq(a.st_mode & 07777, 0750);
    ck_assert_int_eq(lstat(at(&g, "/fifo"), &a), 0);
    ck_assert_uint_eq(a.st_mode, S_IFIFO | 0640);
    ck_assert_int_eq(readlink(at(&g, "/lib/link"), target, 15), 2);
    ck_assert_str_eq(target, "t2");
    ck_assert_uint_eq(hidden_below(&g), 0);
    notes = rig_notes(&g);
    ck_assert_str_eq(notes, "hook ldconfig: not run, this is not the running "
                            "system\n");
    free(notes);
}
END_TEST

START_TEST(after_commit_the_last_job_is_known_and_commit_is_answered_again)
{
    struct wire_msg_hello_ok ok;
    struct scenario sc;
    int i;

    sc_tree(&g);
    sc_ops(&sc);
    sc_prepare(&g, &sc);
    ck_assert_uint_eq(rig_hello(&g).phase, WIRE_PHASE_PREPARED);
    rig_commit(&g, JOB);
    for (i = 0; i < 2; i++) {
        ok = rig_hello(&g);
        ck_assert_uint_eq(ok.phase, WIRE_PHASE_DONE);
        ck_assert_uint_eq(ok.job_id[0], JOB);
        ck_assert_uint_eq(ok.patch_id[31], 0x22);
        rig_commit(&g, JOB);
        rig_abort(&g, JOB); /* nothing to undo */
        assert_text(&g, "/bin/tool", "new tool!");
        rig_restart(&g);
    }
    rig_hello(&g);
    rig_job(&g, 0x55);
    ask_error(&g, WIRE_COMMIT, WIRE_E_NO_JOB);
}
END_TEST

START_TEST(abort_leaves_the_tree_as_it_was)
{
    struct scenario sc;
    char *before, *after;
    int prepared;

    sc_tree(&g);
    sc_ops(&sc);
    before = tree_text(&g);
    for (prepared = 0; prepared < 2; prepared++) {
        rig_hello(&g);
        sc_check(&g, &sc);
        sc_stage(&g, &sc);
        ck_assert_uint_gt(hidden_below(&g), 5);
        if (prepared) {
            rig_req(&g);
            ask_ok(&g, WIRE_PREPARE, WIRE_OK);
        }
        rig_abort(&g, JOB);
        after = tree_text(&g);
        ck_assert_str_eq(before, after);
        free(after);
        ck_assert_uint_eq(rig_hello(&g).phase, WIRE_PHASE_NONE);
    }
    free(before);
}
END_TEST

START_TEST(a_path_that_changed_since_the_check_stops_prepare)
{
    struct scenario sc;
    struct wire_msg_error m;

    sc_tree(&g);
    sc_ops(&sc);
    rig_hello(&g);
    sc_check(&g, &sc);
    sc_stage(&g, &sc);
    put_text(&g, "/lib/liba.so", "mine");
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_CHANGED);
    wire_r_init(&g.r, g.ans, g.len);
    ck_assert(wire_get_error(&g.r, &m));
    ck_assert_uint_eq(m.index, 1);
    rig_abort(&g, JOB);
    assert_text(&g, "/lib/liba.so", "mine");
}
END_TEST

START_TEST(a_path_that_changed_after_prepare_is_kept_and_named)
{
    struct scenario sc;
    char *notes;

    sc_tree(&g);
    sc_ops(&sc);
    sc_prepare(&g, &sc);
    put_text(&g, "/lib/liba.so", "mine");
    rig_commit(&g, JOB);
    notes = rig_notes(&g);
    ck_assert_ptr_nonnull(strstr(notes, "/lib/liba.so: changed by the guest"));
    free(notes);
    assert_text(&g, "/lib/liba.so", "mine");
    assert_text(&g, "/bin/tool", "new tool!");
    ck_assert_uint_eq(hidden_below(&g), 0);
}
END_TEST

START_TEST(what_hangs_on_a_kept_path_is_kept_with_it)
{
    struct scenario sc;
    char *notes;

    sc_tree(&g);
    sc_ops(&sc);
    sc_prepare(&g, &sc);
    unlink(at(&g, "/swap")); /* was to become a folder with files in it */
    ck_assert_int_eq(symlink("etc", at(&g, "/swap")), 0);
    put_text(&g, "/hard/a", "mine, under both names");
    rig_commit(&g, JOB);
    notes = rig_notes(&g);
    ck_assert_ptr_nonnull(strstr(notes, "/swap/sub/g: kept with it"));
    free(notes);
    ck_assert(!is_there(&g, "/etc/f"));
    ck_assert(!is_there(&g, "/etc/auto"));
    assert_text(&g, "/hard/b", "mine, under both names");
    assert_text(&g, "/bin/tool", "new tool!");
    ck_assert_uint_eq(hidden_below(&g), 0);
}
END_TEST

static int no_room(struct rig *rig, bool yes)
{
    struct rlimit rl = { RLIM_INFINITY, RLIM_INFINITY };
    struct stat st;

    if (fstat(rig->a.journal_fd, &st) < 0)
        return -1;
    signal(SIGXFSZ, SIG_IGN);
    if (yes)
        rl.rlim_cur = (rlim_t)st.st_size + 30; /* half a frame fits */
    return setrlimit(RLIMIT_FSIZE, &rl);
}

START_TEST(a_journal_that_cannot_grow_stops_the_job_and_stays_whole)
{
    struct wire_msg_op x = { 0, 0, 0, "/x", node_none(), node_text("x", 0644) };
    struct agent_journal_info info;
    struct agent_err err;
    struct agent_job job;
    uint8_t buf[65536];
    char path[600];
    ssize_t n;
    int fd;

    rig_hello(&g);
    rig_begin(&g, JOB, 1, 1, 0);
    rig_op(&g, &x);
    rig_select_all(&g, 1);
    ck_assert_int_eq(no_room(&g, true), 0);
    wire_put_str(rig_req(&g), "a-hook-with-a-name-of-some-length");
    ask_error(&g, WIRE_HOOK, WIRE_E_IO);
    ck_assert_int_eq(no_room(&g, false), 0);
    rig_copy(&g, 0, 0, "x", 1);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    snprintf(path, sizeof(path), "%s/journal", g.state);
    fd = open(path, O_RDONLY);
    n = read(fd, buf, sizeof(buf));
    close(fd);
    agent_job_init(&job);
    ck_assert_int_eq(agent_journal_decode(buf, (size_t)n, &job, &info, &err), 0);
    ck_assert_uint_eq(info.whole_bytes, (size_t)n);
    ck_assert_int_eq(job.state, AGENT_PREPARED);
    agent_job_fini(&job);
    rig_commit(&g, JOB);
    assert_text(&g, "/x", "x");
}
END_TEST

START_TEST(a_group_left_out_later_is_unstaged)
{
    struct wire_msg_op x = { 0, 0, 0, "/x", node_none(), node_text("x", 0644) };
    struct wire_msg_op y = { 1, 1, 0, "/y", node_none(), node_text("y", 0644) };
    uint8_t bits = 2;

    rig_hello(&g);
    rig_begin(&g, JOB, 2, 2, 0);
    rig_op(&g, &x);
    rig_op(&g, &y);
    rig_select_all(&g, 2);
    rig_copy(&g, 0, 0, "x", 1);
    rig_copy(&g, 1, 0, "y", 1);
    ck_assert_uint_eq(hidden_below(&g), 2);
    wire_put_bitmap(rig_req(&g), 2, &bits);
    ask_ok(&g, WIRE_SELECT, WIRE_OK);
    ck_assert_uint_eq(hidden_below(&g), 1);
    put_stage(&g, 0, WIRE_COPY, 0);
    ask_error(&g, WIRE_STAGE, WIRE_E_PROTOCOL);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, JOB);
    ck_assert(!is_there(&g, "/x"));
    assert_text(&g, "/y", "y");
}
END_TEST

START_TEST(a_copy_with_other_content_is_refused_and_leaves_nothing)
{
    struct wire_msg_op x = { 0, 0, 0, "/x", node_none(), node_text("good", 0644) };
    struct wire_msg_data d = { 0, 0, 4, (const uint8_t *)"evil" };

    rig_hello(&g);
    rig_begin(&g, JOB, 1, 1, 0);
    rig_op(&g, &x);
    rig_select_all(&g, 1);
    put_stage(&g, 0, WIRE_COPY, 0);
    ask_ok(&g, WIRE_STAGE, WIRE_OK);
    wire_put_data(rig_req(&g), &d);
    ask_ok(&g, WIRE_DATA, WIRE_OK);
    wire_put_index(rig_req(&g), 0);
    ask_error(&g, WIRE_STAGE_END, WIRE_E_DIGEST);
    ck_assert_uint_eq(hidden_below(&g), 0);
    wire_put_index(rig_req(&g), 0);
    ask_error(&g, WIRE_STAGE_END, WIRE_E_PROTOCOL);
    wire_put_data(rig_req(&g), &d);
    ask_error(&g, WIRE_DATA, WIRE_E_PROTOCOL);
    rig_copy(&g, 0, 0, "good", 4); /* it may be tried again */
    d.off = 3;
    put_stage(&g, 0, WIRE_COPY, 0);
    ask_ok(&g, WIRE_STAGE, WIRE_OK);
    wire_put_data(rig_req(&g), &d);
    ask_error(&g, WIRE_DATA, WIRE_E_PROTOCOL); /* past the end */
    rig_req(&g);
    ask_error(&g, WIRE_PREPARE, WIRE_E_PROTOCOL); /* no STAGE_END */
    rig_abort(&g, JOB);
    ck_assert_uint_eq(hidden_below(&g), 0);
}
END_TEST

START_TEST(requests_out_of_their_turn_are_refused)
{
    static const uint16_t need_job[] = { WIRE_OP,    WIRE_STANZA, WIRE_PROBE,
                                         WIRE_HASH,  WIRE_SELECT, WIRE_STAGE,
                                         WIRE_DATA,  WIRE_STAGE_END, WIRE_HOOK,
                                         WIRE_LEASE, WIRE_PREPARE, WIRE_EVICT };
    size_t i;

    rig_req(&g);
    ask_error(&g, WIRE_USERS, WIRE_E_PROTOCOL); /* HELLO comes first */
    rig_hello(&g);
    for (i = 0; i < N_ELEMS(need_job); i++) {
        rig_req(&g);
        ask_error(&g, need_job[i], WIRE_E_PROTOCOL);
    }
    rig_req(&g);
    ask_error(&g, 0x7777, WIRE_E_PROTOCOL);
    rig_begin(&g, JOB, 0, 0, 0);
    rig_begin(&g, JOB, 1, 1, 0); /* a check may be begun again */
    rig_select_all(&g, 1);
    rig_job(&g, JOB);
    ask_error(&g, WIRE_COMMIT, WIRE_E_PROTOCOL);
    rig_job(&g, 0x44);
    ask_error(&g, WIRE_ABORT, WIRE_E_BUSY);
    rig_abort(&g, JOB);
}
END_TEST

START_TEST(a_second_job_waits_for_the_first)
{
    struct wire_msg_begin m = { .name = "second" };

    rig_hello(&g);
    rig_begin(&g, JOB, 0, 0, 0);
    rig_select_all(&g, 0);
    wire_put_begin(rig_req(&g), &m);
    ask_error(&g, WIRE_BEGIN, WIRE_E_BUSY);
    ck_assert_uint_eq(rig_hello(&g).phase, WIRE_PHASE_STAGING);
    rig_abort(&g, JOB);
    wire_put_begin(rig_req(&g), &m);
    ask_ok(&g, WIRE_BEGIN, WIRE_OK);
}
END_TEST

START_TEST(a_dry_run_writes_nothing)
{
    struct wire_msg_op x = { 0, 0, 0, "/a/x", node_none(), node_text("x", 0644) };
    struct wire_msg_probe p = { "/a/x", { 0, 1, 0 } };
    uint8_t bits = 1;

    rig_hello(&g);
    rig_begin(&g, JOB, 1, 1, WIRE_BEGIN_DRY_RUN);
    ck_assert_uint_eq(rig_op(&g, &x)->type, WIRE_ABSENT);
    wire_put_probe(rig_req(&g), &p);
    ask_error(&g, WIRE_PROBE, WIRE_E_PROTOCOL);
    wire_put_bitmap(rig_req(&g), 1, &bits);
    ask_error(&g, WIRE_SELECT, WIRE_E_PROTOCOL);
    rig_abort(&g, JOB);
    ck_assert(!is_there(&g, "/a"));
}
END_TEST

START_TEST(op_state_says_what_is_there)
{
    struct wire_msg_op op = { 0, 0, 0, "/f", node_text("f", 0644),
                              node_text("g", 0600) };
    struct wire_msg_op_state *s;

    put_text(&g, "/f", "f");
    mkdir(at(&g, "/d"), 0755);
    put_text(&g, "/d/x", "x");
    ck_assert_int_eq(symlink("one", at(&g, "/l")), 0);
    rig_hello(&g);
    rig_begin(&g, JOB, 6, 1, 0);
    s = rig_op(&g, &op);
    ck_assert_uint_eq(s->type, WIRE_FILE);
    ck_assert_uint_eq(s->size, 1);
    ck_assert_uint_eq(s->mode, 0644);
    ck_assert_uint_eq(s->nlink, 1);
    ck_assert_uint_eq(s->flags & WIRE_ST_META_TO, 0);
    wire_put_index(rig_req(&g), 0);
    ask_ok(&g, WIRE_HASH, WIRE_HASHED);
    ck_assert_mem_eq(g.ans + 12, op.from.digest, 32);
    op = (struct wire_msg_op){ 1, 0, 0, "/d", node_none(), node_of(WIRE_DIR, 0755) };
    s = rig_op(&g, &op);
    ck_assert_uint_eq(s->type, WIRE_DIR);
    ck_assert_uint_eq(s->flags & (WIRE_ST_NOT_EMPTY | WIRE_ST_META_TO),
                      WIRE_ST_NOT_EMPTY | WIRE_ST_META_TO);
    wire_put_index(rig_req(&g), 1);
    ask_error(&g, WIRE_HASH, WIRE_E_CHANGED);
    op = (struct wire_msg_op){ 2, 0, 0, "/l", node_of(WIRE_SYMLINK, 0777),
                               node_of(WIRE_SYMLINK, 0777) };
    op.from.target = "one";
    op.to.target = "one/two";
    s = rig_op(&g, &op);
    ck_assert_uint_eq(s->type, WIRE_SYMLINK);
    ck_assert_uint_eq(s->flags & 3, WIRE_ST_TARGET_FROM);
    op = (struct wire_msg_op){ 3, 0, 0, "/f/below/a/file", node_text("", 0),
                               node_none() };
    s = rig_op(&g, &op);
    ck_assert_uint_eq(s->type, WIRE_ABSENT);
    op.index = 3;
    wire_put_op(rig_req(&g), &op);
    ask_error(&g, WIRE_OP, WIRE_E_PROTOCOL); /* sent before */
    op.index = 6;
    wire_put_op(rig_req(&g), &op);
    ask_error(&g, WIRE_OP, WIRE_E_PROTOCOL); /* no such op */
    op.index = 4;
    op.group = 1;
    wire_put_op(rig_req(&g), &op);
    ask_error(&g, WIRE_OP, WIRE_E_PROTOCOL); /* no such group */
}
END_TEST

START_TEST(paths_do_not_leave_the_root)
{
    struct wire_msg_op op = { 0, 0, 0, "/up/etc/x", node_none(),
                              node_text("x", 0644) };

    ck_assert_int_eq(symlink("../../../../../../..", at(&g, "/up")), 0);
    ck_assert_int_eq(symlink("/etc", at(&g, "/abs")), 0);
    rig_hello(&g);
    rig_begin(&g, JOB, 2, 1, 0);
    rig_op(&g, &op);
    op.index = 1;
    op.path = "/abs/passwd";
    ck_assert_uint_eq(rig_op(&g, &op)->type, WIRE_ABSENT);
    rig_select_all(&g, 1);
    rig_copy(&g, 0, 0, "x", 1);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, JOB);
    assert_text(&g, "/etc/x", "x"); /* inside */
}
END_TEST

START_TEST(what_the_guest_changed_in_mode_owner_and_xattrs_stays)
{
    struct wire_msg_op op = { 0, 0, 0, "/f", node_text("old", 0755),
                              node_text("new", 0700) };
    char v[16] = "";
    struct stat st;

    put_text(&g, "/f", "old");
    chmod(at(&g, "/f"), 0711); /* the guest's own */
    if (setxattr(at(&g, "/f"), "user.mine", "1", 1, 0) < 0)
        return; /* a file system without user attributes */
    setxattr(at(&g, "/f"), "user.both", "from", 4, 0);
    op.from.n_xattrs = op.to.n_xattrs = 1;
    op.from.xattrs[0] = (struct wire_xattr){ "user.both", (const uint8_t *)"from", 4 };
    op.to.xattrs[0] = (struct wire_xattr){ "user.both", (const uint8_t *)"to", 2 };
    rig_hello(&g);
    rig_begin(&g, JOB, 1, 1, 0);
    ck_assert_uint_eq(rig_op(&g, &op)->flags & WIRE_ST_META_TO, 0);
    rig_select_all(&g, 1);
    rig_copy(&g, 0, 0, "new", 3);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, JOB);
    assert_text(&g, "/f", "new");
    ck_assert_int_eq(stat(at(&g, "/f"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0711);
    ck_assert_int_eq(getxattr(at(&g, "/f"), "user.mine", v, 15), 1);
    memset(v, 0, sizeof(v));
    ck_assert_int_eq(getxattr(at(&g, "/f"), "user.both", v, 15), 2);
    ck_assert_str_eq(v, "to");
}
END_TEST

START_TEST(a_folder_with_files_of_the_guest_is_kept_and_named)
{
    struct wire_msg_op op = { 0, 0, 0, "/d", node_of(WIRE_DIR, 0755),
                              node_none() };
    char *notes;

    mkdir(at(&g, "/d"), 0755);
    put_text(&g, "/d/mine", "mine");
    rig_hello(&g);
    rig_begin(&g, JOB, 1, 1, 0);
    rig_op(&g, &op);
    rig_select_all(&g, 1);
    rig_stage(&g, 0, WIRE_PLAIN);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK);
    rig_commit(&g, JOB);
    notes = rig_notes(&g);
    ck_assert_ptr_nonnull(strstr(notes, "/d: the folder holds files"));
    free(notes);
    assert_text(&g, "/d/mine", "mine");
}
END_TEST

static Suite *job_suite(void)
{
    Suite *s = suite_create("job");
    TCase *t = tcase_create("job");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_job_makes_every_kind_of_change);
    tcase_add_test(t, after_commit_the_last_job_is_known_and_commit_is_answered_again);
    tcase_add_test(t, abort_leaves_the_tree_as_it_was);
    tcase_add_test(t, a_path_that_changed_since_the_check_stops_prepare);
    tcase_add_test(t, a_path_that_changed_after_prepare_is_kept_and_named);
    tcase_add_test(t, what_hangs_on_a_kept_path_is_kept_with_it);
    tcase_add_test(t, a_journal_that_cannot_grow_stops_the_job_and_stays_whole);
    tcase_add_test(t, a_group_left_out_later_is_unstaged);
    tcase_add_test(t, a_copy_with_other_content_is_refused_and_leaves_nothing);
    tcase_add_test(t, requests_out_of_their_turn_are_refused);
    tcase_add_test(t, a_second_job_waits_for_the_first);
    tcase_add_test(t, a_dry_run_writes_nothing);
    tcase_add_test(t, op_state_says_what_is_there);
    tcase_add_test(t, paths_do_not_leave_the_root);
    tcase_add_test(t, what_the_guest_changed_in_mode_owner_and_xattrs_stays);
    tcase_add_test(t, a_folder_with_files_of_the_guest_is_kept_and_named);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(job)
