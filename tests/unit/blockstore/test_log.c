// SPDX-License-Identifier: GPL-2.0-or-later
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/log.h"

static int saved = -1, out[2];

static void setup(void)
{
    ck_assert_int_eq(pipe(out), 0);
    saved = dup(2);
    dup2(out[1], 2);
    bs_log_set_level(BS_LOG_INFO);
}

/* All that was logged; the pipe is closed for writing. */
static const char *logged(void)
{
    static char text[8192];
    size_t n = 0;
    ssize_t got;

    dup2(saved, 2);
    close(saved);
    close(out[1]);
    while ((got = read(out[0], text + n, sizeof(text) - 1 - n)) > 0)
        n += (size_t)got;
    close(out[0]);
    text[n] = '\0';
    return text;
}

START_TEST(one_event_is_one_line)
{
    bs_log(BS_LOG_ERR, "volume", "cannot sync volume=%s errno=%d", "v1", 5);
    bs_log(BS_LOG_INFO, "agent", "a\nb\033[31m");
    ck_assert_str_eq(logged(),
                     "blksub: error: volume: cannot sync volume=v1 errno=5\n"
                     "blksub: info: agent: a?b?[31m\n");
}
END_TEST

START_TEST(levels_above_the_chosen_one_are_dropped)
{
    bs_log(BS_LOG_DEBUG, "c", "not yet");
    bs_log_set_level(BS_LOG_DEBUG);
    bs_log(BS_LOG_DEBUG, "c", "now");
    bs_log_set_level(BS_LOG_ERR);
    bs_log(BS_LOG_WARN, "c", "no more");
    ck_assert_str_eq(logged(), "blksub: debug: c: now\n");
}
END_TEST

START_TEST(long_text_is_cut_not_spread)
{
    char big[5000];
    const char *text;

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    bs_log(BS_LOG_WARN, "c", "%s", big);
    text = logged();
    ck_assert_uint_lt(strlen(text), 2049);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
}
END_TEST

START_TEST(a_limiter_lets_five_lines_through_and_counts_the_rest)
{
    struct bs_log_limit limit = { 0 };
    const char *text;
    unsigned n = 0, i;

    for (i = 0; i < 100; i++)
        bs_log_limited(&limit, BS_LOG_WARN, "guest", "bad request %u", i);
    atomic_fetch_sub(&limit.window_start, 11); /* later */
    bs_log_limited(&limit, BS_LOG_WARN, "guest", "again");
    for (text = strchr(logged(), '\n'); text; text = strchr(text + 1, '\n'))
        n++;
    ck_assert_uint_eq(n, 7);
}
END_TEST

START_TEST(what_was_dropped_is_told_in_the_next_window)
{
    struct bs_log_limit limit = { 0 };
    unsigned i;

    for (i = 0; i < 9; i++)
        bs_log_limited(&limit, BS_LOG_WARN, "guest", "bad");
    atomic_fetch_sub(&limit.window_start, 11);
    bs_log_limited(&limit, BS_LOG_WARN, "guest", "again");
    ck_assert_ptr_nonnull(strstr(logged(), "dropped count=4\n"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *tc = tcase_create("log");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, one_event_is_one_line);
    tcase_add_test(tc, levels_above_the_chosen_one_are_dropped);
    tcase_add_test(tc, long_text_is_cut_not_spread);
    tcase_add_test(tc, a_limiter_lets_five_lines_through_and_counts_the_rest);
    tcase_add_test(tc, what_was_dropped_is_told_in_the_next_window);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
