// SPDX-License-Identifier: GPL-2.0-or-later
/* The control socket of a real worker on a real volume, and its client. */
#include <sys/eventfd.h>

#include "control.h"
#include "hv-client.h"
#include "hv-fixture.h"
#include "hv-history.h"
#include "hv-worker.h"

static struct hv_fix h;
static struct hv_worker *w;

static void start_worker(void)
{
    char store[96];
    struct hv_worker_config config = { .store = store, .volume = "g",
                                       .agent = h.g.path, .agent_limit_s = 5 };

    snprintf(store, sizeof(store), "%s/store", h.fix.dir);
    ok(hv_worker_open(&config, &w, &err));
    h.g.volume = hv_worker_volume(w);
    ok(hv_worker_start(w, &err));
}

static void setup(void)
{
    hv_init(&h, 3000);
    bstore_volume_close(h.v); /* the worker has it now */
    h.v = NULL;
    start_worker();
}

static void teardown(void)
{
    hv_worker_close(w);
    w = NULL;
    hv_fini(&h);
}

static struct hv_client *client(void)
{
    struct hv_client *c = NULL;

    ok(hv_client_open(h.fix.store, "g", &c, &err));
    return c;
}

/* A raw connection to the control socket. */
static int raw_client(void)
{
    int dirfd, fd;
    char dir[128];

    snprintf(dir, sizeof(dir), "%s/store/volumes/g", h.fix.dir);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(dirfd, 0);
    fd = hv_control_socket(dirfd, HV_CONTROL_NAME, false);
    ck_assert_int_ge(fd, 0);
    close(dirfd);
    return fd;
}

/* Everything up to the close, or the first max lines. */
static char *read_lines(int fd, unsigned max)
{
    static char buf[1 << 16];
    size_t n = 0;

    while (max > 0 && n < sizeof(buf) - 1 && recv(fd, buf + n, 1, 0) == 1)
        if (buf[n++] == '\n')
            max--;
    buf[n] = 0;
    return buf;
}

static void say(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, text, n, MSG_NOSIGNAL);

        if (k <= 0)
            return; /* it has closed already: fine */
        text += k;
        n -= (size_t)k;
    }
}

START_TEST(garbage_is_answered_once_and_closed)
{
    static const struct {
        const char *text;
        size_t len;
    } t[] = {
        { "\n", 1 },         { "hello\n", 6 },  { "[1]\n", 4 },
        { "{\"id\":1\n", 8 }, { "7\n", 2 },      { "\0\0\0\n", 4 },
        { "\xff\xfe{}\n", 5 }, { "{\"a\":1,\"a\":2}\n", 14 },
    };
    int fd = raw_client();
    char *got;

    say(fd, t[_i].text, t[_i].len);
    got = read_lines(fd, 9);
    ck_assert_ptr_nonnull(strstr(got, "EPROTO"));
    ck_assert_ptr_eq(strchr(got, '\n') + 1, got + strlen(got)); /* one line */
    close(fd);
}
END_TEST

START_TEST(an_endless_line_is_cut)
{
    static char big[HV_CONTROL_LINE_MAX * 2];
    int fd = raw_client();

    memset(big, ' ', sizeof(big));
    say(fd, big, sizeof(big));
    ck_assert_ptr_nonnull(strstr(read_lines(fd, 9), "EPROTO"));
    close(fd);
}
END_TEST

START_TEST(requests_that_are_wrong_are_refused_and_nothing_else)
{
    static const char *const t[] = {
        "{}", "{\"id\":1}", "{\"id\":\"1\",\"cmd\":\"ping\"}",
        "{\"id\":1,\"cmd\":\"nope\"}", "{\"id\":1,\"cmd\":7}",
        "{\"id\":1,\"cmd\":\"apply\"}",
        "{\"id\":1,\"cmd\":\"apply\",\"patch\":\"x\"}",
        "{\"id\":1,\"cmd\":\"ping\",\"patch\":\"x\"}",
        "{\"id\":1,\"cmd\":\"restart\"}",
        "{\"id\":1,\"cmd\":\"restart\",\"units\":[1]}",
        "{\"id\":1,\"cmd\":\"restart\",\"units\":[\"\"]}",
        "{\"id\":1,\"cmd\":\"flush\",\"paths\":{}}",
        "{\"id\":1,\"cmd\":\"log\",\"limit\":0}",
        "{\"id\":1,\"cmd\":\"check\",\"rate\":-1}",
        "{\"id\":1,\"cmd\":\"check\",\"rate\":\"1\"}",
        "{\"id\":1,\"cmd\":\"check\",\"rate\":1125899906842625}",
        "{\"id\":1,\"cmd\":\"check\",\"paths\":[]}",
        "{\"id\":1,\"cmd\":\"cancel\",\"what\":\"all\"}",
        "{\"id\":1,\"cmd\":\"cancel\",\"what\":1}",
        "{\"id\":1,\"cmd\":\"log\",\"limit\":1e99}",
        "{\"id\":1,\"cmd\":\"hold\",\"limit\":0}",
        "{\"id\":1,\"cmd\":\"hold\",\"limit\":3601}",
        "{\"id\":1,\"cmd\":\"hold\",\"limit\":\"60\"}",
        "{\"id\":1,\"cmd\":\"hold\",\"size_bytes\":1}",
        "{\"id\":1,\"cmd\":\"resume\",\"limit\":1}",
        "{\"id\":1,\"cmd\":\"resize\"}",
        "{\"id\":1,\"cmd\":\"resize\",\"size_bytes\":0}",
        "{\"id\":1,\"cmd\":\"resize\",\"size_bytes\":-4096}",
        "{\"id\":1,\"cmd\":\"resize\",\"size_bytes\":\"4096\"}",
        "{\"id\":1,\"cmd\":\"resize\",\"size_bytes\":4096.0}",
        "{\"id\":1,\"cmd\":\"apply\",\"patch\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\","
        "\"dryrun\":true}",
        "{\"id\":1,\"cmd\":\"apply\",\"patch\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\","
        "\"strategy\":\"best\"}",
    };
    int fd = raw_client();

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        say(fd, t[i], strlen(t[i]));
        say(fd, "\n", 1);
        ck_assert_msg(strstr(read_lines(fd, 1), "EINVAL") != NULL, "%s", t[i]);
    }
    say(fd, "{\"id\":5,\"cmd\":\"ping\"}\n", 22);
    ck_assert_str_eq(read_lines(fd, 1), "{\"id\":5,\"ok\":true}\n");
    close(fd);
}
END_TEST

START_TEST(pieces_and_bunches_of_requests_are_the_same)
{
    static const char two[] = "{\"id\":1,\"cmd\":\"ping\"}\n"
                              "{\"id\":2,\"cmd\":\"ping\"}\n";
    int fd = raw_client();

    say(fd, two, sizeof(two) - 1);
    ck_assert_str_eq(read_lines(fd, 2),
                     "{\"id\":1,\"ok\":true}\n{\"id\":2,\"ok\":true}\n");
    for (size_t i = 0; i < sizeof(two) - 1; i++)
        say(fd, two + i, 1);
    ck_assert_str_eq(read_lines(fd, 2),
                     "{\"id\":1,\"ok\":true}\n{\"id\":2,\"ok\":true}\n");
    close(fd);
}
END_TEST

START_TEST(more_clients_than_are_served_wait_their_turn)
{
    int fd[HV_CONTROL_CLIENTS_MAX + 4];

    for (unsigned i = 0; i < N_ELEMS(fd); i++)
        fd[i] = raw_client();
    close(fd[0]);
    close(fd[1]);
    close(fd[2]);
    close(fd[3]);
    say(fd[N_ELEMS(fd) - 1], "{\"id\":5,\"cmd\":\"ping\"}\n", 22);
    ck_assert_str_eq(read_lines(fd[N_ELEMS(fd) - 1], 1),
                     "{\"id\":5,\"ok\":true}\n");
    for (unsigned i = 4; i < N_ELEMS(fd); i++)
        close(fd[i]);
}
END_TEST

static json_t *patch_member(void)
{
    char hex[BSTORE_DIGEST_HEX];

    return json_pack("{s:s}", "patch", bstore_digest_to_hex(&h.patch, hex));
}

static void count_event(void *opaque, const json_t *event)
{
    ck_assert_ptr_nonnull(json_object_get(event, "stage"));
    ++*(unsigned *)opaque;
}

START_TEST(apply_status_users_log_and_rollback)
{
    struct hv_client *c = client();
    json_t *a = NULL, *e;
    unsigned n_events = 0;

    ok(hv_client_call(c, "apply", patch_member(), count_event, &n_events, 60000,
                      &a, &err));
    ck_assert_uint_gt(n_events, 3);
    ck_assert_str_eq(json_string_value(json_object_get(
                         json_object_get(a, "result"), "outcome")), "done");
    json_decref(a);
    ok(hv_client_call(c, "status", NULL, NULL, NULL, 10000, &a, &err));
    ck_assert_uint_eq(json_array_size(json_object_get(a, "applied")), 1);
    ck_assert(json_is_null(json_object_get(a, "job")));
    ck_assert(json_is_true(json_object_get(json_object_get(a, "agent"),
                                           "connected")));
    ck_assert_str_ne(json_string_value(json_object_get(a, "current")),
                     json_string_value(json_object_get(a, "image")));
    json_decref(a);
    ok(hv_client_call(c, "users", NULL, NULL, NULL, 10000, &a, &err));
    ck_assert_uint_eq(json_array_size(json_object_get(a, "users")), 2);
    json_decref(a);
    ok(hv_client_call(c, "flush", NULL, NULL, NULL, 10000, &a, &err));
    ck_assert_uint_eq(json_array_size(json_object_get(a, "files")), 1);
    json_decref(a);
    ok(hv_client_call(c, "restart", json_pack("{s:[s,s]}", "units", "a.service",
                                              "dbus.service"),
                      NULL, NULL, 10000, &a, &err));
    ck_assert_uint_eq(json_array_size(json_object_get(a, "units")), 2);
    ck_assert_uint_eq(h.g.n_restarts, 1); /* not dbus */
    json_decref(a);
    ok(hv_client_call(c, "rollback", patch_member(), NULL, NULL, 60000, &a, &err));
    json_decref(a);
    ok(hv_client_call(c, "log", NULL, NULL, NULL, 10000, &a, &err));
    e = json_object_get(a, "entries");
    ck_assert_uint_eq(json_array_size(e), 2);
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(e, 1),
                                                       "what")), "rollback");
    json_decref(a);
    hv_client_close(c);
    hv_all(&h, false);
}
END_TEST

static atomic_bool hold;

static void wait_at_stage(struct guest *g, uint16_t type)
{
    (void)g;
    while (type == WIRE_PREPARE && atomic_load(&hold))
        usleep(1000);
}

/* Waits for the job's own answer among the events. */
static json_t *answer_of(struct hv_client *c, json_int_t id)
{
    struct bs_err err;
    json_t *m;

    for (;;) {
        ck_assert_int_eq(hv_client_next(c, 60000, &m, &err), 0);
        if (json_integer_value(json_object_get(m, "id")) == id &&
            !json_object_get(m, "event"))
            return m;
        json_decref(m);
    }
}

static void wait_for_job(struct hv_client *c)
{
    json_t *a;
    bool there;

    do {
        ok(hv_client_call(c, "status", NULL, NULL, NULL, 10000, &a, &err));
        there = json_is_object(json_object_get(a, "job"));
        json_decref(a);
    } while (!there);
}

START_TEST(the_same_job_is_joined_another_is_refused_and_the_first_may_leave)
{
    struct hv_client *first = client(), *second = client(), *third = client();
    json_int_t id1, id2;
    struct bs_err e;
    json_t *a = NULL;

    atomic_store(&hold, true);
    h.g.on_request = wait_at_stage;
    ok(hv_client_send(first, "apply", patch_member(), &id1, &err));
    wait_for_job(third);
    ok(hv_client_send(second, "apply", patch_member(), &id2, &err));
    ck_assert_int_eq(hv_client_call(third, "rollback", patch_member(), NULL, NULL,
                                    10000, &a, &e), -EBUSY);
    hv_client_close(first); /* Ctrl-C's big brother: it is just gone */
    atomic_store(&hold, false);
    a = answer_of(second, id2);
    ck_assert(json_is_true(json_object_get(a, "ok")));
    json_decref(a);
    hv_client_close(second);
    hv_client_close(third);
    hv_all(&h, true);
}
END_TEST

/* ---- checks ---- */

static json_t *rate_member(json_int_t rate)
{
    return json_pack("{s:I}", "rate", rate);
}

static bool is_checking(struct hv_client *c)
{
    json_t *a;
    bool there;

    ok(hv_client_call(c, "status", NULL, NULL, NULL, 10000, &a, &err));
    there = json_is_object(json_object_get(a, "check"));
    json_decref(a);
    return there;
}

static void wait_for_check(struct hv_client *c, bool there)
{
    while (is_checking(c) != there)
        usleep(1000);
}

/* How many lines the history has, and the last of them (borrowed). */
static size_t history(json_t **list, json_t **last)
{
    size_t n;

    ok(hv_history_read(bstore_volume_dirfd(hv_worker_volume(w)), 100, list, &err));
    n = json_array_size(*list);
    *last = n ? json_array_get(*list, n - 1) : NULL;
    return n;
}

static void count_damage(void *opaque, const json_t *event)
{
    const char *what = json_string_value(json_object_get(event, "event"));

    if (strcmp(what, "damage") == 0) {
        ck_assert(json_is_object(json_object_get(event, "finding")));
        ++*(unsigned *)opaque;
    } else {
        ck_assert_str_eq(what, "progress");
        ck_assert_ptr_nonnull(json_object_get(event, "n_findings"));
    }
}

/* A bit of the golden image's block blk. */
static void flip_image(uint64_t blk)
{
    char hex[BSTORE_DIGEST_HEX], path[256];
    uint8_t b;
    int fd;

    snprintf(path, sizeof(path), "%s/store/images/%s/data", h.fix.dir,
             bstore_digest_to_hex(&h.fix.image, hex));
    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_RDWR);
    ck_assert_int_eq(pread(fd, &b, 1, (off_t)(blk * BLK)), 1);
    b ^= 1;
    ck_assert_int_eq(pwrite(fd, &b, 1, (off_t)(blk * BLK)), 1);
    close(fd);
}

START_TEST(a_check_says_what_it_finds_and_the_history_keeps_it)
{
    struct hv_client *c = client();
    json_t *a = NULL, *res, *list, *last;
    unsigned n = 0;

    ok(hv_client_call(c, "check", rate_member(0), count_damage, &n, 60000, &a,
                      &err));
    res = json_object_get(a, "result");
    ck_assert_str_eq(json_string_value(json_object_get(res, "outcome")), "clean");
    ck_assert_int_gt(json_integer_value(json_object_get(res, "read_bytes")), 0);
    json_decref(a);
    ck_assert_uint_eq(n, 0);
    ck_assert_uint_eq(history(&list, &last), 1);
    ck_assert_str_eq(json_string_value(json_object_get(last, "what")), "check");
    json_decref(list);
    flip_image(700);
    ok(hv_client_call(c, "check", NULL, count_damage, &n, 60000, &a, &err));
    res = json_object_get(a, "result");
    ck_assert_str_eq(json_string_value(json_object_get(res, "outcome")),
                     "damaged");
    ck_assert_uint_eq(json_array_size(json_object_get(res, "findings")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(
                         json_object_get(res, "findings"), 0), "block")), 700);
    json_decref(a);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(history(&list, &last), 2);
    ck_assert_str_eq(json_string_value(json_object_get(last, "outcome")),
                     "damaged");
    json_decref(list);
    hv_client_close(c);
}
END_TEST

START_TEST(an_apply_does_not_wait_for_a_check_and_one_check_runs_at_a_time)
{
    struct hv_client *slow = client(), *c = client();
    json_t *a = NULL, *list, *last;
    struct bs_err e;
    json_int_t id;

    ck_assert_int_eq(hv_client_call(c, "cancel", json_pack("{s:s}", "what",
                                                           "check"),
                                    NULL, NULL, 10000, &a, &e), -ENOENT);
    ok(hv_client_send(slow, "check", rate_member(4096), &id, &err));
    wait_for_check(c, true);
    ck_assert_int_eq(hv_client_call(c, "check", NULL, NULL, NULL, 10000, &a, &e),
                     -EBUSY);
    ok(hv_client_call(c, "apply", patch_member(), NULL, NULL, 60000, &a, &err));
    json_decref(a);
    ck_assert(is_checking(c)); /* at this rate it takes an hour */
    ck_assert_int_eq(hv_client_call(c, "cancel", NULL, NULL, NULL, 10000, &a, &e),
                     -ENOENT); /* there is no job */
    ok(hv_client_call(c, "cancel", json_pack("{s:s}", "what", "check"), NULL, NULL,
                      10000, &a, &err));
    json_decref(a);
    a = answer_of(slow, id);
    ck_assert_int_eq(hv_client_result(a, &e), -ECANCELED);
    json_decref(a);
    wait_for_check(c, false);
    /* It had found nothing; the apply has its line. */
    ck_assert_uint_eq(history(&list, &last), 1);
    ck_assert_str_eq(json_string_value(json_object_get(last, "what")), "apply");
    json_decref(list);
    hv_client_close(slow);
    hv_client_close(c);
}
END_TEST

START_TEST(a_check_ends_with_its_client_and_with_its_worker)
{
    struct hv_client *slow = client(), *c = client();
    json_int_t id;

    ok(hv_client_send(slow, "check", rate_member(4096), &id, &err));
    wait_for_check(c, true);
    hv_client_close(slow);
    wait_for_check(c, false);
    slow = client();
    ok(hv_client_send(slow, "check", rate_member(4096), &id, &err));
    wait_for_check(c, true);
    hv_client_close(c);
    hv_worker_close(w); /* while it is under way */
    w = NULL;
    hv_client_close(slow);
}
END_TEST

START_TEST(cancel_ends_the_job_and_says_so)
{
    struct hv_client *c = client(), *other = client();
    struct bs_err e;
    json_int_t id;
    json_t *a = NULL;

    ck_assert_int_eq(hv_client_call(other, "cancel", NULL, NULL, NULL, 10000, &a,
                                    &e), -ENOENT);
    atomic_store(&hold, true);
    h.g.on_request = wait_at_stage;
    ok(hv_client_send(c, "apply", patch_member(), &id, &err));
    wait_for_job(other);
    ok(hv_client_call(other, "cancel", NULL, NULL, NULL, 10000, &a, &err));
    json_decref(a);
    atomic_store(&hold, false);
    a = answer_of(c, id);
    ck_assert_int_eq(hv_client_result(a, &e), -ECANCELED);
    json_decref(a);
    hv_client_close(c);
    hv_client_close(other);
    hv_all(&h, false);
}
END_TEST

START_TEST(a_worker_that_ends_in_the_middle_undoes_and_answers)
{
    struct hv_client *c = client(), *other = client();
    struct bs_err e;
    json_int_t id;
    json_t *a;

    atomic_store(&hold, true);
    h.g.on_request = wait_at_stage;
    ok(hv_client_send(c, "apply", patch_member(), &id, &err));
    wait_for_job(other);
    atomic_store(&hold, false);
    hv_worker_close(w);
    w = NULL;
    while (hv_client_next(c, 10000, &a, &e) == 0)
        json_decref(a);
    hv_client_close(c);
    hv_client_close(other);
    start_worker();
    c = client();
    ok(hv_client_call(c, "apply", patch_member(), NULL, NULL, 60000, &a, &err));
    json_decref(a);
    hv_client_close(c);
    hv_all(&h, true);
}
END_TEST

START_TEST(who_is_not_served_or_not_there_is_told_apart)
{
    struct hv_client *c = NULL;
    struct bs_err e;

    ck_assert_int_eq(hv_client_open(h.fix.store, "nope", &c, &e), -ENOENT);
    ck_assert_int_eq(hv_client_open(h.fix.store, "../g", &c, &e), -EINVAL);
    hv_worker_close(w);
    w = NULL;
    ck_assert_int_eq(hv_client_open(h.fix.store, "g", &c, &e), -EHOSTUNREACH);
    ck_assert_ptr_null(c);
}
END_TEST

START_TEST(one_volume_has_one_worker)
{
    struct hv_worker *second = NULL;
    char store[96];
    struct hv_worker_config config = { .store = store, .volume = "g" };
    struct bs_err e;

    snprintf(store, sizeof(store), "%s/store", h.fix.dir);
    ck_assert_int_eq(hv_worker_open(&config, &second, &e), -EBUSY);
    ck_assert_ptr_null(second);
}
END_TEST

START_TEST(history_survives_a_torn_line)
{
    json_t *list = NULL, *e = json_pack("{s:i}", "time", 7);
    char dir[128], file[160];
    int dirfd, fd;

    snprintf(dir, sizeof(dir), "%s/store/volumes/g", h.fix.dir);
    snprintf(file, sizeof(file), "%s/history", dir);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY);
    ok(hv_history_append(dirfd, e, &err));
    fd = open(file, O_WRONLY | O_APPEND);
    ck_assert_int_eq(write(fd, "{\"time\":8,\"wh", 13), 13);
    close(fd);
    ok(hv_history_append(dirfd, e, &err));
    ok(hv_history_append(dirfd, e, &err));
    ok(hv_history_read(dirfd, 10, &list, &err));
    ck_assert_uint_eq(json_array_size(list), 3);
    json_decref(list);
    ok(hv_history_read(dirfd, 2, &list, &err));
    ck_assert_uint_eq(json_array_size(list), 2);
    json_decref(list);
    json_decref(e);
    close(dirfd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("control");
    TCase *t = tcase_create("control");
    SRunner *sr;
    int n;

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, garbage_is_answered_once_and_closed, 0, 8);
    tcase_add_test(t, an_endless_line_is_cut);
    tcase_add_test(t, requests_that_are_wrong_are_refused_and_nothing_else);
    tcase_add_test(t, pieces_and_bunches_of_requests_are_the_same);
    tcase_add_test(t, more_clients_than_are_served_wait_their_turn);
    tcase_add_test(t, apply_status_users_log_and_rollback);
    tcase_add_test(t, the_same_job_is_joined_another_is_refused_and_the_first_may_leave);
    tcase_add_test(t, a_check_says_what_it_finds_and_the_history_keeps_it);
    tcase_add_test(t, an_apply_does_not_wait_for_a_check_and_one_check_runs_at_a_time);
    tcase_add_test(t, a_check_ends_with_its_client_and_with_its_worker);
    tcase_add_test(t, cancel_ends_the_job_and_says_so);
    tcase_add_test(t, a_worker_that_ends_in_the_middle_undoes_and_answers);
    tcase_add_test(t, who_is_not_served_or_not_there_is_told_apart);
    tcase_add_test(t, one_volume_has_one_worker);
    tcase_add_test(t, history_survives_a_torn_line);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    n = srunner_ntests_failed(sr);
    srunner_free(sr);
    return n ? EXIT_FAILURE : EXIT_SUCCESS;
}
