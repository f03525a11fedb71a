// SPDX-License-Identifier: GPL-2.0-or-later
/* The backend's state machine over a xenstore in memory and a disk that only
 * notes what it is told. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "hv-xenbus.h"
#include "xenbus-frontend.h"

#define BACK "/local/domain/0/backend/vbd/7/51712"
#define FRONT "/local/domain/7/device/vbd/51712"

/* ---- xenstore --------------------------------------------------------------- */

static struct {
    char path[192], value[64];
} nodes[128];
static unsigned n_writes;

static char *value_of(const char *path)
{
    for (size_t i = 0; i < N_ELEMS(nodes); i++)
        if (strcmp(nodes[i].path, path) == 0)
            return nodes[i].value;
    return NULL;
}

static void set(const char *dir, const char *key, const char *value)
{
    char path[192], *at;

    snprintf(path, sizeof(path), "%s/%s", dir, key);
    at = value_of(path);
    for (size_t i = 0; !at && i < N_ELEMS(nodes); i++)
        if (!nodes[i].path[0]) {
            strcpy(nodes[i].path, path);
            at = nodes[i].value;
        }
    ck_assert_ptr_nonnull(at);
    strcpy(at, value);
}

static void set_number(const char *dir, const char *key, unsigned value)
{
    char text[16];

    snprintf(text, sizeof(text), "%u", value);
    set(dir, key, text);
}

/* The node, or all below it. */
static void rm(const char *path)
{
    for (size_t i = 0; i < N_ELEMS(nodes); i++)
        if (strncmp(nodes[i].path, path, strlen(path)) == 0)
            nodes[i].path[0] = '\0';
}

static char *fake_read(void *opaque, const char *dir, const char *key)
{
    char path[256], *value;

    (void)opaque;
    snprintf(path, sizeof(path), "%s/%s", dir, key);
    value = value_of(path);
    return value ? strdup(value) : NULL;
}

static int fake_write(void *opaque, const char *dir,
                      const struct hv_xs_pair *pairs, unsigned n)
{
    (void)opaque;
    n_writes++;
    if (!value_of(BACK "/frontend-id"))
        return -ENOENT;
    for (unsigned i = 0; i < n; i++)
        set(dir, pairs[i].key, pairs[i].value);
    return 0;
}

static const struct hv_xs_ops fake_xs = { fake_read, fake_write };

/* ---- the disk ---------------------------------------------------------------- */

static struct hv_blkback_conn conn;
static struct hv_blkback_ring_params rings[HV_BLKBACK_MAX_RINGS];
static bool connected;
static unsigned n_connects;
static int connect_answer;

static int fake_connect(void *opaque, const struct hv_blkback_conn *c,
                        struct bs_err *err)
{
    (void)opaque;
    n_connects++;
    if (connect_answer < 0)
        return bs_fail(err, -connect_answer, "it will not");
    ck_assert(!connected);
    conn = *c;
    memcpy(rings, c->rings, c->n_rings * sizeof(rings[0]));
    connected = true;
    return 0;
}

static void fake_disconnect(void *opaque)
{
    (void)opaque;
    ck_assert(connected);
    connected = false;
}

static const struct hv_xenbus_disk fake_disk = { fake_connect, fake_disconnect };

/* ---- */

static struct hv_xenbus *bus;
static struct hv_xenbus_config config = {
    .xs = &fake_xs,
    .disk = &fake_disk,
    .path = BACK,
    .size_bytes = 1 << 20,
    .features = HV_BLKBACK_FLUSH | HV_BLKBACK_BARRIER | HV_BLKBACK_DISCARD,
    .max_segs = 256,
    .max_rings = 4,
    .max_order = 4,
};

static void toolstack_adds(void)
{
    set(BACK, "frontend", FRONT);
    set(BACK, "frontend-id", "7");
    set(BACK, "online", "1");
    set(BACK, "state", "1");
    set(FRONT, "state", "1");
}

static void front_is_ready(void)
{
    set(FRONT, "protocol", "x86_64-abi");
    set(FRONT, "ring-ref", "11");
    set(FRONT, "event-channel", "21");
    set(FRONT, "state", "3");
}

static unsigned back(const char *key)
{
    char path[192], *value;

    snprintf(path, sizeof(path), BACK "/%s", key);
    value = value_of(path);
    ck_assert_msg(value != NULL, "no %s", key);
    return (unsigned)atoi(value);
}

static void setup(void)
{
    struct bs_err err;

    memset(nodes, 0, sizeof(nodes));
    n_writes = n_connects = 0;
    connect_answer = 0;
    connected = false;
    toolstack_adds();
    ck_assert_int_eq(hv_xenbus_new(&config, &bus, &err), 0);
}

static void teardown(void)
{
    hv_xenbus_free(bus);
}

static void connect_it(void)
{
    ck_assert(hv_xenbus_look(bus));
    front_is_ready();
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CONNECTED);
}

START_TEST(a_new_disk_offers_its_features_and_waits)
{
    ck_assert_uint_eq(hv_xenbus_domid(bus), 7);
    ck_assert_uint_eq(hv_xenbus_devid(bus), 51712);
    ck_assert_str_eq(hv_xenbus_frontend(bus), FRONT);
    ck_assert(hv_xenbus_look(bus));
    ck_assert_uint_eq(back("state"), HV_XENBUS_INIT_WAIT);
    ck_assert_uint_eq(back("feature-flush-cache"), 1);
    ck_assert_uint_eq(back("feature-discard"), 1);
    ck_assert_uint_eq(back("discard-granularity"), 4096);
    ck_assert_uint_eq(back("feature-max-indirect-segments"), 256);
    ck_assert_uint_eq(back("multi-queue-max-queues"), 4);
    ck_assert_uint_eq(back("max-ring-page-order"), 4);
    ck_assert(!connected);
}
END_TEST

START_TEST(a_frontend_that_is_ready_is_connected_once)
{
    connect_it();
    ck_assert_uint_eq(conn.domid, 7);
    ck_assert_uint_eq(conn.devid, 51712);
    ck_assert_uint_eq(conn.n_rings, 1);
    ck_assert_uint_eq(conn.ring_order, 0);
    ck_assert_uint_eq(rings[0].refs[0], 11);
    ck_assert_uint_eq(rings[0].port, 21);
    ck_assert(!conn.adopt && !conn.persistent);
    ck_assert_uint_eq(back("sectors"), (1 << 20) / 512);
    ck_assert_uint_eq(back("sector-size"), 512);
    set(FRONT, "state", "4");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(hv_xenbus_look(bus));
    ck_assert_uint_eq(n_connects, 1);
}
END_TEST

START_TEST(several_rings_of_several_pages)
{
    ck_assert(hv_xenbus_look(bus));
    set(FRONT, "multi-queue-num-queues", "2");
    set(FRONT, "ring-page-order", "1");
    set(FRONT, "feature-persistent", "1");
    for (unsigned q = 0; q < 2; q++) {
        char dir[128];

        snprintf(dir, sizeof(dir), FRONT "/queue-%u", q);
        set_number(dir, "ring-ref0", 100 + q);
        set_number(dir, "ring-ref1", 200 + q);
        set_number(dir, "event-channel", 300 + q);
    }
    set(FRONT, "state", "3");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    ck_assert_uint_eq(conn.n_rings, 2);
    ck_assert_uint_eq(conn.ring_order, 1);
    ck_assert(conn.persistent);
    ck_assert_uint_eq(rings[1].refs[1], 201);
    ck_assert_uint_eq(rings[1].port, 301);
}
END_TEST

/* xen-blkback was here first: its state, and not our features. */
START_TEST(a_disk_taken_from_somebody_in_state_2_gets_our_features)
{
    set(BACK, "state", "2");
    set(BACK, "feature-persistent", "0");
    front_is_ready();
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    ck_assert(!conn.adopt);
    ck_assert_uint_eq(back("feature-persistent"), 1);
}
END_TEST

START_TEST(what_a_killed_worker_served_is_adopted)
{
    connect_it();
    set(FRONT, "state", "4");
    hv_xenbus_free(bus);
    connected = false;
    n_writes = 0;
    ck_assert_int_eq(hv_xenbus_new(&config, &bus, NULL), 0);
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected && conn.adopt);
    ck_assert_uint_eq(n_writes, 0); /* the guest sees nothing of it */
}
END_TEST

START_TEST(so_it_is_while_the_guest_still_uses_what_is_being_detached)
{
    connect_it();
    set(BACK, "online", "0");
    set(BACK, "state", "5");
    set(FRONT, "state", "5");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    hv_xenbus_free(bus);
    connected = false;
    ck_assert_int_eq(hv_xenbus_new(&config, &bus, NULL), 0);
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected && conn.adopt);
    set(FRONT, "state", "6");
    ck_assert(!hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSED);
}
END_TEST

START_TEST(a_detached_disk_is_served_until_the_frontend_has_closed)
{
    connect_it();
    set(FRONT, "state", "4");
    set(BACK, "online", "0");
    set(BACK, "state", "5");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSING);
    set(FRONT, "state", "6");
    ck_assert(!hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSED);
}
END_TEST

START_TEST(a_disk_that_no_driver_ever_took_is_detached_at_once)
{
    ck_assert(hv_xenbus_look(bus));
    set(BACK, "online", "0");
    set(BACK, "state", "5");
    ck_assert(!hv_xenbus_look(bus));
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSED);
}
END_TEST

START_TEST(a_frontend_may_close_and_come_again)
{
    connect_it();
    set(FRONT, "state", "5");
    ck_assert(hv_xenbus_look(bus));
    set(FRONT, "state", "6");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSED);
    set(FRONT, "state", "1");
    ck_assert(hv_xenbus_look(bus));
    ck_assert_uint_eq(back("state"), HV_XENBUS_INIT_WAIT);
    front_is_ready();
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
    ck_assert(!conn.adopt);
}
END_TEST

START_TEST(a_crash_kernel_begins_anew_without_closing)
{
    connect_it();
    set(FRONT, "state", "1");
    ck_assert(hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_INIT_WAIT);
}
END_TEST

START_TEST(a_domain_that_is_gone_leaves_nothing_connected)
{
    connect_it();
    rm(FRONT);
    ck_assert(!hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSED);
}
END_TEST

START_TEST(nodes_that_the_toolstack_removed_do_not_come_back)
{
    connect_it();
    rm(BACK);
    ck_assert(!hv_xenbus_look(bus));
    ck_assert(!connected);
    ck_assert_ptr_null(value_of(BACK "/state"));
}
END_TEST

START_TEST(a_connection_that_fails_is_closed_and_not_tried_again)
{
    connect_answer = -EFAULT;
    ck_assert(hv_xenbus_look(bus));
    front_is_ready();
    for (int i = 0; i < 4; i++)
        ck_assert(hv_xenbus_look(bus));
    ck_assert_uint_eq(n_connects, 1);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CLOSING);
    set(FRONT, "state", "6");
    ck_assert(hv_xenbus_look(bus));
    connect_answer = 0;
    set(FRONT, "state", "1");
    ck_assert(hv_xenbus_look(bus));
    front_is_ready();
    ck_assert(hv_xenbus_look(bus));
    ck_assert(connected);
}
END_TEST

START_TEST(a_new_size_is_told)
{
    connect_it();
    hv_xenbus_resized(bus, 3 << 20);
    ck_assert_uint_eq(back("sectors"), (3 << 20) / 512);
    ck_assert_uint_eq(back("state"), HV_XENBUS_CONNECTED);
}
END_TEST

/* ---- what a guest may write ---------------------------------------------------- */

static int read_front(void)
{
    struct hv_xenbus_frontend f;
    struct bs_err err = { 0 };
    int r = hv_xenbus_frontend_read(&fake_xs, NULL, FRONT, 4, 4, &f, &err);

    ck_assert(r == 0 || err.text[0]);
    return r;
}

START_TEST(a_bad_value_in_any_node_is_refused)
{
    static const struct { const char *key, *value; } t[] = {
        { "protocol", "sparc-abi" },
        { "protocol", "" },
        { "ring-ref", "" },
        { "ring-ref", "-1" },
        { "ring-ref", " 1" },
        { "ring-ref", "0x1" },
        { "ring-ref", "01" },
        { "ring-ref", "4294967296" },
        { "ring-ref", "99999999999999999999999" },
        { "event-channel", "x" },
        { "event-channel", "4294967296" },
        { "multi-queue-num-queues", "0" },
        { "multi-queue-num-queues", "5" },
        { "multi-queue-num-queues", "2" }, /* and no queue-0 */
        { "ring-page-order", "5" },
        { "ring-page-order", "2" }, /* and no ring-ref0 */
        { "feature-persistent", "2" },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        memset(nodes, 0, sizeof(nodes));
        front_is_ready();
        ck_assert_int_eq(read_front(), 0);
        set(FRONT, t[i].key, t[i].value);
        ck_assert_msg(read_front() < 0, "%s = '%s'", t[i].key, t[i].value);
    }
}
END_TEST

START_TEST(a_node_that_is_missing_is_named)
{
    static const char *const keys[] = { "ring-ref", "event-channel" };

    for (size_t i = 0; i < N_ELEMS(keys); i++) {
        struct hv_xenbus_frontend f;
        struct bs_err err;
        char path[128];

        front_is_ready();
        snprintf(path, sizeof(path), FRONT "/%s", keys[i]);
        rm(path);
        ck_assert_int_eq(hv_xenbus_frontend_read(&fake_xs, NULL, FRONT, 4, 4, &f,
                                                 &err), -EBADMSG);
        ck_assert_ptr_nonnull(strstr(err.text, keys[i]));
    }
}
END_TEST

START_TEST(no_protocol_is_this_hosts_own)
{
    struct hv_xenbus_frontend f;

    front_is_ready();
    rm(FRONT "/protocol");
    ck_assert_int_eq(hv_xenbus_frontend_read(&fake_xs, NULL, FRONT, 4, 4, &f, NULL),
                     0);
    ck_assert_int_eq(f.conn.abi, HV_BLKIF_X86_64);
}
END_TEST

START_TEST(what_is_no_disk_is_refused)
{
    static const struct { const char *path, *id; int r; } t[] = {
        { BACK, "8", -EBADMSG }, /* another domain's id in the path */
        { "/local/domain/0/backend/vbd/7/x", "7", -EBADMSG },
        { "/local/domain/0/backend/vbd/99999/51712", "7", -EBADMSG },
        { "51712", "7", -EBADMSG },
        { "/local/domain/0/backend/vbd/7/51728", "7", -ENOENT },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        struct hv_xenbus_config c = config;
        struct hv_xenbus *x;
        struct bs_err err = { 0 };

        set(BACK, "frontend-id", t[i].id);
        c.path = t[i].path;
        ck_assert_int_eq(hv_xenbus_new(&c, &x, &err), t[i].r);
        ck_assert(err.text[0]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("xenbus");
    TCase *t = tcase_create("xenbus");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_new_disk_offers_its_features_and_waits);
    tcase_add_test(t, a_frontend_that_is_ready_is_connected_once);
    tcase_add_test(t, several_rings_of_several_pages);
    tcase_add_test(t, a_disk_taken_from_somebody_in_state_2_gets_our_features);
    tcase_add_test(t, what_a_killed_worker_served_is_adopted);
    tcase_add_test(t, so_it_is_while_the_guest_still_uses_what_is_being_detached);
    tcase_add_test(t, a_detached_disk_is_served_until_the_frontend_has_closed);
    tcase_add_test(t, a_disk_that_no_driver_ever_took_is_detached_at_once);
    tcase_add_test(t, a_frontend_may_close_and_come_again);
    tcase_add_test(t, a_crash_kernel_begins_anew_without_closing);
    tcase_add_test(t, a_domain_that_is_gone_leaves_nothing_connected);
    tcase_add_test(t, nodes_that_the_toolstack_removed_do_not_come_back);
    tcase_add_test(t, a_connection_that_fails_is_closed_and_not_tried_again);
    tcase_add_test(t, a_new_size_is_told);
    tcase_add_test(t, a_bad_value_in_any_node_is_refused);
    tcase_add_test(t, a_node_that_is_missing_is_named);
    tcase_add_test(t, no_protocol_is_this_hosts_own);
    tcase_add_test(t, what_is_no_disk_is_refused);
    suite_add_tcase(s, t);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
