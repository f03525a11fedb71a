// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "bs/bytes.h"
#include "publish/dpkg.h"
#include "mkimage.h"

START_TEST(versions_sort_as_deb_version_says)
{
    static const struct {
        const char *a, *b;
        int order;
    } t[] = {
        { "1.0", "1.0", 0 },          { "1.0", "1.1", -1 },
        { "1.9", "1.10", -1 },        { "1.0~rc1", "1.0", -1 },
        { "1.0~~", "1.0~", -1 },      { "1.0~~a", "1.0~", -1 },
        { "1.0", "1.0-1", -1 },       { "1.0-0", "1.0", 0 },
        { "1:0.1", "2.0", 1 },        { "0:1", "1", 0 },
        { "1.0a", "1.0", 1 },         { "1.0a", "1.0+", -1 },
        { "1.0+b1", "1.0", 1 },       { "007", "7", 0 },
        { "1.2-3-4", "1.2-3-5", -1 }, { "2.36-9+deb12u3", "2.36-9+deb12u10", -1 },
        { "3.0.20-1~deb12u2", "3.0.22-1~deb12u2", -1 },
        { "1.0-1", "1.0-1+b1", -1 },  { "", "0", 0 },
        { "a", "1", 1 },              { "1.", "1.0", 0 },
    };
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        int c = pub_version_cmp(t[i].a, t[i].b);
        int d = pub_version_cmp(t[i].b, t[i].a);

        ck_assert_msg((c > 0) - (c < 0) == t[i].order, "%s against %s: %d",
                      t[i].a, t[i].b, c);
        ck_assert_int_eq((d > 0) - (d < 0), -t[i].order);
    }
}
END_TEST

START_TEST(versions_sort_as_dpkg_itself_does)
{
    static const char *const v[] = {
        "1", "1.0", "1:1", "1~", "1~a", "1a", "1+a", "1-1", "1-1~", "01", "1.a",
        "1.1.1", "1.01", "9", "10", "1:0~1", "1--1", "1.0-a~1", "z", "0z1",
    };
    size_t i, k;
    int c;

    if (access("/usr/bin/dpkg", X_OK) != 0)
        return;
    for (i = 0; i < N_ELEMS(v); i++)
        for (k = 0; k < i; k++) {
            c = pub_version_cmp(v[i], v[k]);
            /* "z" and the like draw a warning, not another answer. */
            sh("dpkg --compare-versions '%s' %s '%s'", v[i],
               c < 0 ? "lt-nl" : c > 0 ? "gt-nl" : "eq", v[k]);
        }
}
END_TEST

START_TEST(relations_are_read)
{
    static const char field[] = "libc6 (>= 2.36), a | b (<< 1:2) ,\n"
                                " c:any (= 3) [amd64], d <!x>, (bad), e( >>4 )";
    static const struct {
        const char *name, *version;
        enum pub_rel_op op;
        unsigned clause;
    } t[] = {
        { "libc6", "2.36", PUB_GE, 0 }, { "a", "", PUB_ANY, 1 },
        { "b", "1:2", PUB_LT, 1 },      { "c", "3", PUB_EQ, 2 },
        { "d", "", PUB_ANY, 3 },        { "e", "4", PUB_GT, 5 },
    };
    struct pub_rels rels;
    size_t i;

    ck_assert_int_eq(pub_rels_parse(field, &rels), 0);
    ck_assert_uint_eq(rels.n, N_ELEMS(t));
    for (i = 0; i < rels.n; i++) {
        ck_assert_str_eq(rels.v[i].name, t[i].name);
        ck_assert_str_eq(rels.v[i].version, t[i].version);
        ck_assert_int_eq(rels.v[i].op, t[i].op);
        ck_assert_uint_eq(rels.v[i].clause, t[i].clause);
    }
    ck_assert(pub_rel_holds(&rels.v[0], "2.36"));
    ck_assert(!pub_rel_holds(&rels.v[2], "1:2"));
    ck_assert(pub_rel_holds(&rels.v[1], ""));
    ck_assert(!pub_rel_holds(&rels.v[5], "4"));
    pub_rels_fini(&rels);
    ck_assert_int_eq(pub_rels_parse(NULL, &rels), 0);
    ck_assert_uint_eq(rels.n, 0);
}
END_TEST

START_TEST(paragraphs_are_sorted_and_keep_their_text)
{
    static const char text[] = "\n\nPackage: b\nArchitecture: all\nX: 1\n\n\n"
                               "Package: a\nArchitecture: amd64\n"
                               "Description: s\n long\n .\n end";
    struct pub_paras p;
    struct bs_err err;
    char *s;

    ck_assert_int_eq(pub_paras_parse(text, strlen(text), "t", &p, &err), 0);
    ck_assert_uint_eq(p.n, 2);
    ck_assert_str_eq(p.v[0].package, "a");
    ck_assert_str_eq(p.v[0].text, "Package: a\nArchitecture: amd64\n"
                                  "Description: s\n long\n .\n end\n");
    ck_assert_str_eq(p.v[1].text, "Package: b\nArchitecture: all\nX: 1\n");
    s = pub_field(p.v[0].text, "description");
    ck_assert_str_eq(s, "s\n long\n .\n end");
    free(s);
    ck_assert_ptr_null(pub_field(p.v[0].text, "long"));
    ck_assert_ptr_null(pub_field(p.v[0].text, "Desc"));
    pub_paras_fini(&p);
}
END_TEST

START_TEST(damaged_databases_are_refused)
{
    static const char *const bad[] = {
        "Package: a\n\nNothing: here\n",
        "Package: a\nArchitecture: x\n\nPackage: a\nArchitecture: x\n",
        "Package: a/b\n", "Package:\n", "Package: \xff\n",
    };
    struct pub_paras p;
    struct bs_err err;
    size_t i;

    for (i = 0; i < N_ELEMS(bad); i++) {
        ck_assert_int_eq(pub_paras_parse(bad[i], strlen(bad[i]), "t", &p, &err),
                         -EBADMSG);
        ck_assert_ptr_null(p.v);
    }
    ck_assert_int_eq(pub_paras_parse("Package: a\0\n", 12, "t", &p, &err),
                     -EBADMSG);
}
END_TEST

static struct pub_dpkg *load(struct pub_tree **t)
{
    struct pub_dpkg *db;
    struct bs_err err = { 0 };
    int fd = open_img("img");

    ck_assert_msg(pub_tree_open_image(fd, "image", t, &err) == 0, "%s",
                  err.text);
    ck_assert_msg(pub_dpkg_load(*t, &db, &err) == 0, "%s", err.text);
    return db;
}

static void expect_owner(const struct pub_dpkg *db, const char *path,
                         const char *names)
{
    char got[256] = "";
    size_t n, first = pub_dpkg_owners(db, path, &n), i;

    for (i = 0; i < n; i++) {
        strcat(got, i ? " " : "");
        strcat(got, db->packages[db->owners[first + i].package].para->package);
    }
    ck_assert_msg(strcmp(got, names) == 0, "%s is owned by \"%s\"", path, got);
}

START_TEST(owners_are_found_through_links_and_diversions)
{
    struct pub_dpkg *db;
    struct pub_tree *t;
    size_t at;

    sh("rm -rf r; mkdir -p r/usr/lib r/usr/bin; ln -s usr/lib r/lib;"
       "ln -s usr/bin r/bin; ln -s /usr/lib r/usr/lib64");
    puts_to("r/var/lib/dpkg/status",
            "Package: liba\nStatus: install ok installed\nArchitecture: amd64\n"
            "Multi-Arch: same\nVersion: 1\nSource: src-a (0.9)\n"
            "Provides: virt, virt2 (= 5)\n"
            "Conffiles:\n /etc/a.conf 0123 obsolete\n /lib/a.rc 0123\n\n"
            "Package: b\nStatus: install ok installed\nArchitecture: all\n"
            "Version: 2\n\n"
            "Package: gone\nStatus: deinstall ok config-files\n"
            "Architecture: all\nVersion: 3\n");
    puts_to("r/var/lib/dpkg/info/liba:amd64.list",
            "/.\n/lib\n/lib/liba.so\n/usr/lib64/deep/x\n/usr/share/doc\n"
            "/bin/tool\n");
    puts_to("r/var/lib/dpkg/info/b.list", "/.\n/usr/share/doc\n/bin/tool\n");
    puts_to("r/var/lib/dpkg/info/gone.list", "/etc/gone\n");
    puts_to("r/var/lib/dpkg/diversions",
            "/usr/bin/tool\n/usr/bin/tool.orig\nb\n");
    mkfs("r", "img", "-t ext4", "4M");
    db = load(&t);
    ck_assert_uint_eq(db->n_packages, 3);
    expect_owner(db, "/usr/lib/liba.so", "liba");
    expect_owner(db, "/lib/liba.so", "");
    expect_owner(db, "/lib", "liba"); /* the link itself is listed */
    expect_owner(db, "/usr/lib/deep/x", "liba");
    expect_owner(db, "/usr/share/doc", "b liba");
    expect_owner(db, "/etc/gone", "");
    at = pub_dpkg_find(db, "liba", "amd64");
    ck_assert_uint_ne(at, PUB_NONE);
    ck_assert_str_eq(db->packages[at].source, "src-a");
    ck_assert(db->packages[at].installed);
    ck_assert(!db->packages[pub_dpkg_find(db, "gone", "all")].installed);
    ck_assert_uint_eq(pub_dpkg_find(db, "liba", "i386"), PUB_NONE);
    ck_assert(pub_dpkg_is_conffile(db, "/etc/a.conf"));
    ck_assert(pub_dpkg_is_conffile(db, "/usr/lib/a.rc"));
    ck_assert(!pub_dpkg_is_conffile(db, "/etc/b.conf"));
    pub_dpkg_free(db);
    pub_tree_close(t);
}
END_TEST

static bool yes(void *opaque, size_t package)
{
    (void)opaque;
    (void)package;
    return true;
}

START_TEST(provisions_satisfy_as_dpkg_sees_it)
{
    static const struct {
        const char *rel;
        bool holds;
    } want[] = {
        { "liba", true },          { "liba (= 1)", true },
        { "liba (>> 1)", false },  { "virt", true },
        { "virt (>= 0)", false },  { "virt2 (= 5)", true },
        { "virt2 (= 6)", false },  { "none", false },
    };
    struct pub_rels rels;
    struct pub_dpkg *db;
    struct pub_tree *t;
    size_t i;

    sh("rm -rf r");
    puts_to("r/var/lib/dpkg/status",
            "Package: liba\nStatus: install ok installed\nArchitecture: amd64\n"
            "Version: 1\nProvides: virt, virt2 (= 5)\n\n"
            "Package: none\nStatus: deinstall ok config-files\nVersion: 1\n"
            "Architecture: all\n");
    mkfs("r", "img", "-t ext4", "4M");
    db = load(&t);
    for (i = 0; i < N_ELEMS(want); i++) {
        ck_assert_int_eq(pub_rels_parse(want[i].rel, &rels), 0);
        ck_assert_msg(pub_dpkg_satisfying(db, &rels.v[0], yes, NULL) ==
                          want[i].holds,
                      "%s", want[i].rel);
        pub_rels_fini(&rels);
    }
    pub_dpkg_free(db);
    pub_tree_close(t);
}
END_TEST

START_TEST(an_image_without_dpkg_has_an_empty_database)
{
    struct pub_dpkg *db;
    struct pub_tree *t;

    sh("rm -rf r; mkdir r");
    mkfs("r", "img", "-t ext4", "4M");
    db = load(&t);
    ck_assert_uint_eq(db->n_packages, 0);
    pub_dpkg_free(db);
    pub_tree_close(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dpkg");
    TCase *tc = tcase_create("dpkg");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, versions_sort_as_deb_version_says);
    tcase_add_test(tc, versions_sort_as_dpkg_itself_does);
    tcase_add_test(tc, relations_are_read);
    tcase_add_test(tc, paragraphs_are_sorted_and_keep_their_text);
    tcase_add_test(tc, damaged_databases_are_refused);
    tcase_add_test(tc, owners_are_found_through_links_and_diversions);
    tcase_add_test(tc, provisions_satisfy_as_dpkg_sees_it);
    tcase_add_test(tc, an_image_without_dpkg_has_an_empty_database);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
