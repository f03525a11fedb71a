// SPDX-License-Identifier: GPL-2.0-or-later
/* Counting of requests, and the text that figures become. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv-prom.h"
#include "metrics.h"

static struct hv_metrics *m;
static struct hv_io_figures f[HV_IO_N_OPS];

static void setup(void)
{
    ck_assert_int_eq(hv_metrics_new(&m), 0);
}

static void teardown(void)
{
    hv_metrics_free(m);
}

/* A request that began so many ns ago. */
static int one(enum hv_io_op op, uint64_t ns, uint64_t bytes, int r)
{
    struct hv_io io;

    hv_io_begin(m, &io, op);
    io.start_ns -= ns;
    return hv_io_end(m, &io, bytes, r);
}

START_TEST(requests_bytes_and_errors_are_counted_by_operation)
{
    static const int codes[HV_IO_N_ERRNOS] = { EIO, ENOSPC, ENXIO, EROFS, ENOMEM };

    ck_assert_int_eq(one(HV_IO_READ, 0, 4096, 0), 0);
    ck_assert_int_eq(one(HV_IO_READ, 0, 512, 1), 1); /* no error either */
    for (unsigned i = 0; i < HV_IO_N_ERRNOS; i++)
        ck_assert_int_eq(one(HV_IO_WRITE, 0, 4096, -codes[i]), -codes[i]);
    ck_assert_int_eq(one(HV_IO_FLUSH, 0, 0, 0), 0);
    hv_metrics_read(m, f);
    ck_assert_uint_eq(f[HV_IO_READ].requests, 2);
    ck_assert_uint_eq(f[HV_IO_READ].bytes, 4608);
    ck_assert_uint_eq(f[HV_IO_WRITE].requests, HV_IO_N_ERRNOS);
    ck_assert_uint_eq(f[HV_IO_WRITE].bytes, 0);
    for (unsigned i = 0; i < HV_IO_N_ERRNOS; i++) {
        ck_assert_uint_eq(f[HV_IO_WRITE].errors[i], 1);
        ck_assert_uint_eq(f[HV_IO_READ].errors[i], 0);
    }
    ck_assert_uint_eq(f[HV_IO_FLUSH].requests, 1);
    ck_assert_uint_eq(f[HV_IO_TRIM].requests, 0);
}
END_TEST

START_TEST(in_flight_is_what_has_begun_and_not_ended)
{
    struct hv_io a, b;

    hv_io_begin(m, &a, HV_IO_WRITE);
    hv_io_begin(m, &b, HV_IO_WRITE);
    hv_metrics_read(m, f);
    ck_assert_uint_eq(f[HV_IO_WRITE].in_flight, 2);
    ck_assert_uint_eq(f[HV_IO_WRITE].requests, 0);
    hv_io_end(m, &b, 1, 0);
    hv_metrics_read(m, f);
    ck_assert_uint_eq(f[HV_IO_WRITE].in_flight, 1);
    hv_io_end(m, &a, 1, -EIO);
    hv_metrics_read(m, f);
    ck_assert_uint_eq(f[HV_IO_WRITE].in_flight, 0);
    ck_assert_uint_eq(f[HV_IO_WRITE].requests, 2);
}
END_TEST

/* Far from the bounds, as the test itself takes time too. */
START_TEST(a_bucket_holds_what_took_at_most_its_bound)
{
    static const struct {
        uint64_t ns;
        unsigned at_least;
    } t[] = {
        { 3000000, 12 },           /* 3 ms: 2^12 us = 4.096 ms */
        { 3000000000u, 22 },       /* 3 s */
        { 60000000000u, 25 },      /* beyond the last bound */
        { 600000000000000u, 25 },
    };
    uint64_t below;

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        hv_metrics_free(m);
        setup();
        one(HV_IO_READ, t[i].ns, 0, 0);
        hv_metrics_read(m, f);
        ck_assert_uint_ge(f[HV_IO_READ].total_ns, t[i].ns);
        below = 0;
        for (unsigned b = 0; b < t[i].at_least; b++)
            below += f[HV_IO_READ].buckets[b];
        ck_assert_uint_eq(below, 0);
        ck_assert_uint_eq(f[HV_IO_READ].requests, 1);
        if (t[i].at_least == 25)
            ck_assert_uint_eq(f[HV_IO_READ].buckets[25], 1);
    }
}
END_TEST

#define THREADS 40u /* more than there are stripes */
#define TIMES 20000u

static void *many(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < TIMES; i++)
        one(i % 2 ? HV_IO_READ : HV_IO_WRITE, 0, 3, i % 4 ? 0 : -EIO);
    return NULL;
}

START_TEST(nothing_is_lost_between_threads)
{
    pthread_t t[THREADS];
    uint64_t sum = 0;

    for (unsigned i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, many, NULL), 0);
    for (unsigned i = 0; i < 100; i++) { /* beside them */
        hv_metrics_read(m, f);
        ck_assert_uint_le(f[HV_IO_READ].in_flight, THREADS);
        ck_assert_uint_ge(f[HV_IO_READ].requests, sum);
        sum = f[HV_IO_READ].requests;
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    hv_metrics_read(m, f);
    ck_assert_uint_eq(f[HV_IO_READ].requests, THREADS * TIMES / 2);
    ck_assert_uint_eq(f[HV_IO_READ].bytes, THREADS * TIMES / 2 * 3);
    ck_assert_uint_eq(f[HV_IO_WRITE].errors[0], THREADS * TIMES / 4);
    ck_assert_uint_eq(f[HV_IO_WRITE].in_flight, 0);
}
END_TEST

/* ---- text ---- */

START_TEST(text_is_golden)
{
    static const char want[] =
        "# HELP a_total Back\\\\slash and\\nline.\n"
        "# TYPE a_total counter\n"
        "a_total 18446744073709551615\n"
        "a_total{v=\"q\\\"b\\\\s\\nn\",w=\"\"} 7\n"
        "# HELP t \xc3\xa4\n"
        "# TYPE t gauge\n"
        "t{v=\"\xc3\xa4?\"} 12.000000034\n"
        "t{v=\"?x\"} 0.000000000\n";
    struct hv_prom p = { 0 };

    hv_prom_family(&p, "a_total", "counter", "Back\\slash and\nline.");
    hv_prom_sample(&p, "a_total", (const char *[]){ NULL }, UINT64_MAX);
    hv_prom_sample(&p, "a_total",
                   (const char *[]){ "v", "q\"b\\s\nn", "w", "", NULL }, 7);
    hv_prom_family(&p, "t", "gauge", "\xc3\xa4");
    hv_prom_sample_ns(&p, "t", (const char *[]){ "v", "\xc3\xa4\x1b", NULL },
                      12000000034);
    hv_prom_sample_ns(&p, "t", (const char *[]){ "v", "\xc3x", NULL }, 0);
    ck_assert(!p.failed);
    ck_assert_str_eq(p.text, want);
    ck_assert_uint_eq(p.len, sizeof(want) - 1);
    hv_prom_fini(&p);
}
END_TEST

static const char doc_a[] = "# HELP x Help.\n# TYPE x counter\nx{v=\"a\"} 1\n"
                            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\n"
                            "h_sum 1.5e-3\nh_count 3\n";
static const char doc_b[] = "# a comment\n\n# HELP x Other.\n# TYPE x counter\n"
                            "x{v=\"b\",} 2 1395066363000\n"
                            "# TYPE y gauge\ny NaN\n";

START_TEST(documents_become_one_by_family)
{
    static const char want[] =
        "# HELP x Help.\n# TYPE x counter\nx{v=\"a\"} 1\n"
        "x{v=\"b\",} 2 1395066363000\n"
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_sum 1.5e-3\nh_count 3\n"
        "# TYPE y gauge\ny NaN\n";
    struct hv_prom_merge *g;
    struct bs_err err;
    char *text;
    size_t len;

    ck_assert_int_eq(hv_prom_merge_new(&g), 0);
    ck_assert_int_eq(hv_prom_merge_add(g, doc_a, sizeof(doc_a) - 1, &err), 0);
    ck_assert_int_eq(hv_prom_merge_add(g, doc_b, sizeof(doc_b) - 1, &err), 0);
    ck_assert_int_eq(hv_prom_merge_add(g, "", 0, &err), 0);
    ck_assert_int_eq(hv_prom_merge_text(g, &text, &len), 0);
    ck_assert_str_eq(text, want);
    ck_assert_uint_eq(len, sizeof(want) - 1);
    free(text);
    hv_prom_merge_free(g);
}
END_TEST

static int merges(const char *text, size_t len)
{
    struct hv_prom_merge *g;
    struct bs_err err = { 0 };
    char *out;
    size_t n;
    int r;

    ck_assert_int_eq(hv_prom_merge_new(&g), 0);
    r = hv_prom_merge_add(g, text, len, &err);
    ck_assert_int_eq(hv_prom_merge_text(g, &out, &n), 0);
    if (r < 0) { /* and none of it was taken */
        ck_assert_int_eq(r, -EPROTO);
        ck_assert_uint_gt(strlen(err.text), 0);
        ck_assert_uint_eq(n, 0);
    }
    free(out);
    hv_prom_merge_free(g);
    return r;
}

START_TEST(a_document_that_is_none_is_refused_as_a_whole)
{
    static const char *const bad[] = {
        "x 1\n",                         /* no family */
        "# TYPE x counter\ny 1\n",       /* of another */
        "# TYPE x counter\nx_suffix 1\n",
        "# TYPE x nonsense\n",
        "# TYPE x\n",
        "# HELP x\n",
        "# HELP 1x y\n",
        "# TYPE x counter\nx\n",
        "# TYPE x counter\nx \n",
        "# TYPE x counter\nx  1\n",
        "# TYPE x counter\nx one\n",
        "# TYPE x counter\nx 1 soon\n",
        "# TYPE x counter\nx 1 2 3\n",
        "# TYPE x counter\nx{} 1\n",
        "# TYPE x counter\nx{a} 1\n",
        "# TYPE x counter\nx{a=b} 1\n",
        "# TYPE x counter\nx{a=\"b} 1\n",
        "# TYPE x counter\nx{a=\"b\\t\"} 1\n",
        "# TYPE x counter\nx{a=\"b\\",
        "# TYPE x counter\nx{a=\"b\"c=\"d\"} 1\n",
        "# TYPE x counter\nx{a=\"b\"}1\n",
        "# TYPE x counter\nx{1a=\"b\"} 1\n",
        "# TYPE x counter\nx 1",
        "# TYPE x counter\nx 1\n<html>\n",
    };

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(merges(bad[i], strlen(bad[i])) == -EPROTO, "%s", bad[i]);
    ck_assert_int_eq(merges("# TYPE x counter\nx 1\0002\n", 22), -EPROTO);
    /* Every truncation: of whole lines it is a document, else none. */
    for (size_t n = 0; n < sizeof(doc_b); n++)
        ck_assert_int_eq(merges(doc_b, n),
                         n == 0 || doc_b[n - 1] == '\n' ? 0 : -EPROTO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("metrics");
    TCase *tc = tcase_create("metrics");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, requests_bytes_and_errors_are_counted_by_operation);
    tcase_add_test(tc, in_flight_is_what_has_begun_and_not_ended);
    tcase_add_test(tc, a_bucket_holds_what_took_at_most_its_bound);
    tcase_add_test(tc, nothing_is_lost_between_threads);
    tcase_add_test(tc, text_is_golden);
    tcase_add_test(tc, documents_become_one_by_family);
    tcase_add_test(tc, a_document_that_is_none_is_refused_as_a_whole);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
