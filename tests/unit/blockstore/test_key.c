// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/wait.h>

#include "unit/blockstore/support.h"

static struct bstore_seckey sec;
static struct bstore_pubkey pub;

static void setup(void)
{
    make_dir();
    key_of(1, &sec, &pub);
}

/* Runs a command with its output in dir/out; its exit status. */
static int run(const char *command)
{
    char cmd[1200];
    int status;

    snprintf(cmd, sizeof(cmd), "%s >%s 2>&1 </dev/null", command,
             in_dir("out"));
    status = system(cmd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* One byte of a text changed: nothing verifies. */
static void check_every_flip(const char *sig, const void *buf, size_t len)
{
    size_t n = strlen(sig), i;
    char bad[BSTORE_SIG_MAX];
    int bit;

    for (i = 0; i < n; i++)
        for (bit = 0; bit < 8; bit++) {
            memcpy(bad, sig, n + 1);
            bad[i] ^= (char)(1 << bit);
            ck_assert_msg(bstore_verify(&pub, 1, bad, n, buf, len, NULL, &err) < 0,
                          "byte %zu bit %d of the signature", i, bit);
        }
}

START_TEST(a_signature_holds_and_no_changed_one)
{
    char sig[BSTORE_SIG_MAX], text_of_key[256];
    struct bstore_pubkey keys[3], parsed;
    uint8_t buf[100], id[8];
    size_t which = 9, n, i;

    fill(buf, sizeof(buf), 5);
    OK(bstore_sign(&sec, buf, sizeof(buf), "serial 7", sig, &err));
    n = strlen(sig);
    memset(keys, 0, sizeof(keys));
    keys[2] = pub;
    OK(bstore_verify(keys, 3, sig, n, buf, sizeof(buf), &which, &err));
    ck_assert_uint_eq(which, 2);
    OK(bstore_sig_key_id(sig, n, id, &err));
    ck_assert_mem_eq(id, pub.id, 8);

    check_every_flip(sig, buf, sizeof(buf));
    for (i = 0; i < n; i++)
        ck_assert_int_lt(bstore_verify(&pub, 1, sig, i, buf, sizeof(buf), NULL,
                                       &err), 0);
    for (i = 0; i < sizeof(buf); i++) {
        buf[i] ^= 1;
        REFUSED(bstore_verify(&pub, 1, sig, n, buf, sizeof(buf), NULL, &err),
                EKEYREJECTED);
        buf[i] ^= 1;
    }
    REFUSED(bstore_verify(keys, 2, sig, n, buf, sizeof(buf), NULL, &err),
            EKEYREJECTED);
    REFUSED(bstore_verify(&pub, 1, "", 0, buf, sizeof(buf), NULL, &err),
            EKEYREJECTED);
    bstore_pubkey_format(&pub, text_of_key);
    OK(bstore_pubkey_parse(text_of_key, strlen(text_of_key), &parsed, &err));
    ck_assert_mem_eq(&parsed, &pub, sizeof(pub));
}
END_TEST

START_TEST(a_signature_has_these_bytes)
{
    /* Ed25519 is deterministic; minisign 0.11 verified these. */
    static const char golden[] =
        "untrusted comment: blksub patch signature\n"
        "RURCRnQeK9qR3bwjYQtTm/u9NusePiesF0yOrJmMXmyNyEW2UfVS6WnFa6WWQy/0Wzgs"
        "x3CJkg1L3KTGaNkhhJ73mjM8icoxVg8=\n"
        "trusted comment: t\n"
        "S0d6paYGmDVl8Ipn9LKvFsY7EkXCSPXlL7f2Aj7C+YttLSBW65TZOWp9cRxtDIi+iyQ+"
        "tM/FMEBrJmPXMwGZAQ==\n";
    static const char golden_key[] =
        "untrusted comment: minisign public key DD91DA2B1E744642\n"
        "RWRCRnQeK9qR3QyScpn5r9tQOeP+x68GIyoSz6Vqkt1llZ4FMzmHsmJx\n";
    char sig[BSTORE_SIG_MAX], key[256];

    OK(bstore_sign(&sec, "abc", 3, "t", sig, &err));
    ck_assert_str_eq(sig, golden);
    bstore_pubkey_format(&pub, key);
    ck_assert_str_eq(key, golden_key);
}
END_TEST

START_TEST(a_trusted_comment_is_one_line)
{
    char sig[BSTORE_SIG_MAX], longest[600];

    REFUSED(bstore_sign(&sec, "x", 1, "a\nb", sig, &err), EINVAL);
    memset(longest, 'c', sizeof(longest));
    longest[513] = '\0';
    REFUSED(bstore_sign(&sec, "x", 1, longest, sig, &err), EINVAL);
    longest[512] = '\0';
    OK(bstore_sign(&sec, "x", 1, longest, sig, &err));
    OK(bstore_verify(&pub, 1, sig, strlen(sig), "x", 1, NULL, &err));
}
END_TEST

START_TEST(keygen_makes_a_pair_and_replaces_none)
{
    struct bstore_seckey s;
    struct bstore_pubkey p;
    char sig[BSTORE_SIG_MAX];
    struct stat st;

    OK(bstore_keygen(in_dir("k1"), &err));
    ck_assert_int_eq(stat(in_dir("k1.key"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    OK(bstore_seckey_load(in_dir("k1.key"), &s, &err));
    OK(bstore_pubkey_load(in_dir("k1.pub"), &p, &err));
    OK(bstore_sign(&s, "x", 1, "", sig, &err));
    OK(bstore_verify(&p, 1, sig, strlen(sig), "x", 1, NULL, &err));
    REFUSED(bstore_keygen(in_dir("k1"), &err), EEXIST);
    unlink(in_dir("k1.key"));
    REFUSED(bstore_keygen(in_dir("k1"), &err), EEXIST);
    ck_assert_int_ne(access(in_dir("k1.key"), F_OK), 0);
    unlink(in_dir("k1.pub"));
    write_file(in_dir("k1.key"), "mine", 4);
    REFUSED(bstore_keygen(in_dir("k1"), &err), EEXIST);
    ck_assert_int_ne(access(in_dir("k1.pub"), F_OK), 0);
    bstore_seckey_wipe(&s);
    ck_assert(sodium_is_zero((uint8_t *)&s, sizeof(s)));
}
END_TEST

START_TEST(damaged_keys_are_refused)
{
    struct bstore_seckey s;
    struct bstore_pubkey p;
    char whole[256];
    uint8_t *buf;
    size_t len, i;

    OK(bstore_keygen(in_dir("k2"), &err));
    buf = read_file(in_dir("k2.key"), &len);
    /* The comment is free, and so are blanks at the end. */
    for (i = strcspn((char *)buf, "\n") + 1; i + 1 < len; i++) {
        uint8_t old = buf[i];

        buf[i] = old == 'x' ? 'y' : 'x';
        write_file(in_dir("bad"), buf, len);
        /* A KDF's salt and limits are not used without a password. */
        if (bstore_seckey_load(in_dir("bad"), &s, &err) == 0)
            ck_assert_msg(i - strcspn((char *)buf, "\n") - 1 >= 8 &&
                          i - strcspn((char *)buf, "\n") - 1 <= 72,
                          "character %zu", i);
        buf[i] = old;
        write_file(in_dir("bad"), buf, i);
        ck_assert_int_lt(bstore_seckey_load(in_dir("bad"), &s, &err), 0);
    }
    free(buf);
    bstore_pubkey_format(&pub, whole);
    for (i = 0; i + 1 < strlen(whole); i++)
        REFUSED(bstore_pubkey_parse(whole, i, &p, &err), EBADMSG);
    whole[strcspn(whole, "\n") + 1] = 'X'; /* another algorithm */
    REFUSED(bstore_pubkey_parse(whole, strlen(whole), &p, &err), ENOTSUP);
    REFUSED(bstore_seckey_load(in_dir("nothing"), &s, &err), ENOENT);
    REFUSED(bstore_pubkey_load(in_dir("nothing"), &p, &err), ENOENT);
}
END_TEST

START_TEST(minisign_and_we_take_each_other_s_keys_and_signatures)
{
    char sig[BSTORE_SIG_MAX], *theirs;
    const uint8_t data[] = "what is signed";
    struct bstore_seckey s;
    struct bstore_pubkey p;
    size_t n;

    if (run("minisign -v") == 127)
        return; /* not on this machine; tests/deps.list names it */
    ck_assert_int_eq(chdir(dir), 0);
    write_file("data", data, sizeof(data));

    /* minisign's keys with us, our signature with minisign. */
    ck_assert_int_eq(run("minisign -G -W -p m.pub -s m.key"), 0);
    OK(bstore_seckey_load("m.key", &s, &err));
    OK(bstore_pubkey_load("m.pub", &p, &err));
    OK(bstore_sign(&s, data, sizeof(data), "hello", sig, &err));
    OK(bstore_verify(&p, 1, sig, strlen(sig), data, sizeof(data), NULL, &err));
    write_file("sig", sig, strlen(sig));
    ck_assert_int_eq(run("minisign -V -H -p m.pub -x sig -m data"), 0);

    /* Our keys with minisign, its signature with us. */
    OK(bstore_keygen("ours", &err));
    OK(bstore_pubkey_load("ours.pub", &p, &err));
    ck_assert_int_eq(run("minisign -S -W -c 'blksub patch signature' -t x "
                         "-s ours.key -x sig2 -m data"), 0);
    ck_assert_int_eq(run("minisign -V -p ours.pub -x sig2 -m data"), 0);
    theirs = (char *)read_file("sig2", &n);
    OK(bstore_verify(&p, 1, theirs, n, data, sizeof(data), NULL, &err));
    free(theirs);
}
END_TEST

START_TEST(a_key_with_a_password_is_refused_with_advice)
{
    uint8_t bin[158] = "EdSc"; /* the KDF scrypt */
    char b64[300], file[400];
    struct bstore_seckey s;

    memcpy(bin + 4, "B2", 2);
    sodium_bin2base64(b64, sizeof(b64), bin, sizeof(bin),
                      sodium_base64_VARIANT_ORIGINAL);
    snprintf(file, sizeof(file), "untrusted comment: x\n%s\n", b64);
    write_file(in_dir("enc"), file, strlen(file));
    REFUSED(bstore_seckey_load(in_dir("enc"), &s, &err), ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.text, "password"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("key");
    TCase *t = tcase_create("key");

    tcase_add_unchecked_fixture(t, setup, remove_dir);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_signature_holds_and_no_changed_one);
    tcase_add_test(t, a_signature_has_these_bytes);
    tcase_add_test(t, a_trusted_comment_is_one_line);
    tcase_add_test(t, keygen_makes_a_pair_and_replaces_none);
    tcase_add_test(t, damaged_keys_are_refused);
    tcase_add_test(t, minisign_and_we_take_each_other_s_keys_and_signatures);
    tcase_add_test(t, a_key_with_a_password_is_refused_with_advice);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
