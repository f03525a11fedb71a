// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "bs/bytes.h"
#include "publish/policy.h"
#include "mkimage.h"

/* A tree of nothing but names is enough for the rules that need a tool. */
static struct pub_inode file = { .node = { .type = BSTORE_FILE } };
static char path_of_ldconfig[] = "/sbin/ldconfig";
static struct pub_entry entries[] = { { .path = path_of_ldconfig,
                                        .inode = &file } };
static struct pub_tree with_ldconfig = { .entries = entries, .n_entries = 1 };
static struct pub_tree empty;

static struct pub_policy *parse(const char *text, const struct pub_tree *t)
{
    struct pub_policy *p = NULL;
    struct bs_err err = { 0 };

    ck_assert_msg(pub_policy_parse(text, strlen(text), "p", t, &p, &err) == 0,
                  "%s", err.text);
    return p;
}

START_TEST(globs_match_as_documented)
{
    static const struct {
        const char *glob, *path;
        bool match;
    } t[] = {
        { "/a/b", "/a/b", true },      { "/a/b", "/a/bc", false },
        { "/a/*", "/a/b", true },      { "/a/*", "/a/b/c", false },
        { "/a/**", "/a/b/c", true },   { "/a/**", "/a", false },
        { "/a/**/z", "/a/b/c/z", true }, { "/a/**/z", "/a/z", false },
        { "/a/?", "/a/b", true },      { "/a/?", "/a/", false },
        { "/a?b", "/a/b", false },     { "*~", "/etc/x~", true },
        { "*~", "/etc/x~y", false },   { "x", "/deep/er/x", true },
        { "/x", "/deep/x", false },    { "**", "/any", true },
        { "/a*b*c", "/axxbyyc", true }, { "/a*b*c", "/axxbyyd", false },
        { "/ssh_host_*", "/ssh_host_rsa_key.pub", true },
        { "", "", true },              { "*", "", true },
    };
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(pub_glob(t[i].glob, t[i].path) == t[i].match,
                      "%s against %s", t[i].glob, t[i].path);
}
END_TEST

START_TEST(a_glob_of_many_stars_is_not_slow)
{
    char glob[200], path[4000];
    size_t i;

    for (i = 0; i + 3 < sizeof(glob); i += 2)
        memcpy(glob + i, "*a", 3);
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    path[sizeof(path) - 2] = 'b';
    ck_assert(!pub_glob(glob, path));
}
END_TEST

START_TEST(the_built_in_rules_leave_out_what_is_a_machines_own)
{
    static const struct {
        const char *path, *why;
    } t[] = {
        { "/etc/machine-id", "machine identity" },
        { "/etc/ssh/ssh_host_rsa_key", "host key" },
        { "/etc/ssh/sshd_config", NULL },
        { "/var/log/a/b.log", "log" },
        { "/var/log", NULL },
        { "/var/cache/man/index.db", "cache" },
        { "/var/lib/apt/lists/x", "package lists: the guest fetches its own" },
        { "/var/lib/dpkg/status", "package database: merged by stanza" },
        { "/var/lib/dpkg/info/x.list", NULL },
        { "/etc/passwd", "accounts: each guest has its own" },
        { "/etc/group-", "backup" },
        { "/home/x/notes~", "backup" },
        { "/lost+found", "the file system's own" },
        { "/tmp/x", "temporary" },
        { "/var/lib/blksub/journal", "the agent's own state" },
        { "/usr/bin/passwd", NULL },
        { "/etc/ld.so.cache", "generated: hook ldconfig" },
        { "/boot/initrd.img-6.1", NULL }, /* nothing here could make it */
    };
    struct pub_policy *p = parse("", &with_ldconfig);
    const char *why;
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        why = pub_policy_excludes(p, t[i].path);
        ck_assert_msg((why == NULL) == (t[i].why == NULL), "%s: %s", t[i].path,
                      why ? why : "shipped");
        if (why)
            ck_assert_str_eq(why, t[i].why);
    }
    pub_policy_free(p);
}
END_TEST

START_TEST(generated_files_are_shipped_where_nothing_generates_them)
{
    struct pub_policy *p = parse("", &empty);

    ck_assert_ptr_null(pub_policy_excludes(p, "/etc/ld.so.cache"));
    pub_policy_free(p);
}
END_TEST

START_TEST(a_file_adds_rules_and_the_last_one_that_matches_decides)
{
    struct pub_policy *p = parse("# mine\n"
                                 "exclude /srv/** the customer's data\n"
                                 "\n"
                                 "include /srv/shared\n"
                                 "  exclude\t/opt/x  \n"
                                 "include /etc/hosts\n"
                                 "drop-noise on\n"
                                 "unit app.service\n"
                                 "no-unit nginx*.service\n"
                                 "reboot firmware changes",
                                 &empty);

    ck_assert_str_eq(pub_policy_excludes(p, "/srv/a/b"), "the customer's data");
    ck_assert_ptr_null(pub_policy_excludes(p, "/srv/shared/deep/er"));
    ck_assert_str_eq(pub_policy_excludes(p, "/opt/x/y/z"), "policy");
    ck_assert_ptr_null(pub_policy_excludes(p, "/etc/hosts"));
    ck_assert(p->drop_noise);
    ck_assert_uint_eq(p->n_units, 1);
    ck_assert_str_eq(p->units[0], "app.service");
    ck_assert(!pub_policy_restarts(p, "nginx.service"));
    ck_assert(!pub_policy_restarts(p, "dbus.service"));
    ck_assert(pub_policy_restarts(p, "ssh.service"));
    ck_assert_str_eq(p->reboot, "firmware changes");
    pub_policy_free(p);
}
END_TEST

START_TEST(what_must_stay_out_cannot_be_included)
{
    struct pub_policy *p = parse("include /var/lib/dpkg/status\n"
                                 "include /var/lib/blksub\ninclude /proc\n",
                                 &empty);

    ck_assert_ptr_nonnull(pub_policy_excludes(p, "/var/lib/dpkg/status"));
    ck_assert_ptr_nonnull(pub_policy_excludes(p, "/var/lib/blksub/x"));
    ck_assert_ptr_nonnull(pub_policy_excludes(p, "/proc/1"));
    pub_policy_free(p);
}
END_TEST

START_TEST(mistakes_are_named_with_their_line)
{
    static const struct {
        const char *text, *words;
    } t[] = {
        { "\nexclud /x\n", "p:2: unknown word \"exclud\"" },
        { "exclude\n", "p:1: \"exclude\" needs an argument" },
        { "include /a b\n", "p:1: what is \"b\" after \"include /a\"?" },
        { "drop-noise maybe\n", "p:1: drop-noise is on or off" },
        { "# ok\n\nexclude /x \xff\n", "p:3: not UTF-8 text" },
    };
    struct pub_policy *p;
    struct bs_err err;
    char big[700];
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        ck_assert_int_eq(pub_policy_parse(t[i].text, strlen(t[i].text), "p",
                                          &empty, &p, &err),
                         -EBADMSG);
        ck_assert_str_eq(err.text, t[i].words);
    }
    memset(big, 'x', sizeof(big));
    memcpy(big, "exclude /", 9);
    ck_assert_int_eq(
        pub_policy_parse(big, sizeof(big), "p", &empty, &p, &err), -EBADMSG);
    ck_assert_int_eq(pub_policy_parse("a\0b", 3, "p", &empty, &p, &err),
                     -EBADMSG);
    ck_assert_int_eq(pub_policy_load("/nonexistent", &empty, &p, &err),
                     -ENOENT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("policy");
    TCase *tc = tcase_create("policy");

    tcase_add_test(tc, globs_match_as_documented);
    tcase_add_test(tc, a_glob_of_many_stars_is_not_slow);
    tcase_add_test(tc, the_built_in_rules_leave_out_what_is_a_machines_own);
    tcase_add_test(tc, generated_files_are_shipped_where_nothing_generates_them);
    tcase_add_test(tc, a_file_adds_rules_and_the_last_one_that_matches_decides);
    tcase_add_test(tc, what_must_stay_out_cannot_be_included);
    tcase_add_test(tc, mistakes_are_named_with_their_line);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
