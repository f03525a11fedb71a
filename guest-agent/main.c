// SPDX-License-Identifier: GPL-2.0-or-later
/* main.c: blksub-agent(8). */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <sodium.h>

#include "impl.h"

#define DEFAULT_CHANNEL "/dev/virtio-ports/" WIRE_PORT_NAME
#define DEFAULT_STATE "/var/lib/blksub-agent"

static void usage(FILE *out)
{
    fputs("usage: blksub-agent [--channel PATH] [--root DIR] [--state DIR]\n"
          "                    [--once] [--verbose]\n"
          "\n"
          "  --channel PATH  virtio port, or unix socket to connect to\n"
          "                  (" DEFAULT_CHANNEL ")\n"
          "  --root DIR      the tree to work on (/); other than / no hook\n"
          "                  and no unit is run\n"
          "  --state DIR     where the journal is (" DEFAULT_STATE ")\n"
          "  --once          end when the host goes away\n"
          "  --verbose       say what is done\n"
          "  --version, --help\n"
          "\n"
          "For tests of what a crash leaves behind:\n"
          "  --debug-stop STEP[:N]  kill itself at the N-th time of STEP\n"
          "  --debug-steps          list the steps\n",
          out);
}

static int list_steps(void)
{
    size_t i;

    for (i = 0; agent_steps[i]; i++)
        puts(agent_steps[i]);
    return 0;
}

static int send_frame(void *arg, uint16_t type, uint32_t seq,
                      const void *payload, uint32_t len)
{
    return agent_chan_send(arg, type, seq, payload, len);
}

static int serve(struct agent *a, struct agent_chan *chan, bool once)
{
    const uint8_t *payload;
    struct wire_frame f;
    size_t used;
    int r;

    do {
        r = agent_chan_wait(chan);
        if (r < 0)
            return r;
        agent_debug(a, "a host is there");
        agent_new_peer(a);
        used = 0;
        for (;;) {
            r = agent_chan_read(chan, &f, &payload, &used);
            agent_lease_poll(a);
            if (r == 1)
                agent_request(a, &f, payload);
            else if (r == 0)
                break;
        }
        agent_new_peer(a);
        agent_debug(a, "the host went away");
    } while (!once);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option opts[] = {
        { "channel", required_argument, NULL, 'c' },
        { "root", required_argument, NULL, 'r' },
        { "state", required_argument, NULL, 's' },
        { "once", no_argument, NULL, '1' },
        { "verbose", no_argument, NULL, 'v' },
        { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },
        { "debug-stop", required_argument, NULL, 'D' },
        { "debug-steps", no_argument, NULL, 'L' },
        { NULL, 0, NULL, 0 },
    };
    struct agent_cfg cfg = { .root = "/", .state = DEFAULT_STATE };
    const char *channel = DEFAULT_CHANNEL;
    struct agent_err err = { 0 };
    struct agent_chan chan = { .fd = -1 };
    struct agent a;
    bool once = false;
    int c, r;

    while ((c = getopt_long(argc, argv, "vh", opts, NULL)) != -1) {
        switch (c) {
        case 'c':
            channel = optarg;
            break;
        case 'r':
            cfg.root = optarg;
            break;
        case 's':
            cfg.state = optarg;
            break;
        case '1':
            once = true;
            break;
        case 'v':
            cfg.verbose = true;
            break;
        case 'V':
            puts("blksub-agent " BLKSUB_VERSION);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        case 'D':
            cfg.stop_step = optarg;
            break;
        case 'L':
            return list_steps();
        default:
            usage(stderr);
            return 2;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return 2;
    }
    if (sodium_init() < 0) {
        fputs("blksub-agent: libsodium does not start\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    r = agent_init(&a, &cfg, &err);
    if (r == 0) {
        a.send = send_frame;
        a.send_arg = &chan;
        r = agent_chan_init(&chan, channel);
    }
    if (r == 0)
        r = serve(&a, &chan, once);
    else
        fprintf(stderr, "blksub-agent: %s\n", err.code ? err.text : strerror(-r));
    agent_chan_fini(&chan);
    agent_fini(&a);
    return r == 0 ? 0 : 1;
}
