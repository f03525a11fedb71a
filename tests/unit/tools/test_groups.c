// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair.h"
#include "publish/hooks.h"

/* A package of image dir ("a" or "b"): a stanza, a list and a file that holds
 * the version, so that it changes with it. */
static void package(const char *dir, const char *name, const char *version,
                    const char *fields, const char *paths)
{
    char path[256], text[2048];

    snprintf(text, sizeof(text),
             "mkdir -p %s/var/lib/dpkg/info; printf 'Package: %s\\n"
             "Status: install ok installed\\nArchitecture: all\\nVersion: %s\\n"
             "%s\\n' >>%s/var/lib/dpkg/status", dir, name, version, fields, dir);
    sh("%s", text);
    snprintf(path, sizeof(path), "%s/usr/lib/%s/v", dir, name);
    puts_to(path, version);
    snprintf(text, sizeof(text), "/.\n/usr\n/usr/lib\n/usr/lib/%s\n"
             "/usr/lib/%s/v\n%s", name, name, paths);
    snprintf(path, sizeof(path), "%s/var/lib/dpkg/info/%s.list", dir, name);
    puts_to(path, text);
}

static void clean(void)
{
    sh("rm -rf a b; mkdir a b");
}

static uint32_t group_of(const struct pair *p, const char *path)
{
    const struct pub_change *x = change(p, path);

    ck_assert_msg(x && !x->why_not, "%s is not shipped", path);
    ck_assert_uint_lt(x->group, p->g.n);
    return x->group;
}

static const char *name_of(const struct pair *p, const char *path)
{
    return p->g.v[group_of(p, path)].name;
}

static bool requires(const struct pair *p, const char *a, const char *b)
{
    const struct bstore_group *g = &p->g.v[group_of(p, a)];
    uint32_t i, want = group_of(p, b);

    for (i = 0; i < g->n_requires; i++)
        if (g->requires[i] == want)
            return true;
    return false;
}

#define V(name) "/usr/lib/" name "/v"

static void run(struct pair *p)
{
    compare_folders(p, "");
    group_changes(p);
}

START_TEST(a_package_is_a_group_with_its_versions)
{
    struct pair p;
    const struct bstore_group *g;

    clean();
    package("a", "one", "1", "", "");
    package("b", "one", "2", "", "");
    package("a", "gone", "1", "", "");
    package("b", "new", "1", "", "");
    package("a", "same", "1", "", "");
    package("b", "same", "1", "", "");
    run(&p);
    ck_assert_uint_eq(p.g.n, 3);
    g = &p.g.v[group_of(&p, V("one"))];
    ck_assert_str_eq(g->name, "one");
    ck_assert_uint_eq(g->n_packages, 1);
    ck_assert_str_eq(g->packages[0].old_version, "1");
    ck_assert_str_eq(g->packages[0].new_version, "2");
    g = &p.g.v[group_of(&p, V("gone"))];
    ck_assert_str_eq(g->packages[0].old_version, "1");
    ck_assert_ptr_null(g->packages[0].new_version);
    ck_assert_ptr_null(p.g.v[group_of(&p, V("new"))].packages[0].old_version);
    ck_assert_uint_eq(p.g.n_stanzas, 3);
    /* Its folder, its list and its file go with it. */
    ck_assert_str_eq(name_of(&p, "/usr/lib/new"), "new");
    ck_assert_str_eq(name_of(&p, "/var/lib/dpkg/info/new.list"), "new");
    pair_fini(&p);
}
END_TEST

START_TEST(stanzas_carry_both_texts)
{
    struct pair p;
    uint32_t i;

    clean();
    package("a", "one", "1", "", "");
    package("b", "one", "2", "", "");
    package("b", "new", "1", "", "");
    run(&p);
    ck_assert_uint_eq(p.g.n_stanzas, 2);
    for (i = 0; i < 2; i++) {
        const struct bstore_stanza *s = &p.g.stanzas[i];

        ck_assert_str_eq(s->file, "/var/lib/dpkg/status");
        ck_assert_str_eq(s->arch, "all");
        if (strcmp(s->package, "new") == 0) {
            ck_assert_ptr_null(s->old_text);
            ck_assert_uint_eq(s->group, group_of(&p, V("new")));
        } else {
            ck_assert_str_eq(s->old_text,
                             "Package: one\nStatus: install ok installed\n"
                             "Architecture: all\nVersion: 1\n");
        }
    }
    pair_fini(&p);
}
END_TEST

START_TEST(apts_marks_are_stanzas_too)
{
    struct pair p;
    uint32_t i, n = 0;

    clean();
    package("a", "one", "1", "", "");
    package("b", "one", "2", "", "");
    puts_to("a/var/lib/apt/extended_states", "");
    puts_to("b/var/lib/apt/extended_states",
            "Package: one\nArchitecture: amd64\nAuto-Installed: 1\n\n");
    run(&p);
    for (i = 0; i < p.g.n_stanzas; i++)
        if (strcmp(p.g.stanzas[i].file, "/var/lib/apt/extended_states") == 0) {
            n++;
            ck_assert_uint_eq(p.g.stanzas[i].group, group_of(&p, V("one")));
            ck_assert_str_eq(p.g.stanzas[i].new_text,
                             "Package: one\nArchitecture: amd64\n"
                             "Auto-Installed: 1\n");
        }
    ck_assert_uint_eq(n, 1);
    pair_fini(&p);
}
END_TEST

START_TEST(an_exact_version_binds)
{
    struct pair p;

    clean();
    package("a", "lib", "1", "Source: src\n", "");
    package("b", "lib", "2", "Source: src\n", "");
    package("a", "tool", "1", "Source: src\nDepends: lib (= 1)\n", "");
    package("b", "tool", "2", "Source: src\nDepends: lib (= 2)\n", "");
    package("a", "other", "1", "Depends: lib (>= 1)\n", "");
    package("b", "other", "2", "Depends: lib (>= 1)\n", "");
    run(&p);
    ck_assert_uint_eq(group_of(&p, V("lib")), group_of(&p, V("tool")));
    ck_assert_str_eq(name_of(&p, V("lib")), "src");
    ck_assert_uint_ne(group_of(&p, V("lib")), group_of(&p, V("other")));
    ck_assert_uint_eq(p.g.v[group_of(&p, V("other"))].n_requires, 0);
    pair_fini(&p);
}
END_TEST

START_TEST(a_new_need_requires_and_a_met_one_does_not)
{
    struct pair p;

    clean();
    package("a", "lib", "1", "", "");
    package("b", "lib", "2", "", "");
    package("a", "app", "1", "Depends: lib\n", "");
    package("b", "app", "2", "Depends: lib (>= 2), extra\n", "");
    package("b", "extra", "1", "", "");
    package("a", "calm", "1", "Depends: lib (>= 1) | extra\n", "");
    package("b", "calm", "2", "Pre-Depends: lib (>= 1) | extra\n", "");
    run(&p);
    ck_assert(requires(&p, V("app"), V("lib")));
    ck_assert(requires(&p, V("app"), V("extra")));
    ck_assert(!requires(&p, V("lib"), V("app")));
    ck_assert_uint_eq(p.g.v[group_of(&p, V("calm"))].n_requires, 0);
    pair_fini(&p);
}
END_TEST

START_TEST(what_is_taken_away_requires_that_nobody_needs_it)
{
    struct pair p;

    clean();
    package("a", "old-lib", "1", "", "");
    package("b", "new-lib", "1", "", "");
    package("a", "app", "1", "Depends: old-lib\n", "");
    package("b", "app", "2", "Depends: new-lib\n", "");
    run(&p);
    ck_assert(requires(&p, V("old-lib"), V("app")));
    ck_assert(requires(&p, V("app"), V("new-lib")));
    ck_assert(!requires(&p, V("app"), V("old-lib")));
    pair_fini(&p);
}
END_TEST

START_TEST(breaks_and_provisions_count)
{
    struct pair p;

    clean();
    package("a", "lib", "1", "", "");
    package("b", "lib", "2", "Breaks: app (<< 2)\nProvides: api-2\n", "");
    package("a", "app", "1", "", "");
    package("b", "app", "2", "", "");
    package("a", "user", "1", "", "");
    package("b", "user", "2", "Depends: api-2\n", "");
    run(&p);
    ck_assert(requires(&p, V("lib"), V("app")));
    ck_assert(!requires(&p, V("app"), V("lib")));
    ck_assert(requires(&p, V("user"), V("lib")));
    pair_fini(&p);
}
END_TEST

START_TEST(groups_that_require_each_other_are_one)
{
    struct pair p;

    clean();
    package("a", "x", "1", "", "");
    package("b", "x", "2", "Depends: y (>= 2)\n", "");
    package("a", "y", "1", "", "");
    package("b", "y", "2", "Depends: z (>= 2)\n", "");
    package("a", "z", "1", "", "");
    package("b", "z", "2", "Depends: x (>= 2)\n", "");
    run(&p);
    ck_assert_uint_eq(group_of(&p, V("x")), group_of(&p, V("y")));
    ck_assert_uint_eq(group_of(&p, V("x")), group_of(&p, V("z")));
    ck_assert_str_eq(name_of(&p, V("x")), "x");
    ck_assert_uint_eq(p.g.v[group_of(&p, V("x"))].n_requires, 0);
    pair_fini(&p);
}
END_TEST

START_TEST(a_file_that_changes_hands_binds)
{
    struct pair p;

    clean();
    package("a", "x", "1", "", "/usr/bin/tool\n");
    package("b", "x", "2", "", "");
    package("a", "y", "1", "", "");
    package("b", "y", "2", "", "/usr/bin/tool\n");
    puts_to("a/usr/bin/tool", "1");
    puts_to("b/usr/bin/tool", "2");
    run(&p);
    ck_assert_uint_eq(group_of(&p, V("x")), group_of(&p, V("y")));
    ck_assert_uint_eq(group_of(&p, V("x")), group_of(&p, "/usr/bin/tool"));
    pair_fini(&p);
}
END_TEST

START_TEST(hard_links_across_packages_bind)
{
    struct pair p;

    clean();
    package("a", "x", "1", "", "");
    package("b", "x", "2", "", "/usr/bin/p\n");
    package("a", "y", "1", "", "");
    package("b", "y", "2", "", "/usr/bin/q\n");
    sh("mkdir b/usr/bin; echo x >b/usr/bin/p; ln b/usr/bin/p b/usr/bin/q");
    run(&p);
    ck_assert_uint_eq(group_of(&p, V("x")), group_of(&p, V("y")));
    pair_fini(&p);
}
END_TEST

START_TEST(a_folder_that_several_need_stands_for_itself)
{
    struct pair p;

    clean();
    package("a", "x", "1", "", "");
    package("b", "x", "2", "", "/usr/share/new\n/usr/share/new/x\n");
    package("a", "y", "1", "", "");
    package("b", "y", "2", "", "/usr/share/new\n/usr/share/new/y\n");
    puts_to("b/usr/share/new/x", "x");
    puts_to("b/usr/share/new/y", "y");
    run(&p);
    ck_assert_uint_ne(group_of(&p, V("x")), group_of(&p, V("y")));
    ck_assert_str_eq(name_of(&p, "/usr/share/new"), "directory:/usr/share/new");
    ck_assert(requires(&p, "/usr/share/new/x", "/usr/share/new"));
    ck_assert(requires(&p, "/usr/share/new/y", "/usr/share/new"));
    ck_assert(!requires(&p, "/usr/share/new", "/usr/share/new/x"));
    pair_fini(&p);
}
END_TEST

START_TEST(a_folder_vanishes_after_what_is_in_it)
{
    struct pair p;

    clean();
    package("a", "x", "1", "", "/usr/share/old\n/usr/share/old/x\n");
    package("b", "x", "2", "", "");
    package("a", "y", "1", "", "/usr/share/old\n/usr/share/old/y\n");
    package("b", "y", "2", "", "");
    puts_to("a/usr/share/old/x", "x");
    puts_to("a/usr/share/old/y", "y");
    sh("mkdir -p b/usr/share");
    run(&p);
    ck_assert_uint_ne(group_of(&p, V("x")), group_of(&p, V("y")));
    ck_assert(requires(&p, "/usr/share/old", "/usr/share/old/x"));
    ck_assert(requires(&p, "/usr/share/old", "/usr/share/old/y"));
    ck_assert(!requires(&p, "/usr/share/old/x", "/usr/share/old"));
    pair_fini(&p);
}
END_TEST

START_TEST(nobodys_paths_find_a_place)
{
    static const struct {
        const char *path, *group;
    } t[] = {
        { "/opt/tree/a/b", "unowned:/opt" },
        { "/opt/tree", "unowned:/opt" },
        { "/srv/f", "unowned:/srv" },
        { "/etc/one.conf", "one" },
        { "/etc/alternatives/one", "one" },
        { "/usr/lib/one/cache/index", "one" },
        { "/usr/lib/one/__pycache__/m.cpython-311.pyc", "one" },
        { "/var/lib/dpkg/info/one.postinst", "one" },
        { "/var/lib/dpkg/triggers/File", "unowned:/var/lib/dpkg" },
        { "/boot/vmlinuz-2", "kernel" },
        { "/vmlinuz", "kernel" },
        { "/boot/initrd.img", "kernel" },
    };
    struct pair p;
    size_t i;

    clean();
    sh("mkdir -p a/opt a/srv a/etc a/boot; echo 1 >a/srv/f; cp -a a/. b");
    package("a", "one", "1", "", "");
    package("b", "one", "2", "", "");
    package("b", "kernel", "2", "", "/boot/vmlinuz-2\n");
    puts_to("b/opt/tree/a/b", "x");
    puts_to("b/srv/f", "2");
    puts_to("b/etc/one.conf", "x");
    puts_to("b/usr/lib/one/cache/index", "x");
    puts_to("b/usr/lib/one/__pycache__/m.cpython-311.pyc", "x");
    puts_to("b/var/lib/dpkg/info/one.postinst", "x");
    puts_to("b/var/lib/dpkg/triggers/File", "x");
    puts_to("b/boot/vmlinuz-2", "x");
    sh("mkdir -p b/etc/alternatives; ln -s ../../usr/lib/one/v "
       "b/etc/alternatives/one; ln -s boot/vmlinuz-2 b/vmlinuz;"
       "ln -s initrd.img-2 b/boot/initrd.img");
    run(&p);
    for (i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        ck_assert_msg(strcmp(name_of(&p, t[i].path), t[i].group) == 0,
                      "%s is in %s", t[i].path, name_of(&p, t[i].path));
    pair_fini(&p);
}
END_TEST

START_TEST(every_shipped_path_has_a_group)
{
    struct pair p;
    size_t i;

    clean();
    package("a", "x", "1", "", "");
    package("b", "x", "2", "", "");
    sh("mkdir -p b/empty/dirs/deep a/gone/too; mkfifo b/fifo; rm -rf a/x");
    run(&p);
    for (i = 0; i < p.c.n; i++)
        if (!p.c.v[i].why_not)
            ck_assert_msg(p.c.v[i].group < p.g.n, "%s", p.c.v[i].path);
    pair_fini(&p);
}
END_TEST

static struct bstore_manifest *hooks_of(struct pair *p)
{
    struct bstore_manifest *m = calloc(1, sizeof(*m));
    struct bs_err err = { 0 };

    m->n_groups = p->g.n;
    ck_assert_msg(pub_hooks_make(&p->c, p->policy, p->dbs[1], p->g.of_package,
                                 m, &err) == 0,
                  "%s", err.text);
    return m;
}

static void hooks_free(struct bstore_manifest *m)
{
    m->n_groups = 0;
    bstore_manifest_free(m);
}

static bool has_hook(const struct bstore_manifest *m, const char *name,
                     uint32_t group)
{
    uint32_t i;

    for (i = 0; i < m->n_hooks; i++)
        if (strcmp(m->hooks[i].name, name) == 0 && m->hooks[i].group == group)
            return true;
    return false;
}

static void unit(const char *dir, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/usr/lib/systemd/system/%s", dir, name);
    puts_to(path, text);
}

START_TEST(hooks_and_units_follow_from_the_paths)
{
    struct bstore_manifest *m;
    uint32_t lib, app, i;
    struct pair p;

    clean();
    sh("for d in a b; do mkdir -p $d/usr/sbin $d/usr/bin $d/etc;"
       "touch $d/usr/sbin/ldconfig $d/usr/bin/systemctl "
       "$d/usr/sbin/update-initramfs $d/usr/sbin/update-ca-certificates; done");
    package("a", "lib", "1", "", "/opt/l/libx.so.1\n");
    package("b", "lib", "2", "", "/opt/l/libx.so.1\n");
    puts_to("b/etc/ld.so.conf.d/x.conf", "# none\n/opt/l\n");
    puts_to("a/opt/l/libx.so.1", "1");
    puts_to("b/opt/l/libx.so.1", "2");
    package("a", "app", "1", "",
            "/usr/lib/systemd/system/app.service\n"
            "/usr/lib/systemd/system/app-once.service\n"
            "/usr/lib/systemd/system/app@.service\n"
            "/usr/lib/systemd/system/app-no.service\n"
            "/usr/lib/systemd/system/getty-static.service\n");
    package("b", "app", "2", "",
            "/usr/lib/systemd/system/app.service\n"
            "/usr/lib/systemd/system/app-once.service\n"
            "/usr/lib/systemd/system/app@.service\n"
            "/usr/lib/systemd/system/app-no.service\n"
            "/usr/lib/systemd/system/getty-static.service\n");
    unit("a", "app.service", "[Service]\nExecStart=/x\n");
    unit("b", "app.service", "[Service]\nExecStart=/x\n");
    unit("a", "app@.service", "[Service]\nExecStart=/x\n");
    unit("b", "app@.service", "[Service]\nExecStart=/y\n");
    unit("b", "app-once.service", "[Service]\n Type = oneshot \n");
    unit("b", "app-no.service", "[Unit]\nRefuseManualStop=yes\n[Service]\n");
    unit("b", "getty-static.service", "[Service]\nExecStart=/x\n");
    package("a", "doc", "1", "", "/usr/lib/systemd/system/doc.service\n");
    package("b", "doc", "1", "X: y\n", "/usr/lib/systemd/system/doc.service\n");
    unit("a", "doc.service", "[Service]\nExecStart=/x\n");
    unit("b", "doc.service", "[Service]\nExecStart=/x\n");
    package("b", "ca", "1", "", "/usr/share/ca-certificates/x.crt\n");
    puts_to("b/usr/share/ca-certificates/x.crt", "x");
    package("b", "udev", "1", "", "");
    puts_to("b/var/lib/dpkg/info/udev.triggers", "activate update-initramfs\n");
    package("b", "linux-image-7", "1", "", "/boot/vmlinuz-7\n"
            "/usr/lib/modules/7/a.ko\n");
    puts_to("b/boot/vmlinuz-7", "k");
    puts_to("b/usr/lib/modules/7/a.ko", "m");
    run(&p);
    m = hooks_of(&p);
    lib = group_of(&p, V("lib"));
    ck_assert(has_hook(m, "initramfs:7", group_of(&p, V("linux-image-7"))));
    ck_assert(!has_hook(m, "initramfs", group_of(&p, V("linux-image-7"))));
    app = group_of(&p, V("app"));
    ck_assert(has_hook(m, "ldconfig", lib));
    ck_assert(!has_hook(m, "ldconfig", app));
    ck_assert(has_hook(m, "daemon-reload", app));
    ck_assert(has_hook(m, "initramfs", group_of(&p, V("udev"))));
    ck_assert(has_hook(m, "ca-certificates", group_of(&p, V("ca"))));
    ck_assert(m->reboot); /* for the kernel */
    for (i = 0; i < m->n_units; i++)
        ck_assert_str_eq(m->units[i].name, "app.service");
    ck_assert_uint_eq(m->n_units, 1);
    ck_assert_uint_eq(m->units[0].group, app);
    hooks_free(m);
    pair_fini(&p);
}
END_TEST

START_TEST(kernel_libc_and_init_want_a_reboot)
{
    static const char *const paths[] = {
        "/boot/vmlinuz-6.1", "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/lib/systemd/systemd",
    };
    struct bstore_manifest *m;
    char path[256];
    struct pair p;
    size_t i;

    for (i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        clean();
        snprintf(path, sizeof(path), "a%s", paths[i]);
        puts_to(path, "1");
        path[0] = 'b';
        puts_to(path, "2");
        run(&p);
        m = hooks_of(&p);
        ck_assert(m->reboot);
        ck_assert_ptr_nonnull(m->reboot_reason);
        hooks_free(m);
        pair_fini(&p);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("groups");
    TCase *tc = tcase_create("groups");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_package_is_a_group_with_its_versions);
    tcase_add_test(tc, stanzas_carry_both_texts);
    tcase_add_test(tc, apts_marks_are_stanzas_too);
    tcase_add_test(tc, an_exact_version_binds);
    tcase_add_test(tc, a_new_need_requires_and_a_met_one_does_not);
    tcase_add_test(tc, what_is_taken_away_requires_that_nobody_needs_it);
    tcase_add_test(tc, breaks_and_provisions_count);
    tcase_add_test(tc, groups_that_require_each_other_are_one);
    tcase_add_test(tc, a_file_that_changes_hands_binds);
    tcase_add_test(tc, hard_links_across_packages_bind);
    tcase_add_test(tc, a_folder_that_several_need_stands_for_itself);
    tcase_add_test(tc, a_folder_vanishes_after_what_is_in_it);
    tcase_add_test(tc, nobodys_paths_find_a_place);
    tcase_add_test(tc, every_shipped_path_has_a_group);
    tcase_add_test(tc, hooks_and_units_follow_from_the_paths);
    tcase_add_test(tc, kernel_libc_and_init_want_a_reboot);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
