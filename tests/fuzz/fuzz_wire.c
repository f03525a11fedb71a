/* fuzz: agent */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests into the agent's dispatcher, on a tree in a scratch folder.
 *
 * Input: requests, each u8 type, u16 payload length (little endian), payload.
 * The scratch tree is the agent's root, so no hook and no unit is run; what
 * would make device nodes or files of many gigabytes is left out, as is USERS,
 * which reads the whole of /proc.  The agent logs: fuzz with -close_fd_mask=2. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <sodium.h>

#include "impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char dir[256], root[300], state[300];

static int rm_one(const char *path, const struct stat *st, int flag,
                  struct FTW *ftw)
{
    (void)st;
    (void)flag;
    if (ftw->level > 0)
        remove(path);
    return 0;
}

static void clean(void)
{
    nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void at_exit(void)
{
    clean();
    rmdir(dir);
}

static void put_file(const char *name, const char *text)
{
    char path[400];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", root, name);
    f = fopen(path, "w");
    if (!f)
        abort();
    fputs(text, f);
    fclose(f);
}

static void make_tree(void)
{
    char path[400];
    static const char *const dirs[] = { "d", "var", "var/lib", "var/lib/dpkg" };
    size_t i;

    mkdir(root, 0755);
    for (i = 0; i < N_ELEMS(dirs); i++) {
        snprintf(path, sizeof(path), "%s/%s", root, dirs[i]);
        mkdir(path, 0755);
    }
    put_file("f", "f");
    put_file("d/g", "g");
    put_file("var/lib/dpkg/status", "Package: a\nVersion: 1\n\n");
    snprintf(path, sizeof(path), "%s/l", root);
    if (symlink("../../..", path) < 0)
        abort();
}

static int take(void *arg, uint16_t type, uint32_t seq, const void *payload,
                uint32_t len)
{
    (void)payload;
    (void)seq;
    if (len > WIRE_PAYLOAD_MAX)
        abort();
    if (type != WIRE_PROGRESS)
        ++*(unsigned *)arg;
    return 0;
}

static bool harmless(uint8_t type, const uint8_t *payload, uint32_t len)
{
    struct wire_msg_op op;
    struct wire_r r;

    if (type == WIRE_USERS)
        return false;
    wire_r_init(&r, payload, len);
    if (type != WIRE_OP || !wire_get_op(&r, &op))
        return true;
    return op.to.type != WIRE_CHAR && op.to.type != WIRE_BLOCK &&
           op.to.size < 1 << 16;
}

static void init_once(void)
{
    static const struct rlimit file = { 1 << 24, 1 << 24 };

    if (dir[0])
        return;
    if (sodium_init() < 0)
        abort();
    snprintf(dir, sizeof(dir), "%s/agent-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir))
        abort();
    snprintf(root, sizeof(root), "%s/root", dir);
    snprintf(state, sizeof(state), "%s/state", dir);
    setrlimit(RLIMIT_FSIZE, &file);
    atexit(at_exit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct agent_cfg cfg = { .root = root, .state = state };
    unsigned answers = 0, asked = 0;
    struct agent_err err;
    struct wire_frame f = { 0 };
    struct agent a;
    uint8_t *payload;

    init_once();
    make_tree();
    if (agent_init(&a, &cfg, &err) < 0)
        abort();
    a.send = take;
    a.send_arg = &answers;
    a.dpkg_wait_ms = 0;
    while (len >= 3) {
        f.type = data[0];
        f.len = (uint32_t)(data[1] | data[2] << 8);
        f.seq++;
        data += 3;
        len -= 3;
        if (f.len > len)
            f.len = (uint32_t)len;
        payload = malloc(f.len ? f.len : 1); /* for ASan: no byte more */
        if (!payload)
            abort();
        memcpy(payload, data, f.len);
        if (harmless(data[-3], payload, f.len)) {
            agent_request(&a, &f, payload);
            asked++;
        }
        free(payload);
        data += f.len;
        len -= f.len;
    }
    if (answers != asked) /* every request has one answer */
        __builtin_trap();
    agent_fini(&a);
    /* What was left in the journal must be understood at the next start. */
    if (agent_init(&a, &cfg, &err) < 0 && err.code == EBADMSG)
        __builtin_trap();
    agent_fini(&a);
    clean();
    return 0;
}
