// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "store.h"
#include "unit/blockstore/support.h"

static struct bstore *store;

static void setup_each(void)
{
    make_dir();
    OK(bstore_open(in_dir("s"), BSTORE_CREATE, &store, &err));
}

static void teardown_each(void)
{
    bstore_close(store);
    remove_dir();
}

START_TEST(a_store_is_made_once_and_opened_again)
{
    struct bstore *again;
    struct stat st;
    size_t n;
    char *s;

    OK(bstore_open(in_dir("s"), 0, &again, &err));
    ck_assert_str_eq(bstore_path(again), in_dir("s"));
    bstore_close(again);
    OK(bstore_open(in_dir("s"), BSTORE_CREATE, &again, &err));
    bstore_close(again);
    s = (char *)read_file(in_dir("s/format"), &n);
    ck_assert_str_eq(s, "blksub-store 1\n");
    free(s);
    OK(bstore_open(in_dir("deep/er/s"), BSTORE_CREATE, &again, &err));
    bstore_close(again);
    ck_assert_int_eq(stat(in_dir("deep/er/s"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
    /* A file system of its own, just made. */
    ck_assert_int_eq(mkdir(in_dir("fs"), 0755), 0);
    ck_assert_int_eq(mkdir(in_dir("fs/lost+found"), 0700), 0);
    OK(bstore_open(in_dir("fs"), BSTORE_CREATE, &again, &err));
    bstore_close(again);
}
END_TEST

START_TEST(what_is_no_store_is_refused)
{
    struct bstore *other;

    REFUSED(bstore_open(in_dir("nothing"), 0, &other, &err), ENOENT);
    ck_assert_int_eq(mkdir(in_dir("empty"), 0755), 0);
    REFUSED(bstore_open(in_dir("empty"), 0, &other, &err), ENOENT);
    ck_assert_int_eq(mkdir(in_dir("home"), 0755), 0);
    write_file(in_dir("home/letter"), "x", 1);
    REFUSED(bstore_open(in_dir("home"), BSTORE_CREATE, &other, &err), EINVAL);
    ck_assert_int_ne(access(in_dir("home/images"), F_OK), 0);
    write_file(in_dir("s/format"), "blksub-store 2\n", 15);
    REFUSED(bstore_open(in_dir("s"), 0, &other, &err), ENOTSUP);
    write_file(in_dir("s/format"), "something\n", 10);
    REFUSED(bstore_open(in_dir("s"), BSTORE_CREATE, &other, &err), EBADMSG);
}
END_TEST

START_TEST(names_are_checked)
{
    static const char *const good[] = { "a", "A.b_c-9", "9" };
    static const char *const bad[] = { "", ".", "..", ".a", "-a", "a/b", "a b",
                                       "a\n", "\xc3\xa4" };
    char longest[65];
    size_t i;

    for (i = 0; i < N_ELEMS(good); i++)
        OK(bstore_check_name("image", good[i], &err));
    for (i = 0; i < N_ELEMS(bad); i++)
        REFUSED(bstore_check_name("image", bad[i], &err), EINVAL);
    memset(longest, 'a', sizeof(longest));
    longest[64] = '\0';
    REFUSED(bstore_check_name("image", longest, &err), EINVAL);
    longest[63] = '\0';
    OK(bstore_check_name("image", longest, &err));
}
END_TEST

static void *add_key(void *opaque)
{
    struct bstore_seckey sec;
    struct bstore_pubkey pub;
    int i;

    for (i = 0; i < 20; i++) {
        key_of((uint32_t)(uintptr_t)opaque * 100 + (uint32_t)i, &sec, &pub);
        if (bstore_trust_add(store, &pub, NULL) < 0)
            return opaque;
    }
    return NULL;
}

START_TEST(threads_add_keys_at_the_same_time)
{
    struct bstore_pubkey *keys;
    pthread_t threads[3];
    void *bad;
    size_t n, i;

    for (i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, add_key,
                                        (void *)(i + 1)), 0);
    for (i = 0; i < 3; i++) {
        pthread_join(threads[i], &bad);
        ck_assert_ptr_null(bad);
    }
    OK(bstore_trust_list(store, &keys, &n, &err));
    ck_assert_uint_eq(n, 60);
    free(keys);
}
END_TEST

START_TEST(keys_are_trusted_listed_and_removed)
{
    struct bstore_pubkey pub, other, *keys;
    struct bstore_seckey sec;
    char hex[BSTORE_KEY_ID_HEX];
    size_t n, i;

    OK(bstore_trust_list(store, &keys, &n, &err));
    ck_assert_uint_eq(n, 0);
    free(keys);
    key_of(1, &sec, &pub);
    key_of(2, &sec, &other);
    OK(bstore_trust_add(store, &pub, &err));
    OK(bstore_trust_add(store, &pub, &err)); /* again is no error */
    OK(bstore_trust_add(store, &other, &err));
    OK(bstore_trust_list(store, &keys, &n, &err));
    ck_assert_uint_eq(n, 2);
    free(keys);
    memcpy(other.id, pub.id, sizeof(pub.id));
    REFUSED(bstore_trust_add(store, &other, &err), EEXIST);
    bstore_key_id_to_hex(pub.id, hex);
    for (i = 0; hex[i]; i++)
        hex[i] = (char)tolower(hex[i]);
    OK(bstore_trust_remove(store, hex, &err));
    REFUSED(bstore_trust_remove(store, hex, &err), ENOENT);
    OK(bstore_trust_list(store, &keys, &n, &err));
    ck_assert_uint_eq(n, 1);
    free(keys);
}
END_TEST

START_TEST(a_damaged_trusted_key_is_said_not_skipped)
{
    struct bstore_pubkey *keys;
    size_t n;

    write_file(in_dir("s/keys/0123456789ABCDEF.pub"), "nonsense\n", 9);
    REFUSED(bstore_trust_list(store, &keys, &n, &err), EBADMSG);
}
END_TEST

START_TEST(another_process_that_holds_the_lock_is_waited_for)
{
    int go[2], status;
    char c = 0;
    pid_t pid;

    ck_assert_int_eq(pipe(go), 0);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        int fd = open(in_dir("s/lock"), O_RDWR);

        if (fd < 0 || flock(fd, LOCK_EX) != 0 || write(go[1], &c, 1) != 1)
            _exit(1);
        usleep(300 * 1000);
        _exit(0); /* and with it the lock */
    }
    ck_assert_int_eq(read(go[0], &c, 1), 1);
    OK(bstore_lock(store, &err));
    bstore_unlock(store);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(shared_locks_keep_out_only_who_wants_it_alone)
{
    struct bstore *other, *third;

    OK(bstore_open(in_dir("s"), 0, &other, &err));
    OK(bstore_open(in_dir("s"), 0, &third, &err));
    OK(bstore_lock_shared(store, &err));
    OK(bstore_lock_shared(other, &err));
    REFUSED(bstore_lock(third, &err), EBUSY);
    bstore_unlock(store);
    bstore_unlock(other);
    OK(bstore_lock(third, &err));
    REFUSED(bstore_lock_shared(store, &err), EBUSY);
    bstore_unlock(third);
    bstore_close(other);
    bstore_close(third);
}
END_TEST

START_TEST(a_lock_that_is_not_given_back_is_not_waited_for_forever)
{
    struct bstore *other;

    OK(bstore_open(in_dir("s"), 0, &other, &err));
    OK(bstore_lock(other, &err));
    REFUSED(bstore_lock(store, &err), EBUSY);
    bstore_unlock(other);
    OK(bstore_lock(store, &err));
    bstore_unlock(store);
    bstore_close(other);
}
END_TEST

START_TEST(what_a_crash_left_is_swept_and_nothing_else)
{
    struct bstore_making mk = BSTORE_NOT_MAKING;
    struct bstore *other;
    struct stat st;

    ck_assert_int_eq(mkdir(in_dir("s/images/.tmp-dead"), 0755), 0);
    write_file(in_dir("s/images/.tmp-dead/data"), "x", 1);
    write_file(in_dir("s/keys/.tmp-1-x.pub"), "x", 1);
    write_file(in_dir("s/images/note"), "x", 1);
    OK(bstore_make_begin(store, "patches", &mk, &err));
    OK(bstore_open(in_dir("s"), 0, &other, &err));
    OK(bstore_lock(other, &err));
    bstore_unlock(other);
    ck_assert_int_ne(access(in_dir("s/images/.tmp-dead"), F_OK), 0);
    ck_assert_int_ne(access(in_dir("s/keys/.tmp-1-x.pub"), F_OK), 0);
    ck_assert_int_eq(access(in_dir("s/images/note"), F_OK), 0);
    /* What is being made elsewhere is left alone, and goes when it is given
     * up. */
    ck_assert_int_eq(fstatat(mk.parent_fd, mk.name, &st, 0), 0);
    bstore_make_end(&mk);
    OK(bstore_lock(other, &err));
    bstore_unlock(other);
    bstore_close(other);
    ck_assert_int_eq(rmdir(in_dir("s/patches")), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");

    tcase_add_checked_fixture(t, setup_each, teardown_each);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_store_is_made_once_and_opened_again);
    tcase_add_test(t, what_is_no_store_is_refused);
    tcase_add_test(t, names_are_checked);
    tcase_add_test(t, threads_add_keys_at_the_same_time);
    tcase_add_test(t, keys_are_trusted_listed_and_removed);
    tcase_add_test(t, a_damaged_trusted_key_is_said_not_skipped);
    tcase_add_test(t, another_process_that_holds_the_lock_is_waited_for);
    tcase_add_test(t, shared_locks_keep_out_only_who_wants_it_alone);
    tcase_add_test(t, a_lock_that_is_not_given_back_is_not_waited_for_forever);
    tcase_add_test(t, what_a_crash_left_is_swept_and_nothing_else);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
