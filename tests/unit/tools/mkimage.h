// SPDX-License-Identifier: GPL-2.0-or-later
/* mkimage.h: small file systems for tests, made with mke2fs -d and debugfs,
 * without root.  Each test program works in its own temporary folder. */
#ifndef TESTS_MKIMAGE_H
#define TESTS_MKIMAGE_H

#include <check.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bstore-manifest.h"

#define UNUSED __attribute__((unused))

static char tmp_dir[256];

/* Runs a shell command in tmp_dir; it must succeed.  In tests only. */
__attribute__((format(printf, 1, 2))) UNUSED static void sh(const char *fmt, ...)
{
    char body[8192], cmd[9000];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(body, sizeof(body), fmt, ap);
    va_end(ap);
    snprintf(cmd, sizeof(cmd),
             "cd '%s' && export PATH=\"$PATH:/usr/sbin:/sbin\" && { %s\n} "
             ">sh.log 2>&1", tmp_dir, body);
    if (system(cmd) != 0) {
        snprintf(cmd, sizeof(cmd), "cat '%s/sh.log' >&2", tmp_dir);
        if (system(cmd) != 0)
            fprintf(stderr, "and no log\n");
        ck_abort_msg("failed: %s", body);
    }
}

UNUSED static void tmp_make(void)
{
    const char *t = getenv("TMPDIR");

    snprintf(tmp_dir, sizeof(tmp_dir), "%s/blksub-test-XXXXXX", t ? t : "/tmp");
    if (!mkdtemp(tmp_dir)) {
        perror(tmp_dir);
        exit(1);
    }
    umask(022);
}

UNUSED static void tmp_remove(void)
{
    char cmd[512];

    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", tmp_dir);
    if (system(cmd) != 0)
        fprintf(stderr, "%s is left\n", tmp_dir);
}

UNUSED static const char *at(const char *name)
{
    static char path[4][512];
    static unsigned n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof(path[n]), "%s/%s", tmp_dir, name);
    return path[n];
}

/* Makes a file and the folders above it. */
UNUSED static void put(const char *path, const void *buf, size_t n)
{
    char dir[512];
    FILE *f;

    snprintf(dir, sizeof(dir), "%s", path);
    if (strrchr(dir, '/')) {
        *strrchr(dir, '/') = 0;
        sh("mkdir -p '%s'", dir);
    }
    f = fopen(at(path), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(buf, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

UNUSED static void puts_to(const char *path, const char *text)
{
    put(path, text, strlen(text));
}

/* Bytes that do not compress, the same for the same seed. */
UNUSED static void put_noise(const char *path, size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n + 1);
    size_t i;

    ck_assert_ptr_nonnull(p);
    for (i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (uint8_t)(seed >> 24);
    }
    put(path, p, n);
    free(p);
}

/* Makes image img of the tree dir. */
UNUSED static void mkfs(const char *dir, const char *img, const char *opts,
                        const char *size)
{
    sh("rm -f '%s'; mke2fs -q -F %s -d '%s' '%s' %s", img, opts, dir, img, size);
}

UNUSED static void debugfs(const char *img, const char *cmd)
{
    sh("debugfs -w -R '%s' '%s'", cmd, img);
}

UNUSED static int open_img(const char *img)
{
    int fd = open(at(img), O_RDONLY | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    return fd;
}

UNUSED static int run_suite(Suite *s)
{
    SRunner *sr = srunner_create(s);
    int failed;

    tmp_make();
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    tmp_remove();
    return failed ? 1 : 0;
}

#endif
