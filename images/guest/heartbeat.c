// SPDX-License-Identifier: GPL-2.0-or-later
/* heartbeat.c: whoever stops this guest, or its disk, is noticed.
 *
 *   heartbeat FILE DEVICE [PORT]
 *
 * Each 20 ms it reads a block of DEVICE past the page cache, and each half
 * second it asks the web server on 127.0.0.1:PORT for "/".  FILE holds, once a
 * second anew:
 *   beats N  longest_ms N  http_ok N  http_failed N
 * SIGUSR1 starts the count again.  Linked statically: it never runs code that
 * a patch replaces, and so is never a reason to restart anything. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t again;

static void on_usr1(int sig)
{
    (void)sig;
    again = 1;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int web_answers(int port)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct timeval limit = { 10, 0 };
    const char ask[] = "GET / HTTP/1.0\r\n\r\n";
    char buf[16] = "";
    int fd, ok;

    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ok = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
         write(fd, ask, sizeof(ask) - 1) == (ssize_t)sizeof(ask) - 1 &&
         read(fd, buf, sizeof(buf) - 1) > 12 && strncmp(buf + 8, " 200", 4) == 0;
    close(fd);
    return ok;
}

/* What the process that asks the web server has counted; shared. */
struct web {
    volatile unsigned long ok, failed;
};

static void ask_for_ever(struct web *web, int port)
{
    struct timespec pause = { 0, 500000000 };

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        if (web_answers(port))
            web->ok++;
        else
            web->failed++;
        nanosleep(&pause, NULL);
    }
}

static void write_file(const char *path, unsigned long beats, int64_t longest,
                       const struct web *web)
{
    char tmp[256];
    FILE *out;

    snprintf(tmp, sizeof(tmp), "%s.new", path);
    out = fopen(tmp, "w");
    if (!out)
        return;
    fprintf(out, "beats %lu  longest_ms %lld  http_ok %lu  http_failed %lu\n", beats,
            (long long)longest, web->ok, web->failed);
    fclose(out);
    rename(tmp, path);
}

int main(int argc, char **argv)
{
    struct timespec tick = { 0, 20000000 };
    int64_t last, now, longest = 0, wrote = 0;
    int fd, port = argc > 3 ? atoi(argv[3]) : 0;
    unsigned long beats = 0;
    struct web *web;
    void *buf;

    if (argc < 3 || posix_memalign(&buf, 4096, 4096) != 0)
        return 2;
    fd = open(argv[2], O_RDONLY | O_DIRECT | O_CLOEXEC);
    web = mmap(NULL, sizeof(*web), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || web == MAP_FAILED)
        return 1;
    signal(SIGPIPE, SIG_IGN);
    if (port && fork() == 0)
        ask_for_ever(web, port);
    signal(SIGUSR1, on_usr1);
    last = now_ms();
    for (;;) {
        if (pread(fd, buf, 4096, (off_t)(beats % 1000) * 4096) != 4096)
            return 1;
        now = now_ms();
        beats++;
        if (now - last > longest)
            longest = now - last;
        last = now;
        if (again) {
            again = 0;
            beats = web->ok = web->failed = 0;
            longest = wrote = 0;
        }
        if (now - wrote >= 1000) {
            write_file(argv[1], beats, longest, web);
            wrote = now;
        }
        nanosleep(&tick, NULL);
    }
}
