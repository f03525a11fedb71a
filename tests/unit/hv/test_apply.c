// SPDX-License-Identifier: GPL-2.0-or-later
#include "hv-fixture.h"

static struct hv_fix h;

static void setup(void)
{
    hv_init(&h, 1000);
}

static void teardown(void)
{
    hv_fini(&h);
}

START_TEST(apply_and_rollback_bring_every_path_there_and_back)
{
    run_ok(&h);
    ck_assert_str_eq(hv_text(&h, "outcome"), "done");
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 0);
    ck_assert_int_eq(hv_files_by(&h, "in_place"), 2);
    ck_assert_int_eq(hv_files_by(&h, "token"), 3);
    ck_assert_int_eq(hv_files_by(&h, "plain"), 3);
    ck_assert_int_eq(hv_files_by(&h, "copy"), 0);
    ck_assert_int_eq(hv_number(&h, "n_hashed"), 0);
    ck_assert_uint_eq(h.g.n_hooks, 2);
    hv_all(&h, true);
    ck_assert_int_eq(hv_phase(&h), BSTORE_APPLIED);
    h.req.rollback = true;
    run_ok(&h);
    hv_all(&h, false);
    ck_assert_int_eq(hv_files_by(&h, "in_place"), 2);
    ck_assert_int_eq(hv_number(&h, "n_hashed"), 0);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
}
END_TEST

START_TEST(what_is_applied_already_needs_no_agent)
{
    run_ok(&h);
    atomic_store(&h.g.answers, false);
    run_ok(&h);
    ck_assert_str_eq(hv_text(&h, "outcome"), "already");
    atomic_store(&h.g.answers, true);
    h.req.rollback = true;
    run_ok(&h);
    run_ok(&h);
    ck_assert_str_eq(hv_text(&h, "outcome"), "already");
}
END_TEST

static void change(unsigned i)
{
    g_write_file(&h.g, g_find(&h.g, hv_files[i].path), "mine", 4);
}

START_TEST(a_changed_file_leaves_out_its_group_and_what_needs_it)
{
    struct gfile before;

    change(OP_A2);
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 2);
    ck_assert(hv_is(&h, OP_A1, false) && hv_is(&h, OP_B1, false));
    ck_assert(hv_is(&h, OP_C_NEW, true) && hv_is(&h, OP_C_LINK, true));
    ck_assert_uint_eq(g_find(&h.g, "/lib/a2")->size, 4);
    /* Put right, the same command does the rest. */
    before = *g_find(&h.g, "/c/new");
    g_write_file(&h.g, g_find(&h.g, "/lib/a2"), h.fix.golden + 109 * BLK, 4096);
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 0);
    ck_assert_int_eq(hv_number(&h, "n_hashed"), 1);
    hv_all(&h, true);
    ck_assert_mem_eq(&before, g_find(&h.g, "/c/new"), sizeof(before));
}
END_TEST

START_TEST(rolling_back_what_another_group_needs_stays_with_it)
{
    run_ok(&h);
    change(OP_B1);
    h.req.rollback = true;
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 2);
    ck_assert(hv_is(&h, OP_A1, true) && hv_is(&h, OP_A2, true));
    ck_assert(hv_is(&h, OP_C_NEW, false));
    ck_assert_uint_eq(hv_n_applied(&h), 1);
}
END_TEST

START_TEST(a_changed_conffile_is_kept_and_its_group_goes)
{
    change(OP_B_CONF);
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 0);
    ck_assert_uint_eq(json_array_size(json_object_get(h.report, "kept")), 1);
    ck_assert_uint_eq(g_find(&h.g, "/etc/b.conf")->size, 4);
    ck_assert(hv_is(&h, OP_B1, true));
}
END_TEST

START_TEST(a_package_that_the_guest_upgraded_itself_is_left_out)
{
    h.g.stanza_match[1] = WIRE_IS_OTHER;
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 1);
    ck_assert(hv_is(&h, OP_A1, true) && hv_is(&h, OP_B1, false));
}
END_TEST

START_TEST(a_file_in_use_is_replaced_by_tokens)
{
    hv_lie(&h, WIRE_LEASE, 1, G_REFUSE, 0, OP_A1);
    run_ok(&h);
    ck_assert_int_eq(hv_files_by(&h, "in_place"), 1);
    ck_assert_int_eq(hv_files_by(&h, "token"), 4);
    hv_all(&h, true);
}
END_TEST

START_TEST(in_place_that_does_not_read_as_new_is_undone_and_done_by_token)
{
    hv_lie(&h, WIRE_EVICT, 1, G_REFUSE, 0, OP_B1);
    run_ok(&h);
    ck_assert_int_eq(hv_files_by(&h, "in_place"), 1);
    ck_assert_uint_eq(h.g.counts[WIRE_ABORT], 1);
    hv_all(&h, true);
}
END_TEST

START_TEST(in_use_at_rollback_keeps_the_blocks_under_the_old_inode)
{
    struct gfile held;
    uint8_t now[8192], want[8192];

    run_ok(&h);
    held = *g_find(&h.g, "/lib/a1");
    g_read(&h.g, &held, want);
    hv_lie(&h, WIRE_LEASE, 1, G_REFUSE, 0, OP_A1);
    h.req.rollback = true;
    run_ok(&h);
    hv_all(&h, false);
    g_read(&h.g, &held, now);
    ck_assert_mem_eq(now, want, 8000);
    ck_assert_uint_eq(hv_n_applied(&h), 1); /* keeps the blocks, no group */
    h.req.rollback = false;
    run_ok(&h);
    ck_assert_str_eq(hv_text(&h, "outcome"), "done");
    hv_all(&h, true);
}
END_TEST

START_TEST(tokens_that_do_not_arrive_become_copies)
{
    h.g.no_tokens = true;
    run_ok(&h);
    ck_assert_int_eq(hv_files_by(&h, "token"), 0);
    ck_assert_int_eq(hv_files_by(&h, "copy"), 3);
    ck_assert_int_gt(hv_number(&h, "n_hashed"), 0);
    hv_all(&h, true);
    h.req.rollback = true;
    run_ok(&h);
    hv_all(&h, false);
}
END_TEST

START_TEST(one_token_that_reads_back_wrong_becomes_a_copy)
{
    hv_lie(&h, WIRE_STAGE, 2, G_ERROR, WIRE_E_DIGEST, OP_C_NEW);
    run_ok(&h);
    ck_assert_int_ge(hv_files_by(&h, "copy"), 1);
    hv_all(&h, true);
}
END_TEST

START_TEST(each_strategy_does_what_it_says)
{
    static const struct {
        enum hv_strategy s;
        const char *method, *other;
        int left_out;
    } t[] = { { HV_TOKEN, "token", "copy", 0 },
              { HV_COPY, "copy", "token", 0 },
              { HV_IN_PLACE, "in_place", "token", 3 } };

    h.req.strategy = t[_i].s;
    run_ok(&h);
    ck_assert_int_eq(hv_number(&h, "n_left_out"), t[_i].left_out);
    ck_assert_int_eq(hv_files_by(&h, t[_i].other), 0);
    hv_all(&h, t[_i].left_out == 0);
    if (t[_i].left_out)
        ck_assert_str_eq(hv_text(&h, "outcome"), "nothing");
    else
        ck_assert_int_eq(hv_files_by(&h, t[_i].method), 5);
}
END_TEST

START_TEST(a_dry_run_changes_nothing_and_says_what_would_be)
{
    change(OP_B1);
    h.req.dry_run = true;
    run_ok(&h);
    ck_assert_str_eq(hv_text(&h, "outcome"), "dry-run");
    ck_assert_int_eq(hv_number(&h, "n_left_out"), 1);
    ck_assert_uint_eq(h.g.counts[WIRE_SELECT] + h.g.counts[WIRE_STAGE] +
                          h.g.counts[WIRE_PROBE], 0);
    ck_assert_uint_eq(h.g.counts[WIRE_ABORT], 1);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
    ck_assert(hv_is(&h, OP_A1, false));
}
END_TEST

START_TEST(without_an_agent_there_is_one_clear_sentence)
{
    g_stop(&h.g);
    ck_assert_int_eq(hv_run(&h), -EHOSTUNREACH);
    ck_assert_ptr_nonnull(strstr(h.err.text, "no agent"));
    h.env.link = NULL;
    ck_assert_int_eq(hv_run(&h), -EHOSTUNREACH);
    ck_assert_ptr_nonnull(strstr(h.err.text, "--agent"));
    h.env.link = h.link;
    atomic_store(&h.g.stop, false);
    g_start(&h.g, h.fix.dir, h.v);
}
END_TEST

START_TEST(another_base_and_an_older_serial_are_refused)
{
    run_ok(&h);
    h.req.patch = h.fix.patch[0].id; /* for the golden image too */
    ck_assert_int_eq(hv_run(&h), -EMEDIUMTYPE);
    ck_assert_ptr_nonnull(strstr(h.err.text, "for image"));
    h.req.patch = h.patch;
    h.req.rollback = true;
    run_ok(&h);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
}
END_TEST

START_TEST(a_file_that_changes_under_our_hands_is_looked_at_again)
{
    hv_lie(&h, WIRE_PREPARE, 1, G_ERROR, WIRE_E_CHANGED, OP_A2);
    run_ok(&h);
    ck_assert_uint_eq(h.g.counts[WIRE_BEGIN], 2);
    hv_all(&h, true);
}
END_TEST

START_TEST(a_full_guest_is_left_as_it_was)
{
    hv_lie(&h, WIRE_STAGE, 3, G_ERROR, WIRE_E_NOSPC, 2);
    ck_assert_int_eq(hv_run(&h), -ENOSPC);
    ck_assert_ptr_null(strchr(h.err.text, '\x1b'));
    hv_all(&h, false);
    ck_assert_int_eq(h.g.phase, WIRE_PHASE_NONE);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
    run_ok(&h);
    hv_all(&h, true);
}
END_TEST

static void cancel_at_prepare(struct guest *g, uint16_t type)
{
    uint64_t one = 1;

    (void)g;
    if (type != WIRE_PREPARE)
        return;
    atomic_store(&h.cancel, true);
    ck_assert_int_eq(write(h.wake_fd, &one, 8), 8);
}

START_TEST(a_cancel_before_the_commit_point_undoes)
{
    h.g.on_request = cancel_at_prepare;
    ck_assert_int_eq(hv_run(&h), -ECANCELED);
    hv_all(&h, false);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
    ck_assert_int_eq(h.g.phase, WIRE_PHASE_NONE);
}
END_TEST

START_TEST(users_are_those_of_the_patch_and_cleaned)
{
    json_t *users, *u;

    h.req.restart = true;
    run_ok(&h);
    users = json_object_get(h.report, "users");
    ck_assert_uint_eq(json_array_size(users), 2);
    u = json_array_get(json_object_get(json_array_get(users, 0), "processes"), 0);
    ck_assert_ptr_null(strchr(json_string_value(json_object_get(u, "name")), 27));
    ck_assert_uint_eq(h.g.n_restarts, 1);
}
END_TEST

/* ---- the agent dies, at each request, before or after it does it ---- */

static const uint16_t requests[] = {
    WIRE_BEGIN, WIRE_OP,    WIRE_STANZA,  WIRE_PROBE, WIRE_SELECT, WIRE_STAGE,
    WIRE_HOOK,  WIRE_LEASE, WIRE_PREPARE, WIRE_EVICT, WIRE_COMMIT,
};
#define N_REQUESTS (int)N_ELEMS(requests)

/* Whatever came of it: all old or all new, and the same command finishes. */
static void one_death(uint16_t at, enum g_lie how, bool rollback)
{
    int r;

    if (rollback) {
        run_ok(&h);
        h.req.rollback = true;
    }
    hv_lie(&h, at, 1, how, 0, 0);
    r = hv_run(&h);
    if (at == WIRE_EVICT || at == WIRE_COMMIT)
        ck_assert_msg(r == 0, "%d: %s", r, h.err.text);
    else
        ck_assert_int_eq(r, -EHOSTUNREACH);
    run_ok(&h);
    hv_all(&h, !rollback);
    if (!rollback)
        ck_assert_int_eq(hv_phase(&h), BSTORE_APPLIED);
    ck_assert_int_eq(h.g.phase, WIRE_PHASE_DONE);
    h.req.rollback = true;
    run_ok(&h);
    h.req.rollback = false;
}

START_TEST(an_agent_that_dies_at_each_request)
{
    for (int rollback = 0; rollback < 2; rollback++) {
        one_death(requests[_i], G_DIE, rollback);
        one_death(requests[_i], G_DIE_AFTER, rollback);
    }
}
END_TEST

/* ---- the worker dies: all that stays is the list and the guest ---- */

static void all_stops(void)
{
    hv_link_drop(h.link, "test");
    g_stop(&h.g);
    bstore_volume_close(h.v);
}

static void all_starts(void)
{
    h.v = h.env.volume = fix_open(&h.fix, "g");
    atomic_store(&h.g.stop, false);
    g_start(&h.g, h.fix.dir, h.v);
}

static void stop_after_commit(void)
{
    hv_lie(&h, WIRE_COMMIT, 1, G_SILENT, 0, 0);
    atomic_store(&h.stop, false);
    h.g.on_request = NULL;
}

static void stop_at_commit(struct guest *g, uint16_t type)
{
    uint64_t one = 1;

    (void)g;
    if (type != WIRE_COMMIT)
        return;
    atomic_store(&h.stop, true);
    ck_assert_int_eq(write(h.wake_fd, &one, 8), 8);
}

START_TEST(a_worker_that_ends_after_the_commit_point_goes_on_later)
{
    char note[256];

    stop_after_commit();
    h.g.on_request = stop_at_commit;
    ck_assert_int_eq(hv_run(&h), -ECANCELED);
    ck_assert_int_eq(hv_phase(&h), BSTORE_APPLYING);
    atomic_store(&h.stop, false);
    all_stops();
    h.g.on_request = NULL;
    all_starts();
    ok(hv_link_refresh(h.link, 5000, &err));
    ck_assert_int_eq(hv_link_hello(h.link)->phase, WIRE_PHASE_PREPARED);
    ok(hv_recover(&h.env, note, sizeof(note), &err));
    ck_assert_str_eq(note, "");
    ck_assert_int_eq(hv_phase(&h), BSTORE_APPLIED);
    hv_all(&h, true);
}
END_TEST

START_TEST(an_agent_without_a_trace_is_told_of_and_mended)
{
    char note[256];

    stop_after_commit();
    h.g.on_request = stop_at_commit;
    ck_assert_int_eq(hv_run(&h), -ECANCELED);
    atomic_store(&h.stop, false);
    all_stops();
    h.g.on_request = NULL;
    h.g.phase = WIRE_PHASE_NONE;
    h.g.n_ops = 0;
    all_starts();
    ok(hv_link_refresh(h.link, 5000, &err));
    ok(hv_recover(&h.env, note, sizeof(note), &err));
    ck_assert_str_ne(note, "");
    ck_assert_int_eq(hv_phase(&h), BSTORE_APPLYING);
    h.req.rollback = _i;
    run_ok(&h);
    hv_all(&h, !_i);
    ck_assert_uint_eq(hv_n_applied(&h), _i ? 0 : 1);
}
END_TEST

START_TEST(a_prepared_job_that_was_never_published_is_undone)
{
    char note[256];

    run_ok(&h); /* any job, whose id the list has */
    all_stops();
    h.g.phase = WIRE_PHASE_PREPARED;
    h.g.job_id[0] ^= 1;
    all_starts();
    ok(hv_link_refresh(h.link, 5000, &err));
    ok(hv_recover(&h.env, note, sizeof(note), &err));
    ck_assert_uint_eq(h.g.counts[WIRE_ABORT], 1);
    ck_assert_int_eq(h.g.phase, WIRE_PHASE_NONE);
    hv_all(&h, true);
}
END_TEST

/* ---- the agent lies ---- */

static const struct {
    uint16_t type;
    size_t len;
    uint8_t bytes[16];
} raws[] = {
    { WIRE_OK, 0, { 0 } },
    { WIRE_OK, 1, { 1 } },
    { WIRE_ERROR, 3, { 1 } },
    { WIRE_ERROR, 9, { 200, 0, 255, 255, 255, 255, 0, 0, 0 } },
    { WIRE_PROGRESS, 2, { 1 } },
    { WIRE_OP_STATE, 0, { 0 } },
    { WIRE_OP_STATE, 16, { 255, 255, 255, 255, 9 } },
    { WIRE_STANZA_STATE, 8, { 0, 0, 0, 0, 9 } },
    { WIRE_PROBED, 4, { 1 } },
    { WIRE_HASHED, 12, { 255, 255 } },
    { WIRE_STAGED, 4, { 255, 255, 255, 255 } },
    { WIRE_STAGED, 3, { 0 } },
    { WIRE_LEASED, 8, { 1, 0, 0, 0, 255, 255, 255, 255 } },
    { WIRE_LEASED, 8, { 1, 0, 0, 0, 0, 0, 0, 0 } },
    { WIRE_LEASED, 4, { 255, 255, 255, 255 } },
    { WIRE_EVICTED, 8, { 1, 0, 0, 0, 255, 255, 255, 255 } },
    { WIRE_COMMITTED, 16, { 1 } },
    { WIRE_HELLO_OK, 8, { 1 } },
    { 0x7777, 0, { 0 } },
};

/* Back to the old side, honestly. */
static void start_over(void)
{
    atomic_store(&h.g.lie_nth, 0);
    run_ok(&h);
    h.req.rollback = true;
    run_ok(&h);
    h.req.rollback = false;
    hv_all(&h, false);
    ck_assert_uint_eq(hv_n_applied(&h), 0);
}

/* No answer to any request makes it crash, wait for ever or overwrite: before
 * the commit point all stays old; after it the next run mends. */
START_TEST(every_false_answer_to_every_request)
{
    uint16_t to = requests[_i];

    for (size_t k = 0; k < N_ELEMS(raws); k++) {
        h.g.raw_type = raws[k].type;
        h.g.raw_len = raws[k].len;
        memcpy(h.g.raw, raws[k].bytes, sizeof(raws[k].bytes));
        hv_lie(&h, to, 1, G_RAW, 0, 0);
        if (hv_run(&h) < 0 && hv_n_applied(&h) == 0)
            hv_all(&h, false);
        start_over();
    }
}
END_TEST

START_TEST(frames_that_are_none)
{
    static const enum g_lie how[] = { G_GARBAGE, G_BAD_CRC, G_BAD_SEQ, G_SILENT };
    static const uint16_t to[] = { WIRE_BEGIN, WIRE_STAGE, WIRE_COMMIT };

    for (size_t k = 0; k < N_ELEMS(how); k++) {
        hv_lie(&h, to[_i], 1, how[k], 0, 0);
        (void)hv_run(&h);
        start_over();
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("apply");
    TCase *t = tcase_create("apply");
    SRunner *sr;
    int n;

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, apply_and_rollback_bring_every_path_there_and_back);
    tcase_add_test(t, what_is_applied_already_needs_no_agent);
    tcase_add_test(t, a_changed_file_leaves_out_its_group_and_what_needs_it);
    tcase_add_test(t, rolling_back_what_another_group_needs_stays_with_it);
    tcase_add_test(t, a_changed_conffile_is_kept_and_its_group_goes);
    tcase_add_test(t, a_package_that_the_guest_upgraded_itself_is_left_out);
    tcase_add_test(t, a_file_in_use_is_replaced_by_tokens);
    tcase_add_test(t, in_place_that_does_not_read_as_new_is_undone_and_done_by_token);
    tcase_add_test(t, in_use_at_rollback_keeps_the_blocks_under_the_old_inode);
    tcase_add_test(t, tokens_that_do_not_arrive_become_copies);
    tcase_add_test(t, one_token_that_reads_back_wrong_becomes_a_copy);
    tcase_add_loop_test(t, each_strategy_does_what_it_says, 0, 3);
    tcase_add_test(t, a_dry_run_changes_nothing_and_says_what_would_be);
    tcase_add_test(t, without_an_agent_there_is_one_clear_sentence);
    tcase_add_test(t, another_base_and_an_older_serial_are_refused);
    tcase_add_test(t, a_file_that_changes_under_our_hands_is_looked_at_again);
    tcase_add_test(t, a_full_guest_is_left_as_it_was);
    tcase_add_test(t, a_cancel_before_the_commit_point_undoes);
    tcase_add_test(t, users_are_those_of_the_patch_and_cleaned);
    tcase_add_loop_test(t, an_agent_that_dies_at_each_request, 0, N_REQUESTS);
    tcase_add_test(t, a_worker_that_ends_after_the_commit_point_goes_on_later);
    tcase_add_loop_test(t, an_agent_without_a_trace_is_told_of_and_mended, 0, 2);
    tcase_add_test(t, a_prepared_job_that_was_never_published_is_undone);
    tcase_add_loop_test(t, every_false_answer_to_every_request, 0, N_REQUESTS);
    tcase_add_loop_test(t, frames_that_are_none, 0, 3);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    n = srunner_ntests_failed(sr);
    srunner_free(sr);
    return n ? EXIT_FAILURE : EXIT_SUCCESS;
}
