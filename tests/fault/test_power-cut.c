// SPDX-License-Identifier: GPL-2.0-or-later
/* Power cuts.  A layer under blockstore's file calls keeps, beside each file
 * of a volume, what the disk holds for certain, and what was written since its
 * last sync.  At chosen calls it makes a copy of the volume as a disk may have
 * it when power goes at that moment: of what was not synced some is there,
 * some is not, some is torn between sectors, in any order; a rename has
 * happened or has not.  The copy is opened and must hold what DESIGN section 3
 * promises: what was flushed is there; of what was not each sector is old or
 * new; list and map are those before or those after a commit; the size is that
 * before or that after a resize.
 *
 * A check of the copy finds no damage: a power cut is none, and a sum that was
 * taken before it is not held against what it left.
 *
 * Now and then a write to the log arrives in part only, for want of room, or a
 * sync of it fails and the kernel forgets some of what it had not written. */
#include "check-fixture.h"

#define SECTOR 512u
#define MAX_FILES 4096

struct pending {
    uint64_t off;
    size_t len;
    uint8_t *bytes; /* NULL: zeros (a hole) */
    bool cut;       /* the file ends at off */
};

struct disk_file {
    ino_t ino;
    uint8_t *bytes;
    size_t len;
    struct pending *p;
    size_t n, cap;
};

static struct fix f;
static struct rng rng;
static struct vm m;
static struct bstore_volume *v;
static struct disk_file files[MAX_FILES];
static unsigned n_files;
static ino_t data_ino, log_ino, renamed_ino; /* renamed: 0 = none is open */
static ino_t sums_ino; /* 0 = there is none */
static bool sums_unlinked; /* and the folder is not synced */
static bool watching, log_is_well; /* log_is_well: faults elsewhere only */
static uint64_t n_cuts, n_calls;
static unsigned one_in = 3; /* calls */

static struct fix_list lists[2]; /* before and after the commit under way */
static uint64_t sizes[2];        /* blocks, before and after the resize */
static char *metas[2]; /* meta.json: on the disk for certain, and renamed */

/* ---- the disk --------------------------------------------------------------- */

static struct disk_file *file_of(int fd)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    for (unsigned i = 0; i < n_files; i++)
        if (files[i].ino == st.st_ino)
            return &files[i];
    ck_assert_uint_lt(n_files, MAX_FILES);
    files[n_files].ino = st.st_ino;
    return &files[n_files++];
}

static struct disk_file *file_by_ino(ino_t ino)
{
    for (unsigned i = 0; i < n_files; i++)
        if (files[i].ino == ino)
            return &files[i];
    ck_abort_msg("no such file");
    return NULL;
}

static void note(int fd, uint64_t off, size_t len, const void *bytes)
{
    struct disk_file *d = file_of(fd);
    struct pending *p;

    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 16;
        d->p = realloc(d->p, d->cap * sizeof(*d->p));
        ck_assert_ptr_nonnull(d->p);
    }
    p = &d->p[d->n++];
    *p = (struct pending){ .off = off, .len = len };
    if (bytes) {
        p->bytes = malloc(len);
        ck_assert_ptr_nonnull(p->bytes);
        memcpy(p->bytes, bytes, len);
    }
}

static void put(uint8_t **buf, size_t *len, const struct pending *p,
                struct rng *torn)
{
    uint64_t at, n;

    if (p->cut && p->off > *len) { /* longer: zeros */
        *buf = realloc(*buf, p->off);
        ck_assert_ptr_nonnull(*buf);
        memset(*buf + *len, 0, p->off - *len);
    }
    if (p->cut) {
        *len = p->off;
        return;
    }
    if (p->off + p->len > *len) {
        *buf = realloc(*buf, p->off + p->len);
        ck_assert_ptr_nonnull(*buf);
        memset(*buf + *len, 0, p->off + p->len - *len);
        *len = p->off + p->len;
    }
    for (at = 0; at < p->len; at += n) {
        n = SECTOR - (p->off + at) % SECTOR;
        if (n > p->len - at)
            n = p->len - at;
        if (torn && rng_below(torn, 2))
            continue;
        if (p->bytes)
            memcpy(*buf + p->off + at, p->bytes + at, n);
        else
            memset(*buf + p->off + at, 0, n);
    }
}

static void settle(struct disk_file *d)
{
    for (size_t i = 0; i < d->n; i++) {
        put(&d->bytes, &d->len, &d->p[i], NULL);
        free(d->p[i].bytes);
    }
    d->n = 0;
}

/* A sync that failed: some is written, the rest will never be. */
static void forget(struct disk_file *d)
{
    for (size_t i = 0; i < d->n; i++) {
        if (rng_below(&rng, 2))
            put(&d->bytes, &d->len, &d->p[i], rng_below(&rng, 2) ? &rng : NULL);
        free(d->p[i].bytes);
    }
    d->n = 0;
}

/* ---- a cut ------------------------------------------------------------------- */

enum how { NOTHING, EVERYTHING, SOME, SHUFFLED, TORN, N_HOW };

static uint8_t *after_cut(const struct disk_file *d, enum how how, size_t *len)
{
    uint8_t *buf = malloc(d->len + 1);
    size_t i, k, *order = calloc(d->n + 1, sizeof(*order));

    ck_assert(buf && order);
    if (d->len)
        memcpy(buf, d->bytes, d->len);
    *len = d->len;
    for (i = 0; i < d->n; i++) {
        k = how == SHUFFLED || how == TORN ? rng_below(&rng, i + 1) : i;
        order[i] = order[k];
        order[k] = i;
    }
    for (i = 0; i < d->n && how != NOTHING; i++)
        if (how == EVERYTHING || rng_below(&rng, 2))
            put(&buf, len, &d->p[order[i]], how == TORN ? &rng : NULL);
    free(order);
    return buf;
}

static void put_file(const char *name, const void *bytes, size_t len)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/store/volumes/cut/%s", f.dir, name);
    write_file(path, bytes, len);
}

static void make_copy(void)
{
    enum how how = (enum how)rng_below(&rng, N_HOW);
    ino_t log = renamed_ino && rng_below(&rng, 2) ? renamed_ino : log_ino;
    const char *meta = metas[metas[1] && rng_below(&rng, 2)];
    char path[128];
    size_t len;
    uint8_t *b;

    snprintf(path, sizeof(path), "%s/store/volumes/cut", f.dir);
    mkdir(path, 0700);
    put_file("meta.json", meta, strlen(meta));
    b = after_cut(file_by_ino(data_ino), how, &len);
    put_file("data", b, len);
    free(b);
    b = after_cut(file_by_ino(log), how, &len);
    put_file("log", b, len);
    free(b);
    snprintf(path, sizeof(path), "%s/store/volumes/cut/sums", f.dir);
    unlink(path);
    if (!sums_ino || (sums_unlinked && rng_below(&rng, 2)))
        return;
    b = after_cut(file_by_ino(sums_ino), how, &len);
    put_file("sums", b, len);
    free(b);
}

static bool same_list(const struct bstore_applied *a, size_t n,
                      const struct fix_list *l)
{
    if (n != l->n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!bstore_digest_eq(&a[i].patch, &l->a[i].patch) ||
            memcmp(a[i].in_place, l->in_place[i], 2) != 0)
            return false;
    return true;
}

static struct cf of_copy, of_volume;

static void cut(void)
{
    uint64_t off, blks = m.blks;
    const struct bstore_applied *a;
    struct bstore_volume *copy;
    uint8_t buf[2 * BLK], back[2 * BLK];
    size_t n;

    watching = false;
    make_copy();
    copy = fix_open(&f, "cut");
    a = bstore_volume_applied(copy, &n);
    ck_assert_msg(same_list(a, n, &lists[0]) || same_list(a, n, &lists[1]),
                  "the list is neither the old one nor the new one");
    m.blks = bstore_volume_size_bytes(copy) / BLK;
    ck_assert_msg(m.blks == sizes[0] || m.blks == sizes[1],
                  "the size is neither the old one nor the new one");
    vm_check_crash(&m, copy, false);
    /* It is a volume like any other. */
    off = rng_below(&rng, (m.blks - 2) * BLK + 1);
    fill(buf, sizeof(buf), rng_next(&rng));
    ck_assert_int_eq(bstore_volume_write(copy, buf, sizeof(buf), off, false), 0);
    if (rng_below(&rng, 8) == 0) { /* after it was opened twice, too */
        bstore_volume_close(copy);
        copy = fix_open(&f, "cut");
    }
    ck_assert_int_eq(bstore_volume_read(copy, back, sizeof(back), off), 0);
    ck_assert_mem_eq(buf, back, sizeof(buf));
    if (rng_below(&rng, 4) == 0)
        cf_is_clean(&of_copy, copy);
    bstore_volume_close(copy);
    m.blks = blks;
    n_cuts++;
    watching = true;
}

static void maybe_cut(void)
{
    n_calls++;
    if (rng_below(&rng, one_in) == 0)
        cut();
}

/* ---- the layer ---------------------------------------------------------------- */

static uint64_t n_faults;

static bool is_log(int fd)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    return S_ISREG(st.st_mode) && st.st_ino != data_ino;
}

static bool is_sums(int fd)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    return sums_ino && st.st_ino == sums_ino;
}

/* A merged map in the store: no more than saved work, so what a cut makes of it
 * is no matter here (test_volume-map.c spoils them); but it may fail. */
static bool is_map(int fd)
{
    char link[32], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    ck_assert_int_gt(n, 0);
    path[n] = '\0';
    return strstr(path, "/store/maps") != NULL;
}

static bool fails_now(int fd)
{
    if (!watching || !is_log(fd) || (log_is_well && !is_sums(fd)) ||
        rng_below(&rng, 8) != 0)
        return false;
    n_faults++;
    return true;
}

static ssize_t l_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    bool fault;
    ssize_t r;

    if (fix_is_recent(fd))
        return pwrite(fd, buf, n, off);
    fault = fails_now(fd);
    if (watching && off == 0 && is_log(fd) && !is_map(fd) && !is_sums(fd)) {
        /* A header: a new file, with the number of one that is gone. */
        struct disk_file *d = file_of(fd);

        ck_assert(d->ino != log_ino);
        settle(d);
        d->len = 0;
    }

    if (fault)
        n = rng_below(&rng, n);
    if (fault && is_sums(fd)) /* in place: whole sectors, unlike appends */
        n = ((uint64_t)off + n) / SECTOR * SECTOR > (uint64_t)off
                ? ((uint64_t)off + n) / SECTOR * SECTOR - (uint64_t)off : 0;
    r = n ? pwrite(fd, buf, n, off) : 0;

    if (r > 0 && watching && !is_map(fd)) {
        note(fd, (uint64_t)off, (size_t)r, buf);
        maybe_cut();
    }
    errno = ENOSPC;
    return fault ? -1 : r;
}

static int l_sync(int fd)
{
    struct stat st;

    if (!watching)
        return 0; /* nothing here depends on the real disk */
    maybe_cut();
    if (is_map(fd)) {
        errno = EIO;
        return fails_now(fd) ? -1 : 0;
    }
    if (fails_now(fd)) {
        forget(file_of(fd));
        errno = EIO;
        return -1;
    }
    ck_assert_int_eq(fstat(fd, &st), 0);
    if (!S_ISDIR(st.st_mode)) {
        settle(file_of(fd));
    } else {
        if (renamed_ino) {
            file_by_ino(log_ino)->ino = 0; /* the number may come again */
            log_ino = renamed_ino;
            renamed_ino = 0;
        } else if (metas[1]) {
            free(metas[0]);
            metas[0] = metas[1];
            metas[1] = NULL;
        }
        if (sums_unlinked) {
            settle(file_by_ino(sums_ino));
            file_by_ino(sums_ino)->ino = 0;
            sums_ino = 0;
            sums_unlinked = false;
        }
    }
    maybe_cut();
    return 0;
}

static int l_ftruncate(int fd, off_t len)
{
    int r = ftruncate(fd, len);

    if (r == 0 && watching && !fix_is_recent(fd)) {
        struct disk_file *d;

        note(fd, (uint64_t)len, 0, NULL);
        d = file_of(fd);
        d->p[d->n - 1].cut = true;
        maybe_cut();
    }
    return r;
}

static int l_fallocate(int fd, int mode, off_t off, off_t len)
{
    int r = fallocate(fd, mode, off, len);

    /* Space that is set aside is nothing to read. */
    if (r == 0 && watching && mode != FALLOC_FL_KEEP_SIZE) {
        note(fd, (uint64_t)off, (size_t)len, NULL);
        maybe_cut();
    }
    return r;
}

/* What the disk may have of it once it was renamed: its file was synced, or the
 * text is not there. */
static void load_meta(int dir, char **out)
{
    struct disk_file *d;
    struct stat st;

    ck_assert_int_eq(fstatat(dir, "meta.json", &st, 0), 0);
    d = file_by_ino(st.st_ino);
    free(*out);
    *out = strndup((const char *)(d->bytes ? d->bytes : (uint8_t[1]){ 0 }),
                   d->len);
    ck_assert_ptr_nonnull(*out);
    d->ino = 0; /* nobody writes there any more */
}

static int l_renameat(int a, const char *old, int b, const char *name)
{
    int r = renameat(a, old, b, name);
    struct stat st;

    if (r == 0 && watching && strcmp(name, "log") == 0) {
        ck_assert_int_eq(fstatat(b, name, &st, 0), 0);
        renamed_ino = st.st_ino;
        maybe_cut();
    } else if (r == 0 && watching && strcmp(name, "meta.json") == 0) {
        load_meta(b, &metas[1]);
        maybe_cut();
    }
    return r;
}

/* The name is durable at once: later than that is covered by a copy whose
 * header is not there. */
static int l_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    bool makes = watching && (flags & O_CREAT) && strcmp(name, "sums") == 0 &&
                 faccessat(dirfd, name, F_OK, 0) != 0;
    int fd = cf_openat(dirfd, name, flags, mode);
    struct disk_file *d;

    if (fd < 0 || !makes)
        return fd;
    d = file_of(fd); /* it may have the number of one that is gone */
    settle(d);
    d->len = 0;
    sums_ino = d->ino;
    sums_unlinked = false;
    return fd;
}

static int l_unlinkat(int dirfd, const char *name, int flags)
{
    int r = unlinkat(dirfd, name, flags);

    if (r == 0 && watching && strcmp(name, "sums") == 0)
        sums_unlinked = true;
    return r;
}

static const struct bs_file_ops layer = {
    .openat = l_openat, .pread = pread, .pwrite = l_pwrite, .fdatasync = l_sync, .fsync = l_sync,
    .ftruncate = l_ftruncate, .fallocate = l_fallocate,
    .renameat = l_renameat, .unlinkat = l_unlinkat,
};

/* ---- what the guest does ------------------------------------------------------ */

/* After a fault: on, until a flush succeeds again and nothing is in doubt. */
static void recover(void)
{
    while (bstore_volume_flush(v) != 0)
        ;
    vm_flushed(&m);
}

/* The model is told before the call: a cut within it may find either. */
static void guest_write(const uint8_t *secret, unsigned patch)
{
    uint8_t buf[24 * BLK], what[24 * BLK];
    uint64_t off = rng_below(&rng, m.blks * BLK / SECTOR) * SECTOR, src;
    uint32_t n = (1 + (uint32_t)rng_below(&rng, sizeof(buf) / SECTOR)) * SECTOR;
    bool fua = rng_below(&rng, 8) == 0;

    if (secret)
        off = bs_align_down(off, BLK);
    if (n > m.blks * BLK - off)
        n = (uint32_t)(m.blks * BLK - off);
    fill(buf, n, rng_next(&rng));
    memcpy(what, buf, n);
    src = rng_below(&rng, 50);
    for (uint32_t i = 0; secret && i < n / BLK; i++, src++) {
        wire_token_encode(buf + i * BLK, secret, 0, src);
        memcpy(what + i * BLK, f.patch[patch].pool + src * BLK, BLK);
    }
    vm_write(&m, v, what, n, off);
    if (bstore_volume_write(v, buf, n, off, fua) != 0)
        ck_assert(fua); /* only its flush can fail */
    else if (fua)
        vm_flushed(&m);
}

static void guest_trim(void)
{
    uint64_t off = rng_below(&rng, m.blks) * BLK;
    uint32_t n = (1 + (uint32_t)rng_below(&rng, 64)) * BLK;

    if (n > m.blks * BLK - off)
        n = (uint32_t)(m.blks * BLK - off);
    vm_write(&m, v, NULL, n, off);
    ck_assert_int_eq(bstore_volume_trim(v, n, off, false), 0);
}

static void apply(void)
{
    struct fix_list l = { .n = 0 };
    unsigned first = (unsigned)rng_below(&rng, 2);

    if (rng_below(&rng, 4))
        fix_list_add(&f, &l, first, (uint16_t)rng_next(&rng));
    if (l.n && rng_below(&rng, 2))
        fix_list_add(&f, &l, !first, (uint16_t)rng_next(&rng));
    lists[1] = l;
    if (bstore_volume_commit(v, l.a, l.n, NULL) == 0) {
        vm_flushed(&m);
        lists[0] = l;
    } else {
        recover();
    }
}

static void use_tokens(void)
{
    unsigned k = (unsigned)rng_below(&rng, N_PATCHES);
    uint8_t secret[BSTORE_SECRET_BYTES];
    struct bstore_patch *p = NULL;

    fill(secret, sizeof(secret), rng_next(&rng));
    ok(bstore_patch_open(f.store, &f.patch[k].id, &p, &err));
    if (bstore_volume_session_open(v, secret, p, NULL) == 0) {
        for (unsigned i = 0; i < 4; i++)
            guest_write(secret, k);
        bstore_volume_session_close(v);
    }
    bstore_patch_close(p);
}

static void grow(void)
{
    uint64_t blks = m.blks + rng_below(&rng, 40);

    if (blks > VM_MAX_BLKS)
        return;
    sizes[1] = blks;
    if (bstore_volume_resize(v, blks * BLK, NULL) == 0)
        sizes[0] = m.blks = blks;
    else
        recover(); /* the disk may have the one or the other */
    ck_assert_uint_eq(bstore_volume_size_bytes(v), m.blks * BLK);
}

/* Faults may end it; they are not damage. */
static void check(void)
{
    struct bstore_check how = cf_how(&of_volume);

    memset(&of_volume, 0, sizeof(of_volume));
    (void)bstore_volume_check(v, &how, &of_volume.res, NULL);
    ck_assert_msg(of_volume.n == 0, "a false alarm:%s", cf_text(&of_volume));
}

static void reopen(void)
{
    recover();
    log_is_well = true;
    bstore_volume_close(v);
    v = fix_open(&f, "vol");
    log_is_well = false;
    check();
}

static void step(void)
{
    switch (rng_below(&rng, 24)) {
    case 0 ... 10:
        guest_write(NULL, 0);
        break;
    case 11 ... 13:
        guest_trim();
        break;
    case 14 ... 15:
        if (bstore_volume_flush(v) == 0)
            vm_flushed(&m);
        break;
    case 16:
        apply();
        break;
    case 17:
        if (bstore_volume_compact(v, NULL) == 0)
            vm_flushed(&m);
        break;
    case 20 ... 21:
        check();
        break;
    case 22:
        reopen();
        break;
    case 23:
        grow();
        break;
    default:
        use_tokens();
    }
}

/* What is on the disk when the volume has just been made. */
static ino_t load(const char *name)
{
    struct disk_file *d;
    struct stat st;
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/store/volumes/vol/%s", f.dir, name);
    fd = open(path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    d = file_of(fd);
    d->len = (size_t)st.st_size;
    d->bytes = malloc(d->len + 1);
    ck_assert_ptr_nonnull(d->bytes);
    ck_assert_int_eq(bs_file_read(fd, d->bytes, d->len, 0), 0);
    close(fd);
    return d->ino;
}

START_TEST(flushed_is_there_and_the_rest_is_old_or_new)
{
    uint64_t cuts = test_rounds(500);
    int dir;

    rng.s = test_seed();
    fix_init(&f);
    v = fix_volume(&f, "vol");
    vm_init(&m, &f);
    data_ino = load("data");
    log_ino = load("log");
    load("meta.json");
    dir = bstore_volume_dirfd(v);
    load_meta(dir, &metas[0]);
    sizes[0] = sizes[1] = VOLUME_BLKS;
    bs_file_set_ops(&layer);
    watching = true;
    while (n_cuts < cuts)
        step();
    watching = false;
    vm_check(&m, v);
    bstore_volume_close(v);
    bs_file_set_ops(NULL);
    printf("%llu cuts at %llu calls, %llu faults\n", (unsigned long long)n_cuts,
           (unsigned long long)n_calls, (unsigned long long)n_faults);
    for (unsigned i = 0; i < n_files; i++) {
        settle(&files[i]);
        free(files[i].bytes);
        free(files[i].p);
    }
    free(metas[0]);
    free(metas[1]);
    vm_fini(&m);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("power-cut");
    TCase *tc = tcase_create("cuts");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, env_number("LONG", 0) ? 3000 : 120);
    tcase_add_test(tc, flushed_is_there_and_the_rest_is_old_or_new);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
