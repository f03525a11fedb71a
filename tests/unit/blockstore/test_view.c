// SPDX-License-Identifier: GPL-2.0-or-later
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "bs/view.h"

#define PAGE 4096u
#define PAGES 64u

#ifdef __SANITIZE_THREAD__
#define MAPS false /* see view.c */
#else
#define MAPS true
#endif
#ifdef __SANITIZE_ADDRESS__
#define OWN_HANDLER true /* its own was there first, and exits */
#else
#define OWN_HANDLER false
#endif

static int fd[2];
static struct bs_view view[2];

static uint8_t value(unsigned file, uint64_t off)
{
    return (uint8_t)(off * 31 + off / PAGE + 101 * file);
}

static int new_file(unsigned file)
{
    char path[] = "/tmp/blksub-test-XXXXXX";
    uint8_t page[PAGE];
    int f = mkstemp(path);

    ck_assert_int_ge(f, 0);
    unlink(path);
    for (uint64_t off = 0; off < PAGES * PAGE; off += PAGE) {
        for (unsigned i = 0; i < PAGE; i++)
            page[i] = value(file, off + i);
        ck_assert_int_eq(pwrite(f, page, PAGE, (off_t)off), PAGE);
    }
    return f;
}

static void setup(void)
{
    for (unsigned i = 0; i < 2; i++) {
        fd[i] = new_file(i);
        bs_view_open(&view[i], fd[i], PAGES * PAGE);
        ck_assert(view[i].base || !MAPS);
    }
}

static void teardown(void)
{
    bs_file_set_ops(NULL);
    for (unsigned i = 0; i < 2; i++) {
        bs_view_close(&view[i]);
        close(fd[i]);
    }
}

static void check_piece(const struct bs_piece *p)
{
    unsigned file = p->view == &view[1];

    for (size_t i = 0; i < p->n; i++)
        ck_assert_uint_eq(p->to[i], value(file, p->off + i));
}

START_TEST(pieces_of_all_lengths_and_places_come_from_their_files)
{
    static uint8_t buf[4][PAGES * PAGE];
    struct bs_piece p[] = {
        { &view[0], 0, buf[0], PAGE },
        { &view[1], 5 * PAGE + 17, buf[1], 3 },
        { &view[0], 63 * PAGE, buf[2], PAGE },
        { &view[1], PAGE, buf[3], 40 * PAGE }, /* a large one */
    };

    for (size_t n = 1; n <= N_ELEMS(p); n++) {
        memset(buf, 0, sizeof(buf));
        ck_assert_int_eq(bs_view_read(p, n), 0);
        for (size_t i = 0; i < n; i++)
            check_piece(&p[i]);
    }
}
END_TEST

START_TEST(what_is_written_through_the_file_is_seen_at_once)
{
    uint8_t a[PAGE], b[PAGE], now[PAGE];
    struct bs_piece p[] = { { &view[0], 0, a, PAGE },
                            { &view[0], 9 * PAGE, b, PAGE } };

    ck_assert_int_eq(bs_view_read(p, 2), 0);
    memset(now, 0xa5, PAGE);
    ck_assert_int_eq(pwrite(fd[0], now, PAGE, 9 * PAGE), PAGE);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    ck_assert_mem_eq(b, now, PAGE);
    ck_assert_int_eq(bs_file_punch(fd[0], 9 * PAGE, PAGE), 0);
    memset(now, 0, PAGE);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    ck_assert_mem_eq(b, now, PAGE);
}
END_TEST

START_TEST(behind_the_mapping_the_file_is_read)
{
    struct bs_view less;
    uint8_t a[PAGE], b[2 * PAGE];
    struct bs_piece p[] = { { &less, 0, a, PAGE },
                            { &less, 7 * PAGE, b, 2 * PAGE } };

    bs_view_open(&less, fd[0], 8 * PAGE);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    check_piece(&p[0]);
    check_piece(&p[1]);
    bs_view_close(&less);
}
END_TEST

START_TEST(what_cannot_be_mapped_is_read)
{
    struct bs_view none;
    uint8_t a[PAGE], b[PAGE];
    struct bs_piece p[] = { { &none, 0, a, PAGE }, { &none, PAGE, b, PAGE } };

    bs_view_open(&none, fd[0], 0);
    ck_assert_ptr_null(none.base);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    check_piece(&p[0]);
    check_piece(&p[1]);
    bs_view_close(&none);
    bs_view_close(&none);
}
END_TEST

/* As often as somebody asks: the handler stays. */
START_TEST(a_file_cut_short_is_an_error_and_not_the_end)
{
    uint8_t a[PAGE], b[PAGE];
    struct bs_piece p[] = { { &view[1], 0, a, PAGE },
                            { &view[1], 32 * PAGE, b, PAGE } };

    ck_assert_int_eq(ftruncate(fd[1], 16 * PAGE), 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(bs_view_read(p, 2), -EIO);
    ck_assert_int_eq(ftruncate(fd[1], PAGES * PAGE), 0);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    check_piece(&p[0]);
}
END_TEST

static void *read_beyond(void *opaque)
{
    uint8_t a[PAGE], b[PAGE];
    struct bs_piece p[] = { { &view[0], 0, a, PAGE },
                            { &view[1], 32 * PAGE, b, PAGE } };
    int *odd = opaque;

    for (int i = 0; i < 200; i++)
        if (bs_view_read(p, 2) != -EIO)
            *odd = 1;
    return NULL;
}

static void *read_within(void *opaque)
{
    uint8_t a[PAGE], b[PAGE];
    struct bs_piece p[] = { { &view[0], PAGE, a, PAGE },
                            { &view[1], 3 * PAGE, b, PAGE } };
    int *odd = opaque;

    for (int i = 0; i < 200; i++)
        if (bs_view_read(p, 2) != 0 || b[7] != value(1, 3 * PAGE + 7))
            *odd = 1;
    return NULL;
}

START_TEST(an_error_is_of_the_thread_that_met_it)
{
    pthread_t t[4];
    int odd[4] = { 0 };

    ck_assert_int_eq(ftruncate(fd[1], 16 * PAGE), 0);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, i % 2 ? read_beyond
                                                           : read_within,
                                        &odd[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        ck_assert_int_eq(odd[i], 0);
    }
}
END_TEST

START_TEST(a_sigbus_of_somebody_else_still_kills)
{
    volatile const uint8_t *base = view[1].base;
    int status;
    pid_t pid;

    if (!MAPS)
        return;
    ck_assert_int_eq(ftruncate(fd[1], 0), 0);
    pid = fork();
    if (pid == 0) {
        (void)base[PAGE];
        _exit(0);
    }
    ck_assert_int_gt(pid, 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (OWN_HANDLER)
        ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    else
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}
END_TEST

static unsigned n_preads;

static ssize_t counting(int f, void *buf, size_t n, off_t off)
{
    n_preads++;
    return pread(f, buf, n, off);
}

START_TEST(a_layer_under_the_file_calls_sees_every_piece)
{
    static const struct bs_file_ops layer = { .pread = counting };
    uint8_t a[PAGE], b[PAGE];
    struct bs_piece p[] = { { &view[0], 0, a, PAGE }, { &view[1], 0, b, PAGE } };

    bs_file_set_ops(&layer);
    ck_assert_int_eq(bs_view_read(p, 2), 0);
    ck_assert_uint_eq(n_preads, 2);
    check_piece(&p[0]);
    check_piece(&p[1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("view");
    TCase *t = tcase_create("view");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, pieces_of_all_lengths_and_places_come_from_their_files);
    tcase_add_test(t, what_is_written_through_the_file_is_seen_at_once);
    tcase_add_test(t, behind_the_mapping_the_file_is_read);
    tcase_add_test(t, what_cannot_be_mapped_is_read);
    tcase_add_test(t, a_file_cut_short_is_an_error_and_not_the_end);
    tcase_add_test(t, an_error_is_of_the_thread_that_met_it);
    tcase_add_test(t, a_sigbus_of_somebody_else_still_kills);
    tcase_add_test(t, a_layer_under_the_file_calls_sees_every_piece);
    suite_add_tcase(s, t);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
