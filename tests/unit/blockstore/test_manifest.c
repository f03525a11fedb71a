// SPDX-License-Identifier: GPL-2.0-or-later
#include "bstore-manifest.h"
#include "unit/blockstore/support.h"

static struct bstore_manifest *m;
static char *json;
static size_t json_len;

static void setup(void)
{
    make_dir();
}

static void setup_each(void)
{
    m = sample_manifest();
    OK(bstore_manifest_encode(m, &json, &json_len, &err));
}

static void teardown_each(void)
{
    bstore_manifest_free(m);
    free(json);
}

static int decode(const char *s, size_t len)
{
    struct bstore_manifest *got = NULL;
    char *exact = malloc(len + 1); /* so that ASan sees a read behind it */
    int r;

    memcpy(exact, s, len);
    r = bstore_manifest_decode(exact, len, &got, &err);
    bstore_manifest_free(got);
    free(exact);
    return r;
}

/* json with the first `old` replaced; "^" before old: the last one. */
static char *edited(const char *old, const char *by)
{
    char *at = NULL, *next, *out;
    bool last = old[0] == '^';
    const char *find = old + last;

    for (next = strstr(json, find); next; next = strstr(next + 1, find)) {
        at = next;
        if (!last)
            break;
    }
    ck_assert_msg(at != NULL, "the JSON holds no %s", find);
    ck_assert_int_ge(asprintf(&out, "%.*s%s%s", (int)(at - json), json, by,
                              at + strlen(find)), 0);
    return out;
}

START_TEST(the_sample_has_this_json)
{
    /* Digests are checked elsewhere; here they stand as X. */
    static const char golden[] =
        "{\"format\":\"blksub-patch\",\"version\":1,\"requires_features\":[],"
        "\"name\":\"sample 1\",\"serial\":7,\"created\":1763424000,"
        "\"from\":{\"image\":\"X\",\"bytes\":65536},"
        "\"to\":{\"image\":\"X\",\"bytes\":65536},"
        "\"pool\":{\"blocks\":4,\"clusters\":2,\"index\":\"X\"},"
        "\"reboot\":\"the kernel changed\","
        "\"groups\":[{\"name\":\"a\",\"packages\":[{\"name\":\"a\",\"arch\":"
        "\"amd64\",\"old\":\"1.0\",\"new\":\"1.1\"}],\"requires\":[]},"
        "{\"name\":\"b\",\"packages\":[{\"name\":\"b\",\"arch\":\"all\","
        "\"new\":\"2~rc1\"}],\"requires\":[0]}],"
        "\"ops\":[{\"path\":{\"b64\":\"L2Rldi9vZGT/\"},\"group\":0,"
        "\"old\":{\"type\":\"char\",\"mode\":\"0600\",\"uid\":0,\"gid\":0,"
        "\"mtime\":0,\"rdev\":[1,3]}},"
        "{\"path\":\"/etc/l\",\"group\":1,"
        "\"old\":{\"type\":\"symlink\",\"mode\":\"0777\",\"uid\":0,\"gid\":0,"
        "\"mtime\":0,\"target\":\"../x y\"},"
        "\"new\":{\"type\":\"symlink\",\"mode\":\"0777\",\"uid\":0,\"gid\":0,"
        "\"mtime\":0,\"target\":\"../z\\\"\\\\\\t\"}},"
        "{\"path\":\"/usr/bin/a\",\"group\":0,\"pool_block\":0,"
        "\"in_place\":true,"
        "\"old\":{\"type\":\"file\",\"mode\":\"0755\",\"uid\":0,\"gid\":1000,"
        "\"mtime\":1763424000,\"size\":8192,\"digest\":\"X\"},"
        "\"new\":{\"type\":\"file\",\"mode\":\"4755\",\"uid\":0,\"gid\":1000,"
        "\"mtime\":1763424000,\"size\":8192,\"digest\":\"X\",\"xattrs\":["
        "{\"name\":\"security.capability\",\"value\":\"AAIA\"}]},"
        "\"old_extents\":[[0,8192,4096],[4096,12288,4096]]},"
        "{\"path\":\"/usr/bin/b\",\"group\":1,\"pool_block\":2,"
        "\"conffile\":true,"
        "\"new\":{\"type\":\"file\",\"mode\":\"0755\",\"uid\":0,\"gid\":1000,"
        "\"mtime\":1763424000,\"size\":5000,\"digest\":\"X\"}},"
        "{\"path\":\"/usr/bin/c\",\"group\":1,"
        "\"new\":{\"type\":\"file\",\"mode\":\"0755\",\"uid\":0,\"gid\":1000,"
        "\"mtime\":1763424000,\"size\":5000,\"digest\":\"X\","
        "\"link\":\"/usr/bin/b\"}},"
        "{\"path\":\"/usr/share/d\",\"group\":1,"
        "\"new\":{\"type\":\"dir\",\"mode\":\"2755\",\"uid\":0,\"gid\":0,"
        "\"mtime\":-5}}],"
        "\"stanzas\":[{\"file\":\"/var/lib/dpkg/status\",\"group\":1,"
        "\"package\":\"b\",\"arch\":\"all\","
        "\"new\":\"Package: b\\nVersion: 2~rc1\\n\"}],"
        "\"hooks\":[{\"name\":\"ldconfig\"},"
        "{\"group\":1,\"name\":\"daemon-reload\"}],"
        "\"units\":[{\"group\":0,\"name\":\"a.service\"}],"
        "\"left_out\":[{\"path\":\"/etc/machine-id\",\"reason\":\"identity\"}]}";
    char *masked = malloc(json_len + 1), *to = masked;
    const char *p;

    for (p = json; *p;) {
        if (strspn(p, "0123456789abcdef") == 64) {
            *to++ = 'X';
            p += 64;
        } else {
            *to++ = *p++;
        }
    }
    *to = '\0';
    ck_assert_str_eq(masked, golden);
    free(masked);
}
END_TEST

START_TEST(decoding_gives_back_every_field)
{
    struct bstore_manifest *got;
    uint32_t i;
    char *again;
    size_t n;

    OK(bstore_manifest_decode(json, json_len, &got, &err));
    ck_assert_uint_eq(got->n_ops, m->n_ops);
    for (i = 0; i < m->n_ops; i++) {
        ck_assert_str_eq(got->ops[i].path, m->ops[i].path);
        ck_assert_uint_eq(got->ops[i].group, m->ops[i].group);
        ck_assert_uint_eq(got->ops[i].flags, m->ops[i].flags);
        ck_assert_uint_eq(got->ops[i].pool_blk, m->ops[i].pool_blk);
        ck_assert_uint_eq(got->ops[i].n_old_extents, m->ops[i].n_old_extents);
        ck_assert(bstore_node_eq(&got->ops[i].old_node, &m->ops[i].old_node));
        ck_assert(bstore_node_eq(&got->ops[i].new_node, &m->ops[i].new_node));
        ck_assert_int_eq(got->ops[i].new_node.mtime, m->ops[i].new_node.mtime);
    }
    ck_assert_uint_eq(got->ops[2].old_extents[1].disk_off, 12288);
    ck_assert_uint_eq(got->hooks[0].group, BSTORE_NO_GROUP);
    ck_assert(got->reboot);
    ck_assert_ptr_null(got->stanzas[0].old_text);
    /* The rest: the same bytes again. */
    OK(bstore_manifest_encode(got, &again, &n, &err));
    ck_assert_str_eq(again, json);
    free(again);
    bstore_manifest_free(got);
}
END_TEST

START_TEST(every_truncation_is_refused)
{
    size_t n;

    for (n = 0; n < json_len; n++)
        REFUSED(decode(json, n), EBADMSG);
}
END_TEST

START_TEST(unknown_keys_are_ignored)
{
    char *s = edited("\"serial\":7", "\"serial\":7,\"colour\":[1,{\"x\":null}]");

    OK(decode(s, strlen(s)));
    free(s);
}
END_TEST

START_TEST(required_features_are_not_ignored)
{
    char *s = edited("\"requires_features\":[]",
                     "\"requires_features\":[\"time-travel\"]");

    REFUSED(decode(s, strlen(s)), ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.text, "time-travel"));
    free(s);
    s = edited("\"version\":1", "\"version\":2");
    REFUSED(decode(s, strlen(s)), ENOTSUP);
    free(s);
}
END_TEST

START_TEST(each_bad_field_is_refused_by_its_name)
{
    static const struct { const char *old, *by, *says; } t[] = {
        { "\"blksub-patch\"", "\"blksub-map\"", "format" },
        { "\"requires_features\":[]", "\"requires_features\":0", "requires_f" },
        { "\"name\":\"sample 1\",", "", "name is missing" },
        { "sample 1", "", "name" },
        { "sample 1", "a\\nb", "name" },
        { "sample 1", "a\\u0000b", "JSON" },
        { "\"sample 1\"", "{\"b64\":\"AGE=\"}", "name" },
        { "\"sample 1\"", "{\"b64\":\"?\"}", "name" },
        { "\"sample 1\"", "{\"b64\":\"YWI\"}", "name" },
        { "\"sample 1\"", "{\"b64\":\"YWI\xc3\xa9\"}", "name" },
        { "\"sample 1\"", "5", "name" },
        { "\"serial\":7", "\"serial\":-7", "serial" },
        { "\"serial\":7", "\"serial\":7.5", "serial" },
        { "\"serial\":7", "\"serial\":7,\"serial\":8", "JSON" },
        { "\"created\":1763424000", "\"created\":\"now\"", "created" },
        { "\"from\":{\"image\":\"", "\"from\":{\"image\":\"z", "from.image" },
        { "\"bytes\":65536", "\"bytes\":65535", "from.bytes" },
        { "\"bytes\":65536", "\"bytes\":0", "from.bytes" },
        { "^\"bytes\":65536", "\"bytes\":9223372036854771712", "to.bytes" },
        { "^\"bytes\":65536", "\"bytes\":100", "to.bytes" },
        { "\"to\":{", "\"to\":7,\"x\":{", "to" },
        { "\"blocks\":4", "\"blocks\":-4", "pool.blocks" },
        { "\"blocks\":4", "\"blocks\":1", "pool" },
        { "\"clusters\":2", "\"clusters\":4294967296", "pool.clusters" },
        { "\"clusters\":2", "\"clusters\":5", "pool.clusters" },
        { "\"index\":\"", "\"index\":\"0", "pool.index" },
        { "\"reboot\":\"the kernel changed\"", "\"reboot\":\"\"", "reboot" },
        { "\"groups\":[", "\"groups\":7,\"x\":[", "groups" },
        { "\"groups\":[{\"name\":\"a\"", "\"groups\":[{\"name\":\"\"", "groups 0" },
        { "\"packages\":[{\"name\":\"a\"", "\"packages\":[{\"name\":\"\"", "package" },
        { ",\"new\":\"2~rc1\"", "", "package b has no version" },
        { "\"requires\":[0]", "\"requires\":[1]", "requires" },
        { "\"requires\":[0]", "\"requires\":[2]", "requires" },
        { "\"requires\":[0]", "\"requires\":[-1]", "requires" },
        { "\"ops\":[", "\"ops\":[7,", "ops 0: path" },
        { "/etc/l", "etc/l", "ops 1: path" },
        { "/etc/l", "/", "ops 1: path" },
        { "/etc/l", "/etc//l", "ops 1: path" },
        { "/etc/l", "/etc/l/", "ops 1: path" },
        { "/etc/l", "/etc/./l", "ops 1: path" },
        { "/etc/l", "/etc/../l", "ops 1: path" },
        { "/etc/l", "/etc/\\nl", "ops 1: path" },
        { "/etc/l", "/zzz", "ops 2: path" },
        { "/etc/l", "/usr/bin/a", "ops 2: path" },
        { "\"/etc/l\",\"group\":1", "\"/etc/l\",\"group\":2", "ops 1: group" },
        { "\"/etc/l\",\"group\":1", "\"/etc/l\"", "ops 1: group" },
        { "\"/etc/l\",\"group\":1", "\"/etc/l\",\"group\":-1", "ops 1: group" },
        { "\"type\":\"char\"", "\"type\":\"socket\"", "ops 0: old.type" },
        { "\"type\":\"char\"", "\"type\":1", "ops 0: old.type" },
        { "\"0600\"", "\"600\"", "ops 0: old.mode" },
        { "\"0600\"", "\"0800\"", "ops 0: old.mode" },
        { "\"0600\"", "\"10000\"", "ops 0: old.mode" },
        { "\"uid\":0", "\"uid\":4294967296", "ops 0: old.uid" },
        { "\"gid\":0", "\"gid\":-1", "ops 0: old.gid" },
        { "\"mtime\":0", "\"mtime\":\"0\"", "ops 0: old.mtime" },
        { "[1,3]", "[1]", "ops 0: old.rdev" },
        { "[1,3]", "[1,-3]", "ops 0: old.rdev" },
        { "\"target\":\"../x y\"", "\"target\":\"\"", "ops 1: target" },
        { ",\"target\":\"../x y\"", "", "ops 1: old.target" },
        { "\"rdev\":[1,3]", "\"rdev\":[1,3],\"target\":\"x\"", "ops 0: old.target" },
        { "\"pool_block\":0", "\"pool_block\":3", "ops 2: pool_block" },
        { "\"pool_block\":2", "\"pool_block\":4", "ops 3: pool_block" },
        { "\"pool_block\":2", "\"pool_block\":1099511627777", "ops 3: pool_block" },
        { "\"pool_block\":2,", "", "ops 3: new content" },
        { "\"pool_block\":0,", "", "ops 2: new content" },
        { "\"/usr/share/d\"", "\"/usr/share/d\",\"pool_block\":1", "ops 5: pool_block" },
        { "\"conffile\":true", "\"conffile\":1", "ops 3: conffile" },
        { "\"conffile\":true", "\"in_place\":true", "ops 3: in_place" },
        { "\"size\":8192", "\"size\":-1", "ops 2: old.size" },
        { "\"size\":8192", "\"size\":72057594037927937", "ops 2: old.size" },
        { "\"size\":8192", "\"size\":8193", "ops 2: in_place" },
        { "\"size\":8192", "\"size\":4000", "ops 2: old_extents" },
        { "^\"digest\":\"", "\"digest\":\"y", "ops 4: new.digest" },
        { "security.capability", "", "ops 2: xattr" },
        { "\"AAIA\"", "\"AAI\"", "ops 2: new.xattrs" },
        { "\"AAIA\"", "7", "ops 2: new.xattrs" },
        { "\"AAIA\"}", "\"AAIA\"},{\"name\":\"a\",\"value\":\"\"}", "sorted" },
        { "[4096,12288,4096]", "[4096,12289,4096]", "ops 2: in_place" },
        { "[4096,12288,4096]", "[4096,65536,4096]", "beyond the image" },
        { "[4096,12288,4096]", "[0,12288,4096]", "ops 2: old_extents 1" },
        { "[4096,12288,4096]", "[4096,12288,8192]", "ops 2: old_extents 1" },
        { "[4096,12288,4096]", "[4096,12288,0]", "ops 2: old_extents 1" },
        { "[4096,12288,4096]", "[4096,12288]", "old_extents" },
        { "[4096,12288,4096]", "[4096,12288,-1]", "old_extents" },
        { ",[4096,12288,4096]", "", "short of the file" },
        { "[0,8192,4096],", "", "after a hole" },
        { "\"link\":\"/usr/bin/b\"", "\"link\":\"/usr/bin/d\"", "first name" },
        { "\"link\":\"/usr/bin/b\"", "\"link\":\"/etc/l\"", "of its kind" },
        { "\"link\":\"/usr/bin/b\"", "\"link\":\"usr\"", "link" },
        { "\"mtime\":-5", "\"mtime\":-5,\"link\":\"/a\"", "ops 5: new.link" },
        { "/usr/share/d", "/usr/bin/c/d", "passes through" },
        { "/var/lib/dpkg/status", "var", "stanzas 0: file" },
        { "\"package\":\"b\"", "\"package\":\"\"", "stanzas 0: package" },
        { "2~rc1\\n\"", "2~rc1\"", "stanzas 0: new" },
        { "2~rc1\\n\"", "2~rc1\\n\\n\"", "stanzas 0: new" },
        { "\"new\":\"Package", "\"newer\":\"Package", "stanzas 0" },
        { "status\",\"group\":1", "status\",\"group\":9", "stanzas 0: group" },
        { "\"ldconfig\"", "\"\"", "hooks 0: name" },
        { "\"group\":1,\"name\":\"daemon", "\"group\":2,\"name\":\"daemon", "hooks 1" },
        { "\"group\":0,\"name\":\"a.s", "\"group\":2,\"name\":\"a.s", "units 0" },
        { "\"group\":0,\"name\":\"a.s", "\"name\":\"a.s", "units 0: group" },
        { "/etc/machine-id", "", "left_out 0: path" },
        { "\"identity\"", "[]", "left_out 0: reason" },
    };
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        char *s = edited(t[i].old, t[i].by);

        memset(&err, 0, sizeof(err));
        ck_assert_msg(decode(s, strlen(s)) == -EBADMSG, "%s -> %s is taken: %s",
                      t[i].old, t[i].by, err.text);
        ck_assert_msg(strstr(err.text, t[i].says) != NULL,
                      "%s -> %s: \"%s\" does not say %s", t[i].old, t[i].by,
                      err.text, t[i].says);
        free(s);
    }
}
END_TEST

START_TEST(encoding_checks_the_same)
{
    char *s;
    size_t n;

    m->ops[0].group = 5;
    REFUSED(bstore_manifest_encode(m, &s, &n, &err), EBADMSG);
    m->ops[0].group = 0;
    m->ops[2].new_node.mode = 010000;
    REFUSED(bstore_manifest_encode(m, &s, &n, &err), EBADMSG);
}
END_TEST

START_TEST(an_op_is_found_by_its_path)
{
    uint32_t i;

    for (i = 0; i < m->n_ops; i++)
        ck_assert_ptr_eq(bstore_manifest_find(m, m->ops[i].path), &m->ops[i]);
    ck_assert_ptr_null(bstore_manifest_find(m, "/usr/bin"));
    ck_assert_ptr_null(bstore_manifest_find(m, "/usr/bin/aa"));
}
END_TEST

START_TEST(nodes_are_equal_but_for_mtime)
{
    struct bstore_node a = m->ops[2].new_node, b = a;
    struct bstore_xattr x = a.xattrs[0];
    uint8_t value[3] = { 0, 2, 1 };

    b.mtime++;
    ck_assert(bstore_node_eq(&a, &b));
    b.uid++;
    ck_assert(!bstore_node_eq(&a, &b));
    b = a;
    b.digest.b[31] ^= 1;
    ck_assert(!bstore_node_eq(&a, &b));
    b = a;
    b.xattrs = &x;
    ck_assert(bstore_node_eq(&a, &b));
    x.value = value;
    ck_assert(!bstore_node_eq(&a, &b));
    b = a;
    b.n_xattrs = 0;
    ck_assert(!bstore_node_eq(&a, &b));
    b = a;
    b.link = m->ops[0].path;
    ck_assert(!bstore_node_eq(&a, &b));
    b = a;
    b.type = BSTORE_ABSENT;
    ck_assert(!bstore_node_eq(&a, &b));
    ck_assert(bstore_node_eq(&m->ops[0].new_node, &m->ops[3].old_node));
}
END_TEST

START_TEST(a_large_manifest_stays_sorted_and_decodes)
{
    struct bstore_manifest *got;
    uint32_t i, n = 20000;
    char path[64], *s;
    size_t len;

    m->ops = reallocarray(m->ops, m->n_ops + n, sizeof(*m->ops));
    memset(m->ops + m->n_ops, 0, n * sizeof(*m->ops));
    for (i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "/var/x/%06u", i);
        m->ops[m->n_ops + i].path = text(path);
        m->ops[m->n_ops + i].new_node.type = BSTORE_DIR;
    }
    m->n_ops += n;
    OK(bstore_manifest_encode(m, &s, &len, &err));
    OK(bstore_manifest_decode(s, len, &got, &err));
    ck_assert_uint_eq(got->n_ops, m->n_ops);
    bstore_manifest_free(got);
    free(s);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("manifest");
    TCase *t = tcase_create("manifest");

    tcase_add_unchecked_fixture(t, setup, remove_dir);
    tcase_add_checked_fixture(t, setup_each, teardown_each);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_sample_has_this_json);
    tcase_add_test(t, decoding_gives_back_every_field);
    tcase_add_test(t, every_truncation_is_refused);
    tcase_add_test(t, unknown_keys_are_ignored);
    tcase_add_test(t, required_features_are_not_ignored);
    tcase_add_test(t, each_bad_field_is_refused_by_its_name);
    tcase_add_test(t, encoding_checks_the_same);
    tcase_add_test(t, an_op_is_found_by_its_path);
    tcase_add_test(t, nodes_are_equal_but_for_mtime);
    tcase_add_test(t, a_large_manifest_stays_sorted_and_decodes);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
