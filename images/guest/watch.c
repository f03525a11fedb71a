// SPDX-License-Identifier: GPL-2.0-or-later
/* watch.c: looks for torn files while a patch is applied.
 *
 *   watch OUT FILE...     $PAUSE_MS between two rounds, default 20
 *
 * Over and over, for each FILE: opens it, maps it executable, sums what the
 * mapping shows and what read() gives, and executes it when it is a program
 * (with the argument "--version").  It keeps some mappings for good and sums
 * them again.  Each new result is one line of OUT:
 *
 *   map FILE SUM      what a fresh mapping showed
 *   read FILE SUM     what read() gave
 *   held FILE SUM     a kept mapping no longer shows what it showed: never good
 *   fail FILE ERRNO   could not be opened, read or mapped: never good
 *
 * The tests know the sums of the old and the new file; any other is a mix of
 * the two.  A sum is FNV-1a, 64 bits, of size and content. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_FILES 64
#define MAX_SEEN 8
#define MAX_HELD 4

struct held {
    const unsigned char *map;
    size_t len;
    uint64_t sum;
};

struct file {
    const char *path;
    uint64_t seen_map[MAX_SEEN], seen_read[MAX_SEEN];
    int n_map, n_read, failed;
    struct held held[MAX_HELD];
    int n_held;
};

static FILE *out;

static uint64_t fnv(uint64_t h, const unsigned char *p, size_t n)
{
    while (n--)
        h = (h ^ *p++) * 0x100000001b3u;
    return h;
}

static uint64_t sum_start(uint64_t size)
{
    return (0xcbf29ce484222325u ^ size) * 0x100000001b3u;
}

static void say(const char *what, const char *path, uint64_t v)
{
    fprintf(out, "%s %s %016" PRIx64 "\n", what, path, v);
    fflush(out);
}

static int is_new(uint64_t *seen, int *n, uint64_t v)
{
    int i;

    for (i = 0; i < *n; i++)
        if (seen[i] == v)
            return 0;
    if (*n < MAX_SEEN)
        seen[(*n)++] = v;
    return 1;
}

static void fail(struct file *f)
{
    if (!f->failed)
        say("fail", f->path, (uint64_t)errno);
    f->failed = 1;
}

static void hold(struct file *f, const unsigned char *map, size_t len, uint64_t sum)
{
    f->held[f->n_held].map = map;
    f->held[f->n_held].len = len;
    f->held[f->n_held++].sum = sum;
}

static void look(struct file *f)
{
    unsigned char buf[65536];
    const unsigned char *map;
    struct stat st;
    uint64_t sum;
    ssize_t got;
    int fd;

    fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        fail(f);
        goto out;
    }
    if (st.st_size == 0)
        goto out;
    sum = sum_start((uint64_t)st.st_size);
    while ((got = read(fd, buf, sizeof(buf))) > 0)
        sum = fnv(sum, buf, (size_t)got);
    if (got < 0)
        fail(f);
    else if (is_new(f->seen_read, &f->n_read, sum))
        say("read", f->path, sum);

    map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        fail(f);
        goto out;
    }
    sum = fnv(sum_start((uint64_t)st.st_size), map, (size_t)st.st_size);
    if (is_new(f->seen_map, &f->n_map, sum)) {
        say("map", f->path, sum);
        if (f->n_held < MAX_HELD) {
            hold(f, map, (size_t)st.st_size, sum);
            goto out;
        }
    }
    munmap((void *)(uintptr_t)map, (size_t)st.st_size);
out:
    if (fd >= 0)
        close(fd);
}

static void look_at_held(struct file *f)
{
    int i;

    for (i = 0; i < f->n_held; i++)
        if (fnv(sum_start(f->held[i].len), f->held[i].map, f->held[i].len) !=
            f->held[i].sum) {
            say("held", f->path, f->held[i].sum);
            f->held[i] = f->held[--f->n_held];
        }
}

static void execute(const char *path)
{
    char *argv[] = { (char *)(uintptr_t)path, (char *)(uintptr_t)"--version", NULL };
    int null, status;
    pid_t pid;

    if (access(path, X_OK) < 0 || strstr(path, ".so"))
        return;
    pid = fork();
    if (pid == 0) {
        alarm(20);
        null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execv(path, argv);
        _exit(127);
    }
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status))
        say("fail", path, (uint64_t)WTERMSIG(status) + 1000);
}

int main(int argc, char **argv)
{
    static struct file files[MAX_FILES];
    const char *text = getenv("PAUSE_MS");
    long ms = text ? atol(text) : 20;
    struct timespec pause = { ms / 1000, ms % 1000 * 1000000 };
    int i, n = argc - 2;

    if (n < 1 || n > MAX_FILES)
        return 2;
    out = fopen(argv[1], "w");
    if (!out)
        return 1;
    for (i = 0; i < n; i++)
        files[i].path = argv[i + 2];
    for (;;) {
        for (i = 0; i < n; i++) {
            look(&files[i]);
            look_at_held(&files[i]);
            execute(files[i].path);
        }
        nanosleep(&pause, NULL);
    }
}
