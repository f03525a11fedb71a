// SPDX-License-Identifier: GPL-2.0-or-later
/* check-fixture.h: for tests of checks: damage that is planted in files of the
 * store, and the findings of a check as a list. */
#ifndef CHECK_FIXTURE_H
#define CHECK_FIXTURE_H

#include "bstore-check.h"
#include "volume-fixture.h"

#define CF_MAX 64u

/* Reads past the host's cache are slow, and need none of these tests but one. */
__attribute__((unused)) static bool cf_direct;

static inline int cf_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_DIRECT) && !cf_direct) {
        errno = EINVAL;
        return -1;
    }
    return openat(dirfd, name, flags, mode);
}

__attribute__((unused)) static const struct bs_file_ops cf_buffered = {
    .openat = cf_openat,
};

/* As fix_no_sync. */
__attribute__((unused)) static const struct bs_file_ops cf_no_sync = {
    .openat = cf_openat, .fdatasync = fix_sync_nothing,
    .fsync = fix_sync_nothing,
};

struct cf_finding {
    enum bstore_check_part part;
    char path[160], file[64], what[256];
    uint64_t off, bytes;
    bool guest_known;
    unsigned n_guest;
    uint64_t guest_off, guest_bytes; /* the first */
};

struct cf {
    struct cf_finding f[CF_MAX];
    unsigned n;
    struct bstore_check_result res;
    uint64_t n_steps, last_done, last_total;
    uint64_t n_data_steps, cancel_at_data_step; /* 0 = never */
};

static inline int cf_step(void *opaque, enum bstore_check_part part,
                          uint64_t done, uint64_t total)
{
    struct cf *cf = opaque;

    ck_assert_ptr_nonnull(bstore_check_part_name(part));
    ck_assert_uint_le(done, total);
    cf->last_done = done;
    cf->last_total = total;
    cf->n_steps++;
    return part == BSTORE_CHECK_DATA &&
           ++cf->n_data_steps == cf->cancel_at_data_step;
}

static inline void cf_found(void *opaque, const struct bstore_finding *f)
{
    struct cf *cf = opaque;
    struct cf_finding *to = &cf->f[cf->n];

    ck_assert(f->what[0] && f->todo[0]);
    if (cf->n == CF_MAX)
        return;
    cf->n++;
    memset(to, 0, sizeof(*to));
    to->part = f->part;
    snprintf(to->path, sizeof(to->path), "%s", f->path);
    snprintf(to->file, sizeof(to->file), "%s", f->file ? f->file : "");
    snprintf(to->what, sizeof(to->what), "%s", f->what);
    to->off = f->off;
    to->bytes = f->bytes;
    to->guest_known = f->guest_known;
    to->n_guest = f->n_guest;
    if (f->n_guest) {
        to->guest_off = f->guest[0].off;
        to->guest_bytes = f->guest[0].bytes;
    }
}

static inline struct bstore_check cf_how(struct cf *cf)
{
    return (struct bstore_check){ .step = cf_step, .found = cf_found,
                                  .opaque = cf };
}

/* Everything that was found, for the message of a failed test. */
static inline const char *cf_text(const struct cf *cf)
{
    static char text[8192];
    size_t len = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < cf->n && len < sizeof(text) - 600; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len,
                                "\n  %s %s %llu+%llu: %s",
                                bstore_check_part_name(cf->f[i].part),
                                cf->f[i].path, (unsigned long long)cf->f[i].off,
                                (unsigned long long)cf->f[i].bytes,
                                cf->f[i].what);
    return text;
}

static inline void cf_check(struct cf *cf, struct bstore_volume *v)
{
    struct bstore_check how = cf_how(cf);

    memset(cf, 0, sizeof(*cf));
    ok(bstore_volume_check(v, &how, &cf->res, &err));
    ck_assert_uint_eq(cf->res.n_findings, cf->n);
}

static inline void cf_is_clean(struct cf *cf, struct bstore_volume *v)
{
    cf_check(cf, v);
    ck_assert_msg(cf->n == 0, "a false alarm:%s", cf_text(cf));
}

static inline void cf_path(const struct fix *f, const char *rel, char out[256])
{
    snprintf(out, 256, "%s/store/%s", f->dir, rel);
}

/* Flips a bit of the file, which a test may not be allowed to write to. */
static inline void cf_flip(const struct fix *f, const char *rel, uint64_t off)
{
    char path[256];
    uint8_t b;
    int fd;

    cf_path(f, rel, path);
    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, &b, 1, (off_t)off), 1);
    b ^= 0x10;
    ck_assert_int_eq(pwrite(fd, &b, 1, (off_t)off), 1);
    close(fd);
}

static inline void cf_truncate(const struct fix *f, const char *rel, off_t len)
{
    char path[256];

    cf_path(f, rel, path);
    ck_assert_int_eq(chmod(path, 0600), 0);
    ck_assert_int_eq(truncate(path, len), 0);
}

static inline uint64_t cf_size(const struct fix *f, const char *rel)
{
    struct stat st;
    char path[256];

    cf_path(f, rel, path);
    ck_assert_int_eq(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

static inline const char *cf_image(const struct fix *f, const char *name)
{
    static char rel[160];
    char hex[BSTORE_DIGEST_HEX];

    snprintf(rel, sizeof(rel), "images/%s/%s",
             bstore_digest_to_hex(&f->image, hex), name);
    return rel;
}

static inline const char *cf_patch(const struct fix *f, unsigned k,
                                   const char *name)
{
    static char rel[160];
    char hex[BSTORE_DIGEST_HEX];

    snprintf(rel, sizeof(rel), "patches/%s/%s",
             bstore_digest_to_hex(&f->patch[k].id, hex), name);
    return rel;
}

#endif
