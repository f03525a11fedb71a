// SPDX-License-Identifier: GPL-2.0-or-later
/* What all commands share: exit codes, sizes, times, tables, the bar. */
#include <check.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "cmd.h"

/* stdout or stderr goes to a file between begin and end. */
static FILE *captured;
static int kept_fd;

static void capture_begin(int fd)
{
    fflush(NULL);
    captured = tmpfile();
    ck_assert_ptr_nonnull(captured);
    kept_fd = dup(fd);
    ck_assert_int_ge(kept_fd, 0);
    ck_assert_int_ge(dup2(fileno(captured), fd), 0);
}

static void capture_end(int fd, char *buf, size_t cap)
{
    size_t n;

    fflush(NULL);
    ck_assert_int_ge(dup2(kept_fd, fd), 0);
    close(kept_fd);
    rewind(captured);
    n = fread(buf, 1, cap - 1, captured);
    buf[n] = '\0';
    fclose(captured);
}

START_TEST(each_error_has_its_exit_code)
{
    static const struct { int code; enum cmd_exit exit; } t[] = {
        { ENOENT, CMD_NOT_FOUND },    { EBADMSG, CMD_REFUSED },
        { EKEYREJECTED, CMD_REFUSED }, { ENOTSUP, CMD_REFUSED },
        { EMEDIUMTYPE, CMD_WRONG_BASE }, { ESTALE, CMD_WRONG_BASE },
        { EHOSTUNREACH, CMD_NO_AGENT }, { EPROTO, CMD_NO_AGENT },
        { EBUSY, CMD_BUSY },          { EEXIST, CMD_BUSY },
        { ENOSPC, CMD_NO_SPACE },     { ECANCELED, CMD_CANCELED },
        { EINVAL, CMD_USAGE },        { EIO, CMD_FAILED },
        { ENOMEM, CMD_FAILED },       { EACCES, CMD_FAILED },
        { ENXIO, CMD_FAILED },
    };
    struct cmd_ctx ctx = { .store_path = "x" };
    struct bs_err err;
    char out[200];

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        bs_fail(&err, t[i].code, "the sentence");
        capture_begin(STDERR_FILENO);
        ck_assert_int_eq(cmd_fail(&ctx, &err), t[i].exit);
        capture_end(STDERR_FILENO, out, sizeof(out));
        ck_assert_str_eq(out, "blksub: the sentence\n");
    }
}
END_TEST

START_TEST(an_error_is_one_line_of_json_when_asked)
{
    struct cmd_ctx ctx = { .store_path = "x", .json = true };
    struct bs_err err;
    char out[200];

    bs_fail(&err, EMEDIUMTYPE, "a \"quoted\"\nline\xff");
    capture_begin(STDOUT_FILENO);
    ck_assert_int_eq(cmd_fail(&ctx, &err), CMD_WRONG_BASE);
    capture_end(STDOUT_FILENO, out, sizeof(out));
    ck_assert_str_eq(out, "{\"error\":{\"code\":\"EMEDIUMTYPE\",\"text\":"
                          "\"a \\\"quoted\\\"?line?\"}}\n");
}
END_TEST

START_TEST(sizes_as_people_read_them)
{
    static const struct { uint64_t bytes; const char *text; } t[] = {
        { 0, "0 B" },
        { 1023, "1023 B" },
        { 1024, "1.0 KiB" },
        { 1536, "1.5 KiB" },
        { 1048524, "1023.9 KiB" },
        { 1048525, "1.0 MiB" },
        { 1048576, "1.0 MiB" },
        { 46033534, "43.9 MiB" },
        { 10ull << 30, "10.0 GiB" },
        { 1ull << 40, "1.0 TiB" },
        { UINT64_MAX, "16.0 EiB" },
    };
    char buf[24];

    for (size_t i = 0; i < N_ELEMS(t); i++)
        ck_assert_str_eq(cmd_size(t[i].bytes, buf), t[i].text);
}
END_TEST

START_TEST(sizes_as_people_write_them)
{
    static const struct { const char *text; uint64_t bytes; } good[] = {
        { "0", 0 },
        { "4096", 4096 },
        { "64K", 65536 },
        { "64k", 65536 },
        { "1.5G", 1610612736 },
        { "0.5M", 524288 },
        { "10GiB", 10ull << 30 },
        { "2Ti", 2ull << 40 },
        { "15E", 15ull << 60 },
        { "18446744073709551615", UINT64_MAX },
    };
    static const char *const bad[] = {
        "", "x", "-1", " 1", "1 ", "1.", "1.55G", "1.5", ".5G", "1Q", "1GB",
        "1GiBx", "16E", "18446744073709551616", "99999999999999999999G", "1{",
        "0x10", "1KK",
    };
    struct bs_err err;
    uint64_t v;

    for (size_t i = 0; i < N_ELEMS(good); i++) {
        ck_assert_int_eq(cmd_parse_size(good[i].text, &v, &err), 0);
        ck_assert_uint_eq(v, good[i].bytes);
    }
    for (size_t i = 0; i < N_ELEMS(bad); i++) {
        ck_assert_msg(cmd_parse_size(bad[i], &v, &err) == -EINVAL, "'%s'", bad[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "no size"));
    }
}
END_TEST

START_TEST(times_are_utc)
{
    char buf[24];

    ck_assert_str_eq(cmd_time(0, buf), "1970-01-01 00:00:00");
    ck_assert_str_eq(cmd_time(1763467200, buf), "2025-11-18 12:00:00");
    ck_assert_str_eq(cmd_time(253402300799, buf), "9999-12-31 23:59:59");
    ck_assert_str_eq(cmd_time(253402300800, buf), "-");
    ck_assert_str_eq(cmd_time(INT64_MAX, buf), "-");
    ck_assert_str_eq(cmd_time(-1, buf), "-");
}
END_TEST

START_TEST(what_drives_a_terminal_is_taken_out)
{
    static const struct { const char *in, *out; } t[] = {
        { "", "" },
        { "plain text", "plain text" },
        { "\x1b[31mred", "?[31mred" },
        { "tab\tnl\ncr\r", "tab?nl?cr?" },
        { "\x7f", "?" },
        { "gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f" },
        { "\xe2\x82\xac \xf0\x9f\x98\x80", "\xe2\x82\xac \xf0\x9f\x98\x80" },
        { "\xc2\x9b" "31m", "??31m" },       /* C1: CSI in one character */
        { "\xe2\x80\xae" "abc", "???abc" }, /* right-to-left override */
        { "\xe2\x81\xa6" "abc", "???abc" },
        { "\xc3", "?" },                     /* cut short */
        { "\xe2\x82", "??" },
        { "\xff\xfe", "??" },
        { "\xc0\x80", "??" },                /* overlong */
        { "\xe0\x80\x80", "???" },
        { "\xf0\x80\x80\x80", "????" },
        { "\xed\xa0\x80", "???" },          /* half of a surrogate pair */
        { "\xf4\x90\x80\x80", "????" },    /* beyond the last character */
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        char *s = cmd_clean(t[i].in);

        ck_assert_ptr_nonnull(s);
        ck_assert_str_eq(s, t[i].out);
        free(s);
    }
}
END_TEST

START_TEST(columns_of_a_table_line_up)
{
    static const char *const titles[] = { "NAME", "SIZE", "NOTE" };
    struct cmd_table *t = cmd_table_new(3, titles);
    char out[400];

    cmd_table_row(t, (const char *[]){ "a", "1.5 MiB", "first" });
    cmd_table_row(t, (const char *[]){ "gr\xc3\xbc\xc3\x9f", "7 B", NULL });
    cmd_table_row(t, (const char *[]){ "longer-name", "\x1b[H", "z" });
    capture_begin(STDOUT_FILENO);
    cmd_table_print(t);
    capture_end(STDOUT_FILENO, out, sizeof(out));
    ck_assert_str_eq(out, "NAME         SIZE     NOTE\n"
                          "a            1.5 MiB  first\n"
                          "gr\xc3\xbc\xc3\x9f         7 B      \n"
                          "longer-name  ?[H      z\n");
}
END_TEST

START_TEST(a_bar_fits_its_terminal)
{
    struct cmd_progress p = { .what = "importing" };
    char buf[201];
    int width;

    cmd_progress_line(&p, 0, 100, 0, 79, buf);
    ck_assert_str_eq(buf, "importing [................................]   0 %");
    cmd_progress_line(&p, 100 << 20, 200 << 20, 1000, 79, buf);
    ck_assert_str_eq(buf, "importing [################................]  50 %"
                          "  100.0 MiB/s  0:02 left");
    for (width = 20; width <= 200; width++)
        for (uint64_t done = 0; done <= 10; done++) {
            cmd_progress_line(&p, done << 30, 10ull << 30, 5000, width, buf);
            ck_assert_uint_le(strlen(buf), (size_t)width);
        }
    p.not_bytes = true;
    cmd_progress_line(&p, 5, 10, 1000, 79, buf);
    ck_assert_ptr_null(strstr(buf, "B/s"));
    cmd_progress_line(&p, 7, 0, 1000, 79, buf); /* the total is not known */
    ck_assert_ptr_null(strchr(buf, '%'));
    cmd_progress_line(&p, 11, 10, 1000, 79, buf); /* more than promised */
    ck_assert_ptr_nonnull(strstr(buf, "100 %"));
}
END_TEST

START_TEST(ctrl_c_stops_the_operation)
{
    struct cmd_ctx ctx = { .store_path = "x" };
    struct cmd_progress p;

    cmd_progress_begin(&p, &ctx, "testing");
    ck_assert_int_eq(p.hook.step(p.hook.opaque, 1, 2), 0);
    ck_assert(!cmd_interrupted());
    raise(SIGINT);
    ck_assert(cmd_interrupted());
    ck_assert_int_ne(p.hook.step(p.hook.opaque, 1, 2), 0);
    cmd_progress_end(&p);
    ck_assert(cmd_interrupted());
}
END_TEST

START_TEST(a_second_ctrl_c_kills)
{
    struct cmd_ctx ctx = { .store_path = "x" };
    struct cmd_progress p;

    cmd_progress_begin(&p, &ctx, "testing");
    raise(SIGINT);
    raise(SIGINT);
}
END_TEST

START_TEST(operands_are_counted)
{
    static const struct {
        int argc;
        const char *argv[5];
        int min, max, r;
    } t[] = {
        { 1, { "x" }, 0, 0, CMD_OK },
        { 2, { "x", "a" }, 1, 1, CMD_OK },
        { 2, { "x", "a" }, 0, 0, CMD_USAGE },
        { 1, { "x" }, 1, 1, CMD_USAGE },
        { 3, { "x", "a", "b" }, 1, 1, CMD_USAGE },
        { 3, { "x", "a", "b" }, 1, 2, CMD_OK },
        { 3, { "x", "--", "-b" }, 1, 1, CMD_OK },
        { 2, { "x", "--odd" }, 0, 1, CMD_USAGE },
    };
    char *argv[6], out[200];
    int r;

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        memcpy(argv, t[i].argv, sizeof(t[i].argv));
        argv[5] = NULL;
        optind = 0;
        capture_begin(STDERR_FILENO);
        r = cmd_operands(t[i].argc, argv, t[i].min, t[i].max, "blksub x A");
        capture_end(STDERR_FILENO, out, sizeof(out));
        ck_assert_int_eq(r, t[i].r);
        ck_assert_int_eq(strstr(out, "usage: blksub x A\n") != NULL,
                         r == CMD_USAGE);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cmd");
    TCase *tc = tcase_create("cmd");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, each_error_has_its_exit_code);
    tcase_add_test(tc, an_error_is_one_line_of_json_when_asked);
    tcase_add_test(tc, sizes_as_people_read_them);
    tcase_add_test(tc, sizes_as_people_write_them);
    tcase_add_test(tc, times_are_utc);
    tcase_add_test(tc, what_drives_a_terminal_is_taken_out);
    tcase_add_test(tc, columns_of_a_table_line_up);
    tcase_add_test(tc, a_bar_fits_its_terminal);
    tcase_add_test(tc, ctrl_c_stops_the_operation);
    tcase_add_test_raise_signal(tc, a_second_ctrl_c_kills, SIGINT);
    tcase_add_test(tc, operands_are_counted);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
