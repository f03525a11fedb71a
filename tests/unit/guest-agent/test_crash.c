// SPDX-License-Identifier: GPL-2.0-or-later
/* The agent is killed at each step, each time that step is passed, and started
 * again; COMMIT or ABORT, as its journal asks for, must end in the whole of
 * the new tree or the whole of the old one. */
#include "unit/guest-agent/scenario.h"

static char *old_text, *new_text;

static void drive(struct rig *g, bool commit)
{
    struct scenario sc;

    sc_ops(&sc);
    sc_prepare(g, &sc);
    if (commit) {
        rig_req(g);
        ask_ok(g, WIRE_EVICT, WIRE_EVICTED);
        rig_commit(g, JOB);
    } else {
        rig_abort(g, JOB);
    }
}

/* What a run without a kill leaves. */
static void expect(void)
{
    struct rig g;

    rig_init(&g, true);
    sc_tree(&g);
    old_text = tree_text(&g);
    drive(&g, true);
    new_text = tree_text(&g);
    ck_assert_str_ne(old_text, new_text);
    rig_fini(&g);
}

static void assert_tree(struct rig *g, const char *want, const char *stop,
                        const char *how)
{
    char *got = tree_text(g);

    ck_assert_msg(strcmp(got, want) == 0, "%s, %s: the tree is\n%s\nand not\n%s",
                  stop, how, got, want);
    free(got);
}

static void finish(struct rig *g, const char *stop, bool want_commit)
{
    struct wire_msg_hello_ok ok = rig_hello(g);

    switch (ok.phase) {
    case WIRE_PHASE_NONE:
        assert_tree(g, old_text, stop, "undone at start");
        rig_abort(g, JOB);
        assert_tree(g, old_text, stop, "ABORT of nothing");
        break;
    case WIRE_PHASE_PREPARED:
        if (want_commit) {
            rig_commit(g, JOB);
            assert_tree(g, new_text, stop, "PREPARED, COMMIT");
        } else {
            rig_abort(g, JOB);
            assert_tree(g, old_text, stop, "PREPARED, ABORT");
        }
        break;
    case WIRE_PHASE_COMMITTING:
        rig_job(g, JOB);
        ask_error(g, WIRE_ABORT, WIRE_E_PROTOCOL);
        rig_commit(g, JOB);
        assert_tree(g, new_text, stop, "COMMITTING, COMMIT");
        break;
    case WIRE_PHASE_DONE:
        assert_tree(g, new_text, stop, "done");
        rig_commit(g, JOB);
        break;
    default:
        ck_abort_msg("%s: phase %u", stop, ok.phase);
    }
    ck_assert_uint_eq(hidden_below(g), 0);
    if (ok.phase == WIRE_PHASE_COMMITTING ||
        (ok.phase == WIRE_PHASE_PREPARED && want_commit))
        ck_assert_uint_eq(rig_hello(g).phase, WIRE_PHASE_DONE);
}

/* One life that ends at stop; false when it was not passed so often. A second
 * kill hits the recovery at the same step. */
static bool one(const char *stop, bool commit, bool finish_commit, bool twice)
{
    struct agent_err err = { 0 };
    struct rig g;
    int status;
    bool killed;
    pid_t pid;

    rig_paths(&g, scratch(true));
    sc_tree(&g);
    fflush(NULL);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL ||
            rig_start(&g, stop, &err) < 0)
            _exit(3);
        drive(&g, commit);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    ck_assert_msg(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0),
                  "%s: the agent ended with status 0x%x", stop, status);
    if (killed && twice) {
        pid = fork();
        if (pid == 0) {
            if (freopen("/dev/null", "w", stderr) == NULL)
                _exit(3);
            if (rig_start(&g, stop, &err) == 0)
                finish(&g, stop, finish_commit);
            _exit(0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    }
    if (killed) {
        ck_assert_msg(rig_start(&g, NULL, &err) == 0, "%s: %s", stop, err.text);
        finish(&g, stop, finish_commit);
    }
    rig_fini(&g);
    return killed;
}

/* How often the step was passed. */
static unsigned all_times(const char *step, bool commit, bool finish_commit,
                          bool twice)
{
    char stop[64];
    unsigned n;

    for (n = 1; n < 200; n++) {
        snprintf(stop, sizeof(stop), "%s:%u", step, n);
        if (!one(stop, commit, finish_commit, twice))
            return n - 1;
    }
    ck_abort_msg("%s never ends", step);
    return n;
}

static void each_step(bool commit, bool finish_commit, bool twice)
{
    unsigned n;
    size_t i;

    expect();
    for (i = 0; agent_steps[i]; i++) {
        n = all_times(agent_steps[i], commit, finish_commit, twice);
        /* A step that no run passes would be a step that nothing tests. */
        if (commit == (strncmp(agent_steps[i], "abort", 5) != 0))
            ck_assert_msg(n > 0, "%s is never passed", agent_steps[i]);
    }
    free(old_text);
    free(new_text);
}

START_TEST(killed_at_each_step_of_a_commit_and_finished)
{
    each_step(true, true, false);
}
END_TEST

START_TEST(killed_at_each_step_of_a_commit_and_aborted_where_that_can_be)
{
    each_step(true, false, false);
}
END_TEST

START_TEST(killed_at_each_step_of_an_abort)
{
    each_step(false, false, false);
}
END_TEST

START_TEST(killed_again_while_it_recovers)
{
    each_step(true, true, true);
    each_step(false, false, true);
}
END_TEST

static Suite *crash_suite(void)
{
    Suite *s = suite_create("crash");
    TCase *t = tcase_create("crash");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, killed_at_each_step_of_a_commit_and_finished);
    tcase_add_test(t, killed_at_each_step_of_a_commit_and_aborted_where_that_can_be);
    tcase_add_test(t, killed_at_each_step_of_an_abort);
    tcase_add_test(t, killed_again_while_it_recovers);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(crash)
