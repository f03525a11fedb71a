// SPDX-License-Identifier: GPL-2.0-or-later
/* run.c: runs a program of the guest.  It has a process group of its own,
 * which is killed at the limit, and when the program itself has ended: what it
 * leaves behind cannot hold us, nor keep our pipe open. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "impl.h"

#define SLICE_MS 50

static struct rlimit fd_limit; /* as we found it; rlim_max 0: untouched */

/* In-place files are held open, one lease each. */
void agent_raise_fd_limit(void)
{
    struct rlimit rl;

    if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || rl.rlim_cur >= rl.rlim_max)
        return;
    fd_limit = rl;
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
}

static void child(const char *const argv[], int out_fd)
{
    static const char *const env[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL=C", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", NULL,
    };
    sigset_t none;
    int null_fd;

    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (fd_limit.rlim_max > 0)
        setrlimit(RLIMIT_NOFILE, &fd_limit);
    signal(SIGIO, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    null_fd = open("/dev/null", O_RDONLY);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(out_fd, 1) < 0 ||
        dup2(out_fd, 2) < 0 || chdir("/") < 0)
        _exit(126);
    execve(argv[0], (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)env);
    dprintf(2, "%s: %s", argv[0], strerror(errno));
    _exit(127);
}

/* What the kernel counts for a process that has ended and is not waited for. */
static uint64_t written_by(pid_t pid)
{
    unsigned long long bytes = 0;
    char path[64], line[128];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "write_bytes: %llu", &bytes) == 1)
            break;
    if (f)
        fclose(f);
    return bytes;
}

/* The start of the output is kept, what does not fit is read and dropped. */
static void take_output(int fd, char *out, size_t cap, size_t *len, bool *eof)
{
    char sink[4096];
    ssize_t n;

    for (;;) {
        size_t room = cap - 1 - *len;

        n = read(fd, room ? out + *len : sink, room ? room : sizeof(sink));
        if (n > 0 && room)
            *len += (size_t)n;
        if (n > 0)
            continue;
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            *eof = true;
        return;
    }
}

int agent_run(struct agent *a, const char *const argv[], int64_t limit_ms,
              char *out, size_t cap, void (*tick)(struct agent *a))
{
    int64_t now = agent_now_ms(), until = now + limit_ms, next_tick = now + 1000;
    struct pollfd p = { .events = POLLIN };
    bool eof = false, late = false;
    siginfo_t si = { 0 };
    int fds[2], status;
    size_t len = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    pid = fork();
    if (pid == 0)
        child(argv, fds[1]);
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return -EAGAIN;
    }
    setpgid(pid, pid);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    p.fd = fds[0];
    for (;;) {
        poll(eof ? NULL : &p, eof ? 0 : 1, eof ? SLICE_MS / 5 : SLICE_MS);
        if (!eof)
            take_output(fds[0], out, cap, &len, &eof);
        si.si_pid = 0;
        if (waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            si.si_pid == pid)
            break;
        now = agent_now_ms();
        if (now >= until && !late) {
            late = true;
            kill(-pid, SIGKILL);
        }
        if (tick && now >= next_tick) {
            next_tick = now + 1000;
            tick(a);
        }
    }
    kill(-pid, SIGKILL); /* the zombie keeps the group's number ours */
    if (!eof)
        take_output(fds[0], out, cap, &len, &eof);
    close(fds[0]);
    a->child_written += written_by(pid);
    if (waitpid(pid, &status, 0) < 0)
        status = 0;
    out[len] = 0;
    if (late)
        return -ETIMEDOUT;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
