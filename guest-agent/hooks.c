// SPDX-License-Identifier: GPL-2.0-or-later
/* hooks.c: what is generated in the guest, and its units.  A fixed list: the
 * host names a hook, never a command.  Nothing of it can fail a job that is
 * committed; what goes wrong is a note. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

static const struct hook {
    const char *name;
    const char *needs; /* not run, without a note, where this is not */
    int64_t limit_ms;
    const char *argv[6];
} hooks[] = {
    { "ldconfig", "/sbin/ldconfig", 120000, { "/sbin/ldconfig", NULL } },
    { "daemon-reload",
      "/run/systemd/system",
      90000,
      { "/bin/systemctl", "daemon-reload", NULL } },
    { "ca-certificates",
      "/usr/sbin/update-ca-certificates",
      900000,
      { "/usr/sbin/update-ca-certificates", NULL } },
    { "initramfs",
      "/usr/sbin/update-initramfs",
      900000,
      { "/usr/sbin/update-initramfs", "-u", NULL } },
    { "update-grub", "/usr/sbin/update-grub", 180000, { "/usr/sbin/update-grub", NULL } },
    { "udev-reload",
      "/run/udev/control",
      60000,
      { "/bin/udevadm", "control", "--reload", NULL } },
};

#define KERNEL_HOOK "initramfs:"

/* "initramfs:VERSION": the initramfs of one kernel, made, made anew, or removed
 * where the kernel's modules are gone. NULL: no such version can be. */
static const struct hook *kernel_hook(const char *version, struct hook *out)
{
    char path[320];

    if (version[0] == 0 || version[0] == '-' || version[0] == '.' ||
        version[strspn(version, "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789.+~_-")] != 0)
        return NULL;
    *out = (struct hook){ KERNEL_HOOK,
                          "/usr/sbin/update-initramfs",
                          900000,
                          { "/usr/sbin/update-initramfs", "-c", "-k", version } };
    snprintf(path, sizeof(path), "/boot/initrd.img-%s", version);
    if (access(path, F_OK) == 0)
        out->argv[1] = "-u";
    snprintf(path, sizeof(path), "/lib/modules/%s", version);
    if (access(path, F_OK) < 0)
        out->argv[1] = "-d";
    return out;
}

static void tick(struct agent *a)
{
    agent_progress(a, 0, 1, "a hook is running");
}

void agent_hook_run(struct agent *a, const char *name)
{
    const struct hook *h = NULL;
    struct hook kernel;
    char out[600];
    size_t i;
    int r;

    for (i = 0; i < N_ELEMS(hooks); i++)
        if (strcmp(hooks[i].name, name) == 0)
            h = &hooks[i];
    if (strncmp(name, KERNEL_HOOK, strlen(KERNEL_HOOK)) == 0)
        h = kernel_hook(name + strlen(KERNEL_HOOK), &kernel);
    if (!h) {
        agent_note(a, "hook %s: not known to this agent, not run", name);
        return;
    }
    if (!a->is_system) {
        agent_note(a, "hook %s: not run, this is not the running system", name);
        return;
    }
    if (access(h->needs, F_OK) < 0)
        return;
    r = agent_run(a, h->argv, h->limit_ms, out, sizeof(out), tick);
    if (r == 0)
        return;
    out[strcspn(out, "\n")] = 0;
    if (r == -ETIMEDOUT)
        agent_note(a, "hook %s: killed after %d s", name,
                   (int)(h->limit_ms / 1000));
    else if (r < 0)
        agent_note(a, "hook %s: %s", name, strerror(-r));
    else
        agent_note(a, "hook %s: exit code %d: %s", name, r, out);
}

/* ---- RESTART ---- */

#define RESTART_LIMIT_MS 180000
#define OWN_UNIT "blksub-agent.service"

static bool unit_ok(const char *unit)
{
    static const char *const suffixes[] = { ".service", ".socket", ".target",
                                            ".timer",   ".mount",  ".path",
                                            ".scope",   ".slice" };
    const char *dot = strrchr(unit, '.');
    size_t i;

    if (unit[0] == '-' || unit[0] == '.' || !dot || strlen(unit) > 255 ||
        unit[strspn(unit, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                          "0123456789:_.\\@-")] != 0)
        return false;
    for (i = 0; i < N_ELEMS(suffixes); i++)
        if (strcmp(dot, suffixes[i]) == 0)
            return true;
    return false;
}

static void restart_tick(struct agent *a)
{
    agent_progress(a, 0, 1, "a unit is restarting");
}

HANDLER(restart)
{
    const char *argv[6] = { "/bin/systemctl" }, *unit;
    struct wire_msg_restarted m;
    char out[2048] = "";
    unsigned n = 1;
    int rc;

    if (!wire_get_name(r, &unit) || !unit_ok(unit))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "no name of a unit");
    if (!a->is_system)
        return agent_fail(err, EOPNOTSUPP, WIRE_NO_INDEX,
                          "%s: this is not the running system", unit);
    if (access("/run/systemd/system", F_OK) < 0)
        return agent_fail(err, EOPNOTSUPP, WIRE_NO_INDEX,
                          "%s: the guest does not run systemd", unit);
    /* We could not answer for our own end. */
    if (strcmp(unit, OWN_UNIT) == 0)
        argv[n++] = "--no-block";
    argv[n++] = "try-restart"; /* what does not run is not started */
    argv[n++] = "--";
    argv[n++] = unit;
    argv[n] = NULL;
    rc = agent_run(a, argv, RESTART_LIMIT_MS, out, sizeof(out), restart_tick);
    if (rc == -ETIMEDOUT)
        snprintf(out, sizeof(out), "not done after %d s", RESTART_LIMIT_MS / 1000);
    else if (rc < 0)
        return agent_fail(err, -rc, WIRE_NO_INDEX, "%s: %s", unit, strerror(-rc));
    m.exit_code = rc == -ETIMEDOUT ? 124 : rc;
    m.text = out;
    wire_put_restarted(agent_reply(a), &m);
    agent_answer(a, WIRE_RESTARTED);
    return 0;
}
