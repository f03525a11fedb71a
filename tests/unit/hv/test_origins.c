// SPDX-License-Identifier: GPL-2.0-or-later
/* Where blocks come from: told by a worker and by the volume itself, the same
 * way; and a worker's metrics. */
#include "control.h"
#include "hv-client.h"
#include "hv-fixture.h"
#include "hv-prom.h"
#include "hv-worker.h"
#include "metrics.h"
#include "origins.h"

#define SIZE ((uint64_t)G_VOLUME_BLKS * BLK)

static struct hv_fix h;
static struct hv_worker *w;

/* The volume has some of everything. */
static void live(void)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 9 }, buf[BLK];
    struct bstore_patch *p = NULL;

    run_ok(&h); /* in place and by token */
    ok(bstore_patch_open(h.fix.store, &h.patch, &p, &err));
    ok(bstore_volume_session_open(h.v, secret, p, &err));
    wire_token_encode(buf, secret, 1, 44); /* of the image */
    ck_assert_int_eq(bstore_volume_write(h.v, buf, BLK, 700 * BLK, false), 0);
    bstore_volume_session_close(h.v);
    bstore_patch_close(p);
    fill(buf, BLK, 4);
    for (unsigned i = 0; i < 300; i += 2)
        ck_assert_int_eq(bstore_volume_write(h.v, buf, BLK, (200 + i) * BLK,
                                             false), 0);
    ck_assert_int_eq(bstore_volume_trim(h.v, 9 * BLK, 600 * BLK, true), 0);
}

static void setup(void)
{
    hv_init(&h, 3000);
    live();
    bstore_volume_close(h.v); /* a worker may have it */
    h.v = NULL;
}

static void teardown(void)
{
    hv_worker_close(w);
    w = NULL;
    hv_fini(&h);
}

static void start_worker(void)
{
    char store[96];
    struct hv_worker_config config = { .store = store, .volume = "g" };

    snprintf(store, sizeof(store), "%s/store", h.fix.dir);
    ok(hv_worker_open(&config, &w, &err));
    ok(hv_worker_start(w, &err));
}

struct list {
    struct bstore_origin_run runs[4000];
    size_t n, stop_at;
};

static int collect(void *opaque, const struct bstore_origin_run *run)
{
    struct list *l = opaque;

    ck_assert_uint_lt(l->n, 4000);
    l->runs[l->n++] = *run;
    return l->n == l->stop_at ? 77 : 0;
}

static void walk(struct list *l, uint64_t off, uint64_t bytes, bool served)
{
    struct hv_origins *o = NULL;

    l->n = 0;
    ok(hv_origins_open(h.fix.store, "g", &o, &err));
    ck_assert(hv_origins_served(o) == served);
    ck_assert_uint_eq(hv_origins_size_bytes(o), SIZE);
    ok(hv_origins_walk(o, off, bytes, collect, l, &err));
    hv_origins_close(o);
}

static void same(const struct list *a, const struct list *b)
{
    ck_assert_uint_eq(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        ck_assert_uint_eq(a->runs[i].off, b->runs[i].off);
        ck_assert_uint_eq(a->runs[i].bytes, b->runs[i].bytes);
        ck_assert_int_eq(a->runs[i].origin, b->runs[i].origin);
        ck_assert(a->runs[i].hole == b->runs[i].hole);
        ck_assert_uint_eq(a->runs[i].src_off, b->runs[i].src_off);
        ck_assert(a->runs[i].source_is_image == b->runs[i].source_is_image);
        ck_assert(bstore_digest_eq(&a->runs[i].source, &b->runs[i].source));
    }
}

START_TEST(a_worker_and_the_volume_itself_tell_the_same)
{
    static struct list before, with, part;
    uint64_t at = 0;
    bool seen[5] = { false }, image_token = false;

    walk(&before, 0, SIZE, false);
    for (size_t i = 0; i < before.n; i++) {
        ck_assert_uint_eq(before.runs[i].off, at);
        at += before.runs[i].bytes;
        seen[before.runs[i].origin] = true;
        image_token = image_token || (before.runs[i].origin == BSTORE_FROM_TOKEN &&
                                      before.runs[i].source_is_image);
    }
    ck_assert_uint_eq(at, SIZE);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_msg(seen[i], "no %s", hv_origin_name((enum bstore_origin)i));
    ck_assert(image_token);
    walk(&part, 205 * BLK + 7, 1000, false);
    ck_assert_uint_eq(part.n, 1);
    start_worker();
    walk(&with, 0, SIZE, true);
    same(&before, &with);
    walk(&with, 205 * BLK + 7, 1000, true);
    same(&part, &with);
    walk(&with, SIZE, 0, true);
    ck_assert_uint_eq(with.n, 0);
}
END_TEST

static struct hv_origin_totals totals(void)
{
    struct hv_origin_totals t = { NULL, 0 };
    struct hv_origins *o = NULL;

    ok(hv_origins_open(h.fix.store, "g", &o, &err));
    ok(hv_origins_totals(o, &t, &err));
    hv_origins_close(o);
    return t;
}

START_TEST(totals_add_up_to_the_volume)
{
    struct hv_origin_totals a, b;
    uint64_t sum = 0;

    a = totals();
    start_worker();
    b = totals();
    ck_assert_uint_eq(a.n, b.n);
    for (size_t i = 0; i < a.n; i++) {
        sum += a.list[i].bytes;
        ck_assert_uint_eq(a.list[i].bytes, b.list[i].bytes);
        ck_assert_uint_eq(a.list[i].hole_bytes, b.list[i].hole_bytes);
        if (a.list[i].origin == BSTORE_FROM_OWN)
            ck_assert_uint_ge(a.list[i].bytes, 150 * BLK);
        if (a.list[i].origin == BSTORE_FROM_ZERO)
            ck_assert_uint_eq(a.list[i].bytes, a.list[i].hole_bytes);
    }
    ck_assert_uint_eq(sum, SIZE);
    free(a.list);
    free(b.list);
}
END_TEST

/* Piece by piece, with any limit. */
START_TEST(pieces_make_the_whole)
{
    static struct list whole, pieces;
    uint64_t off = 0;
    struct hv_client *c = NULL;
    unsigned n = 0;
    json_t *answer;

    start_worker();
    walk(&whole, 0, SIZE, true);
    ok(hv_client_open(h.fix.store, "g", &c, &err));
    pieces.n = 0;
    while (off < SIZE) {
        ok(hv_client_call(c, "map",
                          json_pack("{s:I, s:i}", "offset", (json_int_t)off,
                                    "limit", 7), NULL, NULL, 5000, &answer, &err));
        ck_assert_uint_le(json_array_size(json_object_get(answer, "runs")), 7);
        ok(hv_map_answer(answer, off, SIZE, &off, collect, &pieces, &err));
        json_decref(answer);
        n++;
    }
    ck_assert_uint_gt(n, 10);
    same(&whole, &pieces);
    hv_client_close(c);
}
END_TEST

START_TEST(a_walk_ends_when_its_reader_says_so)
{
    static struct list l = { .stop_at = 3 };
    struct hv_origins *o = NULL;
    struct bs_err why;

    start_worker();
    ok(hv_origins_open(h.fix.store, "g", &o, &err));
    ck_assert_int_eq(hv_origins_walk(o, 0, SIZE, collect, &l, &why), 77);
    ck_assert_uint_eq(l.n, 3);
    ck_assert_int_eq(hv_origins_walk(o, 1, SIZE, collect, &l, &why), -ENXIO);
    hv_origins_close(o);
    ck_assert_int_eq(hv_origins_open(h.fix.store, "none", &o, &why), -ENOENT);
}
END_TEST

START_TEST(wrong_requests_are_refused)
{
    static const struct {
        const char *request, *code;
    } t[] = {
        { "{\"offset\":-1}", "EINVAL" },
        { "{\"offset\":\"0\"}", "EINVAL" },
        { "{\"bytes\":1.5}", "EINVAL" },
        { "{\"limit\":0}", "EINVAL" },
        { "{\"limit\":10001}", "EINVAL" },
        { "{\"totals\":1}", "EINVAL" },
        { "{\"lenght\":1}", "EINVAL" },
        { "{\"offset\":9223372036854775807}", "ENXIO" },
        { "{\"offset\":4096,\"bytes\":9223372036854775807}", "ENXIO" },
    };
    struct hv_client *c = NULL;
    json_t *answer = NULL;
    struct bs_err why;

    start_worker();
    ok(hv_client_open(h.fix.store, "g", &c, &err));
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        int r = hv_client_call(c, "map", json_loads(t[i].request, 0, NULL), NULL,
                               NULL, 5000, &answer, &why);

        ck_assert_msg(r < 0 && strcmp(strerrorname_np(-r), t[i].code) == 0,
                      "%s: %d", t[i].request, r);
    }
    ck_assert_int_eq(hv_client_call(c, "metrics",
                                    json_pack("{s:i}", "limit", 1), NULL, NULL,
                                    5000, &answer, &why), -EINVAL);
    hv_client_close(c);
}
END_TEST

/* ---- metrics ---- */

static char *metrics(void)
{
    struct hv_prom_merge *g = NULL;
    struct hv_client *c = NULL;
    json_t *answer;
    const char *text;
    char *copy;

    ok(hv_client_open(h.fix.store, "g", &c, &err));
    ok(hv_client_call(c, "metrics", NULL, NULL, NULL, 5000, &answer, &err));
    text = json_string_value(json_object_get(answer, "text"));
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(hv_prom_merge_new(&g), 0);
    ok(hv_prom_merge_add(g, text, strlen(text), &err)); /* it is of the format */
    hv_prom_merge_free(g);
    copy = strdup(text);
    json_decref(answer);
    hv_client_close(c);
    return copy;
}

START_TEST(a_held_volume_is_told_all_the_same)
{
    static struct list before, held;
    struct hv_origin_totals t;
    char *text;

    start_worker();
    walk(&before, 0, SIZE, true);
    ck_assert_int_eq(bstore_volume_hold(hv_worker_volume(w), 5000), 0);
    walk(&held, 0, SIZE, true);
    same(&before, &held);
    t = totals();
    ck_assert_uint_gt(t.n, 4);
    free(t.list);
    text = metrics();
    ck_assert_ptr_nonnull(text);
    free(text);
    bstore_volume_resume(hv_worker_volume(w));
}
END_TEST

/* ---- workers of another kind ---- */

static struct hv_control *fake;
static const char *fake_answer; /* to "map"; NULL: it is not known */

static void answer_fake(void *opaque, uint64_t to, json_t *req)
{
    const char *cmd = json_string_value(json_object_get(req, "cmd"));
    struct bs_err why;
    json_t *a;

    (void)opaque;
    if (strcmp(cmd, "status") == 0)
        a = json_pack("{s:b, s:I}", "ok", 1, "size_bytes", (json_int_t)SIZE);
    else if (fake_answer)
        a = json_loads(fake_answer, 0, NULL);
    else
        a = NULL;
    if (a) {
        json_object_set(a, "id", json_object_get(req, "id"));
    } else {
        bs_fail(&why, EINVAL, "a request has a known \"cmd\"");
        a = hv_control_error(json_object_get(req, "id"), &why);
    }
    hv_control_send(fake, to, a);
}

static void fake_tells(const char *answer, int want)
{
    static struct list l;
    struct hv_origin_totals t = { NULL, 0 };
    struct hv_origins *o = NULL;
    struct bs_err why = { 0 };

    fake_answer = answer;
    l.n = 0;
    ok(hv_origins_open(h.fix.store, "g", &o, &err));
    ck_assert_int_eq(hv_origins_walk(o, 0, SIZE, collect, &l, &why), want);
    ck_assert_uint_gt(strlen(why.text), 0);
    ck_assert_int_eq(hv_origins_totals(o, &t, &why), want);
    ck_assert_ptr_null(t.list);
    hv_origins_close(o);
}

START_TEST(a_worker_that_does_not_know_or_lies_is_an_error)
{
    char dir[128];
    int dirfd;

    snprintf(dir, sizeof(dir), "%s/store/volumes/g", h.fix.dir);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(dirfd, 0);
    ok(hv_control_start(dirfd, answer_fake, NULL, &fake, &err));
    fake_tells(NULL, -EPROTO);
    fake_tells("{\"ok\":true}", -EPROTO);
    /* For ever the same place. */
    fake_tells("{\"ok\":true,\"runs\":[],\"totals\":[],\"next\":0}", -EPROTO);
    fake_tells("{\"ok\":true,\"runs\":[],\"totals\":[{\"origin\":\"own\"}],"
               "\"next\":null}", -EPROTO);
    fake_tells("{\"ok\":false,\"error\":{\"code\":\"EIO\",\"text\":\"x\"}}", -EIO);
    hv_control_stop(fake);
    fake = NULL;
    close(dirfd);
}
END_TEST

#define HEX "8c22b2c3d4e5f60718293a4b5c6d7e8f8c22b2c3d4e5f60718293a4b5c6d7e8f"
#define RUN(origin_and_rest) \
    "{\"runs\":[{\"start\":4096,\"length\":8192," origin_and_rest "}],\"next\":null}"

static int follow(const char *text, struct list *l)
{
    struct bs_err why = { 0 };
    json_t *obj = json_loads(text, 0, NULL);
    uint64_t next = 0;
    int r;

    ck_assert_msg(obj != NULL, "%s", text);
    l->n = 0;
    r = hv_map_answer(obj, 4096, 12288, &next, collect, l, &why);
    if (r < 0)
        ck_assert_uint_gt(strlen(why.text), 0);
    else
        ck_assert_uint_eq(next, 12288);
    json_decref(obj);
    return r;
}

START_TEST(answers_are_golden)
{
    static struct list l;
    struct bstore_origin_run run = { .off = 4096, .bytes = 8192,
                                     .origin = BSTORE_FROM_TOKEN,
                                     .source_is_image = true, .src_off = 40960 };
    struct hv_origin_total t = { .origin = BSTORE_FROM_PATCH, .bytes = 10,
                                 .hole_bytes = 3 }, back;
    json_t *obj;
    char *text;

    ck_assert_int_eq(bstore_digest_from_hex(&run.source, HEX), 0);
    t.source = run.source;
    obj = hv_run_json(&run);
    text = json_dumps(obj, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"start\":4096,\"length\":8192,\"origin\":\"token\","
                           "\"image\":\"" HEX "\",\"offset\":40960}");
    free(text);
    json_decref(obj);
    obj = hv_total_json(&t);
    text = json_dumps(obj, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"origin\":\"patch\",\"bytes\":10,\"hole_bytes\":3,"
                           "\"patch\":\"" HEX "\"}");
    ok(hv_total_decode(obj, &back, &err));
    ck_assert(back.bytes == 10 && back.hole_bytes == 3 &&
              bstore_digest_eq(&back.source, &t.source));
    free(text);
    json_decref(obj);
    ck_assert_int_eq(follow(RUN("\"origin\":\"own\""), &l), 0);
    ck_assert_int_eq(l.runs[0].origin, BSTORE_FROM_OWN);
    ck_assert_int_eq(follow(RUN("\"origin\":\"image\",\"hole\":true"), &l), 0);
    ck_assert(l.runs[0].hole);
    ck_assert_int_eq(follow(RUN("\"origin\":\"patch\",\"patch\":\"" HEX
                                "\",\"offset\":0"), &l), 0);
    ck_assert(!l.runs[0].source_is_image);
}
END_TEST

START_TEST(one_bad_value_in_an_answer_is_refused)
{
    static const char *const bad[] = {
        "{}", "[]", "{\"runs\":[]}", "{\"runs\":{},\"next\":null}",
        "{\"runs\":[],\"next\":4096}", "{\"runs\":[],\"next\":12289}",
        "{\"runs\":[],\"next\":-1}", "{\"runs\":[7],\"next\":null}",
        RUN("\"origin\":\"moon\""), RUN("\"origin\":7"), RUN("\"hole\":true"),
        RUN("\"origin\":\"patch\",\"offset\":0"),
        RUN("\"origin\":\"patch\",\"patch\":\"12\",\"offset\":0"),
        RUN("\"origin\":\"token\",\"patch\":\"" HEX "\""),
        RUN("\"origin\":\"token\",\"patch\":\"" HEX "\",\"offset\":-4"),
        RUN("\"origin\":\"token\",\"patch\":\"" HEX "\",\"image\":\"" HEX
            "\",\"offset\":4"),
        "{\"runs\":[{\"start\":0,\"length\":12288,\"origin\":\"own\"}],"
        "\"next\":null}",
        "{\"runs\":[{\"start\":4096,\"length\":0,\"origin\":\"own\"}],"
        "\"next\":null}",
        "{\"runs\":[{\"start\":4096,\"length\":4096,\"origin\":\"own\"}],"
        "\"next\":null}",
        "{\"runs\":[{\"start\":4096,\"length\":8193,\"origin\":\"own\"}],"
        "\"next\":null}",
        "{\"runs\":[{\"start\":4096,\"length\":9223372036854775807,"
        "\"origin\":\"own\"}],\"next\":null}",
        "{\"runs\":[{\"start\":4096,\"length\":8192,\"origin\":\"own\"}],"
        "\"next\":8192}",
    };
    static struct list l;

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(follow(bad[i], &l) == -EPROTO, "%s", bad[i]);
}
END_TEST

static void has_line(const char *text, const char *line)
{
    char want[512];

    snprintf(want, sizeof(want), "\n%s\n", line);
    ck_assert_msg(strstr(text, want) != NULL, "no %s in\n%s", line, text);
}

START_TEST(metrics_say_what_was_done)
{
    char line[512], hex[BSTORE_DIGEST_HEX], *text;
    struct hv_io io;

    start_worker();
    hv_io_begin(hv_worker_metrics(w), &io, HV_IO_WRITE);
    hv_io_end(hv_worker_metrics(w), &io, 4096, 0);
    hv_io_begin(hv_worker_metrics(w), &io, HV_IO_READ);
    hv_io_end(hv_worker_metrics(w), &io, 4096, -EIO);
    hv_io_begin(hv_worker_metrics(w), &io, HV_IO_FLUSH);
    text = metrics();
    has_line(text, "blksub_io_requests_total{volume=\"g\",op=\"write\"} 1");
    has_line(text, "blksub_io_bytes_total{volume=\"g\",op=\"write\"} 4096");
    has_line(text, "blksub_io_bytes_total{volume=\"g\",op=\"read\"} 0");
    has_line(text, "blksub_io_errors_total{volume=\"g\",op=\"read\",errno=\"EIO\"} 1");
    has_line(text, "blksub_io_in_flight{volume=\"g\",op=\"flush\"} 1");
    has_line(text, "blksub_io_duration_seconds_bucket{volume=\"g\",op=\"write\","
                   "le=\"16.777216\"} 1");
    has_line(text, "blksub_io_duration_seconds_count{volume=\"g\",op=\"read\"} 1");
    has_line(text, "blksub_agent_configured{volume=\"g\"} 0");
    has_line(text, "blksub_job_running{volume=\"g\"} 0");
    snprintf(line, sizeof(line), "blksub_patch_groups_applied{volume=\"g\","
             "patch=\"%s\",name=\"test patch\",phase=\"applied\"} 3",
             bstore_digest_to_hex(&h.patch, hex));
    has_line(text, line);
    snprintf(line, sizeof(line), "blksub_volume_size_bytes{volume=\"g\"} %llu",
             (unsigned long long)SIZE);
    has_line(text, line);
    free(text);
    hv_io_end(hv_worker_metrics(w), &io, 0, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("origins");
    TCase *tc = tcase_create("origins");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_worker_and_the_volume_itself_tell_the_same);
    tcase_add_test(tc, totals_add_up_to_the_volume);
    tcase_add_test(tc, pieces_make_the_whole);
    tcase_add_test(tc, a_walk_ends_when_its_reader_says_so);
    tcase_add_test(tc, wrong_requests_are_refused);
    tcase_add_test(tc, a_held_volume_is_told_all_the_same);
    tcase_add_test(tc, a_worker_that_does_not_know_or_lies_is_an_error);
    tcase_add_test(tc, metrics_say_what_was_done);
    suite_add_tcase(s, tc);
    tc = tcase_create("answers");
    tcase_add_test(tc, answers_are_golden);
    tcase_add_test(tc, one_bad_value_in_an_answer_is_refused);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
