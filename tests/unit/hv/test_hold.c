// SPDX-License-Identifier: GPL-2.0-or-later
/* Holding, resuming and growing a volume through its worker's control socket. */
#include <pthread.h>
#include <sys/eventfd.h>

#include "control.h"
#include "hv-client.h"
#include "hv-fixture.h"
#include "hv-worker.h"

#define MS 30000

static struct hv_fix h;
static struct hv_worker *w;
static struct hv_client *c;

static struct hv_client *client(void)
{
    struct hv_client *one = NULL;

    ok(hv_client_open(h.fix.store, "g", &one, &err));
    return one;
}

static void setup(void)
{
    char store[96];
    struct hv_worker_config config = { .store = store, .volume = "g",
                                       .agent = h.g.path, .agent_limit_s = 5 };

    hv_init(&h, 3000);
    bstore_volume_close(h.v); /* the worker has it now */
    h.v = NULL;
    snprintf(store, sizeof(store), "%s/store", h.fix.dir);
    ok(hv_worker_open(&config, &w, &err));
    h.g.volume = hv_worker_volume(w);
    ok(hv_worker_start(w, &err));
    c = client();
}

static void teardown(void)
{
    hv_client_close(c);
    hv_worker_close(w);
    hv_fini(&h);
}

/* 0 or the error's code. */
static int call(struct hv_client *of, const char *cmd, json_t *members)
{
    struct bs_err e;
    json_t *a = NULL;
    int r = hv_client_call(of, cmd, members, NULL, NULL, MS, &a, &e);

    json_decref(a);
    return r;
}

static int hold_for(int limit_s)
{
    return call(c, "hold", json_pack("{s:i}", "limit", limit_s));
}

/* A member of "hold" in status: a text, or a number as text; "" = no hold. */
static const char *hold_says(const char *member)
{
    struct hv_client *mine = client();
    static char text[32];
    json_t *a = NULL, *m;

    ok(hv_client_call(mine, "status", NULL, NULL, NULL, MS, &a, &err));
    ck_assert_ptr_nonnull(json_object_get(a, "hold"));
    m = json_object_get(json_object_get(a, "hold"), member);
    text[0] = '\0';
    if (json_is_string(m))
        snprintf(text, sizeof(text), "%s", json_string_value(m));
    else if (json_is_integer(m))
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(m));
    json_decref(a);
    hv_client_close(mine);
    return text;
}

static void wait_until(const char *member, const char *value)
{
    while (strcmp(hold_says(member), value) != 0)
        usleep(2000);
}

static json_t *patch_member(void)
{
    char hex[BSTORE_DIGEST_HEX];

    return json_pack("{s:s}", "patch", bstore_digest_to_hex(&h.patch, hex));
}

/* ---- the guest's request, in a thread ------------------------------------------- */

static atomic_bool done;

static void *one_read(void *arg)
{
    static uint8_t buf[BLK];

    (void)arg;
    ck_assert_int_eq(bstore_volume_read(hv_worker_volume(w), buf, BLK, 0), 0);
    atomic_store(&done, true);
    return NULL;
}

static pthread_t begin_read(void)
{
    pthread_t t;

    atomic_store(&done, false);
    ck_assert_int_eq(pthread_create(&t, NULL, one_read, NULL), 0);
    return t;
}

/* The disk stands still: a read that has begun does not end. */
static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint n_at_gate;

static ssize_t gate_pread(int fd, void *buf, size_t n, off_t off)
{
    atomic_fetch_add(&n_at_gate, 1);
    pthread_mutex_lock(&gate_lock);
    pthread_mutex_unlock(&gate_lock);
    return pread(fd, buf, n, off);
}

static const struct bs_file_ops gate = { .pread = gate_pread };

static pthread_t stuck_read(void)
{
    pthread_t t;

    atomic_store(&n_at_gate, 0);
    pthread_mutex_lock(&gate_lock);
    bs_file_set_ops(&gate);
    t = begin_read();
    while (atomic_load(&n_at_gate) == 0)
        usleep(1000);
    return t;
}

static void let_go(pthread_t t)
{
    pthread_mutex_unlock(&gate_lock);
    pthread_join(t, NULL);
    bs_file_set_ops(NULL);
}

/* ---- tests ---------------------------------------------------------------------- */

START_TEST(a_request_waits_from_hold_to_resume)
{
    pthread_t t;

    ck_assert_str_eq(hold_says("state"), "");
    ck_assert_int_eq(hold_for(60), 0);
    ck_assert_str_eq(hold_says("state"), "held");
    ck_assert_str_eq(hold_says("limit"), "60");
    t = begin_read();
    wait_until("waiting", "1");
    ck_assert(!atomic_load(&done));
    ck_assert_int_eq(call(c, "resume", NULL), 0);
    pthread_join(t, NULL);
    ck_assert_str_eq(hold_says("state"), "");
    ck_assert_int_eq(call(c, "resume", NULL), -ENOENT);
}
END_TEST

START_TEST(it_is_in_force_when_requests_under_way_have_ended)
{
    struct hv_client *other = client();
    json_t *a = NULL;
    struct bs_err e;
    json_int_t id;
    pthread_t t;

    t = stuck_read();
    ok(hv_client_send(other, "hold", NULL, &id, &err));
    wait_until("state", "draining");
    ck_assert_int_eq(hv_client_next(other, 50, &a, &e), -ETIMEDOUT);
    let_go(t);
    ok(hv_client_next(other, MS, &a, &err));
    ck_assert_int_eq(hv_client_result(a, &e), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(a, "limit")), 60);
    json_decref(a);
    hv_client_close(other);
    /* It outlives the connection. */
    ck_assert_str_eq(hold_says("state"), "held");
    ck_assert_int_eq(call(c, "resume", NULL), 0);
}
END_TEST

/* _i: ended by resume, or by its limit. */
START_TEST(it_can_end_before_it_is_in_force)
{
    struct hv_client *other = client();
    json_t *a = NULL;
    struct bs_err e;
    json_int_t id;
    pthread_t t;

    t = stuck_read();
    ok(hv_client_send(other, "hold", json_pack("{s:i}", "limit", _i ? 1 : 60),
                      &id, &err));
    wait_until("state", _i ? "" : "draining");
    if (_i == 0)
        ck_assert_int_eq(call(c, "resume", NULL), 0);
    ok(hv_client_next(other, MS, &a, &err));
    ck_assert_int_eq(hv_client_result(a, &e), _i ? -ETIMEDOUT : -ECANCELED);
    json_decref(a);
    ck_assert_str_eq(hold_says("state"), "");
    let_go(t);
    hv_client_close(other);
    /* And nothing of it is left. */
    ck_assert_int_eq(hold_for(60), 0);
    ck_assert_int_eq(call(c, "resume", NULL), 0);
}
END_TEST

START_TEST(its_limit_ends_it_and_holding_again_renews_that)
{
    struct bs_err e;
    json_t *a = NULL;
    pthread_t t;

    ck_assert_int_eq(hold_for(1), 0);
    t = begin_read();
    pthread_join(t, NULL); /* nobody resumes it */
    wait_until("state", "");
    ck_assert_int_eq(hv_client_call(c, "resume", NULL, NULL, NULL, MS, &a, &e),
                     -ENOENT);
    ck_assert_ptr_nonnull(strstr(e.text, "limit"));
    ck_assert_int_eq(hold_for(1), 0);
    ck_assert_int_eq(hold_for(100), 0);
    usleep(1200 * 1000); /* beyond the first limit: the second one counts */
    ck_assert_str_eq(hold_says("state"), "held");
    ck_assert_int_eq(call(c, "resume", NULL), 0);
}
END_TEST

static atomic_bool guest_waits;

static void wait_at_prepare(struct guest *g, uint16_t type)
{
    (void)g;
    while (type == WIRE_PREPARE && atomic_load(&guest_waits))
        usleep(1000);
}

START_TEST(jobs_that_write_and_holds_exclude_each_other)
{
    struct hv_client *other = client();
    json_int_t id;
    json_t *a = NULL;
    struct bs_err e;

    ck_assert_int_eq(hold_for(60), 0);
    ck_assert_int_eq(call(c, "apply", patch_member()), -EBUSY);
    ck_assert_int_eq(call(c, "rollback", patch_member()), -EBUSY);
    ck_assert_int_eq(call(c, "resize", json_pack("{s:I}", "size_bytes",
                                                 (json_int_t)1 << 40)), -EBUSY);
    ck_assert_int_eq(call(c, "ping", NULL), 0);
    ck_assert_int_eq(call(c, "resume", NULL), 0);

    atomic_store(&guest_waits, true);
    h.g.on_request = wait_at_prepare;
    ok(hv_client_send(other, "apply", patch_member(), &id, &err));
    ok(hv_client_next(other, MS, &a, &err)); /* how it goes: it is running */
    ck_assert_ptr_nonnull(json_object_get(a, "event"));
    json_decref(a);
    ck_assert_int_eq(hv_client_call(c, "hold", NULL, NULL, NULL, MS, &a, &e),
                     -EBUSY);
    ck_assert_ptr_nonnull(strstr(e.text, "apply"));
    ck_assert_str_eq(hold_says("state"), "");
    atomic_store(&guest_waits, false);
    for (;;) {
        bool event;

        ok(hv_client_next(other, MS, &a, &err));
        event = json_object_get(a, "event");
        ck_assert(event || hv_client_result(a, &e) == 0);
        json_decref(a);
        if (!event)
            break;
    }
    hv_client_close(other);
    ck_assert_int_eq(hold_for(60), 0);
    ck_assert_int_eq(call(c, "resume", NULL), 0);
    hv_all(&h, true);
}
END_TEST

START_TEST(a_worker_that_ends_lets_requests_go_on_and_holds_no_more)
{
    pthread_t t;

    ck_assert_int_eq(hold_for(600), 0);
    t = begin_read();
    wait_until("waiting", "1");
    hv_worker_end_hold(w);
    pthread_join(t, NULL);
    wait_until("state", "");
    ck_assert_int_eq(hold_for(60), -ECANCELED);
    ck_assert_int_eq(call(c, "ping", NULL), 0);
}
END_TEST

START_TEST(a_worker_may_be_closed_while_it_is_held)
{
    ck_assert_int_eq(hold_for(600), 0);
    /* teardown does it */
}
END_TEST

START_TEST(a_volume_grows_under_its_worker)
{
    struct bstore_volume *v = hv_worker_volume(w);
    uint64_t size = bstore_volume_size_bytes(v);
    struct bstore_volume_info info;
    json_t *a = NULL;
    uint8_t b = 1;

    ck_assert_int_eq(bstore_volume_read(v, &b, 1, size), -ENXIO);
    ok(hv_client_call(c, "resize", json_pack("{s:I}", "size_bytes",
                                             (json_int_t)size + 8192),
                      NULL, NULL, MS, &a, &err));
    ck_assert_int_eq(json_integer_value(json_object_get(a, "size_bytes")),
                     (json_int_t)size + 8192);
    json_decref(a);
    ck_assert_uint_eq(bstore_volume_size_bytes(v), size + 8192);
    ck_assert_int_eq(bstore_volume_read(v, &b, 1, size + 8191), 0);
    ck_assert_int_eq(b, 0);
    ok(bstore_volume_find(h.fix.store, "g", &info, &err));
    ck_assert_uint_eq(info.size_bytes, size + 8192);
    ck_assert_int_eq(call(c, "resize", json_pack("{s:I}", "size_bytes",
                                                 (json_int_t)size)), -EINVAL);
    ck_assert_int_eq(call(c, "resize", json_pack("{s:I}", "size_bytes",
                                                 (json_int_t)size + 8193)),
                     -EINVAL);
    ck_assert_int_eq(call(c, "apply", patch_member()), 0);
    hv_all(&h, true);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hold");
    TCase *t = tcase_create("hold");
    SRunner *sr;
    int n;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_request_waits_from_hold_to_resume);
    tcase_add_test(t, it_is_in_force_when_requests_under_way_have_ended);
    tcase_add_loop_test(t, it_can_end_before_it_is_in_force, 0, 2);
    tcase_add_test(t, its_limit_ends_it_and_holding_again_renews_that);
    tcase_add_test(t, jobs_that_write_and_holds_exclude_each_other);
    tcase_add_test(t, a_worker_that_ends_lets_requests_go_on_and_holds_no_more);
    tcase_add_test(t, a_worker_may_be_closed_while_it_is_held);
    tcase_add_test(t, a_volume_grows_under_its_worker);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    n = srunner_ntests_failed(sr);
    srunner_free(sr);
    return n ? 1 : 0;
}
