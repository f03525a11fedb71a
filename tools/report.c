// SPDX-License-Identifier: GPL-2.0-or-later
/* A worker's report (blksub-control(7)) as people read it.  What comes from a
 * guest has been cleaned by the worker; it is cleaned again all the same. */
#include <stdlib.h>
#include <string.h>

#include "jobs.h"

#define LIST_MAX 50 /* lines of one kind; all of them are in --json */

/* A member as text; the caller's until the next call: four live at a time. */
static const char *text_of(const json_t *obj, const char *key)
{
    static char *kept[4];
    static unsigned next;
    const char *s = json_string_value(json_object_get(obj, key));

    next = (next + 1) % 4;
    free(kept[next]);
    kept[next] = cmd_clean(s ? s : "");
    return kept[next] ? kept[next] : "";
}

static json_int_t number_of(const json_t *obj, const char *key)
{
    return json_integer_value(json_object_get(obj, key));
}

json_int_t report_left_out(const json_t *report)
{
    return number_of(report, "n_left_out");
}

static bool is(const json_t *obj, const char *key, const char *value)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s && strcmp(s, value) == 0;
}

static void print_more(size_t n)
{
    if (n > LIST_MAX)
        printf("  ... and %zu more (--json has them)\n", n - LIST_MAX);
}

static void print_methods(const json_t *report, bool dry)
{
    static const struct {
        const char *key, *name;
    } t[] = { { "in_place", "in place" }, { "token", "by token" },
              { "copy", "by copy" },      { "plain", "without content" } };
    const json_t *methods = json_object_get(report, "methods");
    const char *comma = "";
    char size[24];
    size_t i;

    printf("  %s", dry ? "would change: " : "changed: ");
    for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        const json_t *one = json_object_get(methods, t[i].key);
        json_int_t files = number_of(one, "files");

        if (files == 0)
            continue;
        printf("%s%lld %s", comma, (long long)files, t[i].name);
        if (number_of(one, "bytes") > 0)
            printf(" (%s)", cmd_size((uint64_t)number_of(one, "bytes"), size));
        comma = ", ";
    }
    printf("%s\n", *comma ? "" : "nothing");
}

static void print_left_out(const json_t *report)
{
    const json_t *groups = json_object_get(report, "groups"), *g;
    size_t i, n = 0;

    if (report_left_out(report) == 0)
        return;
    printf("  left out, because the guest differs:\n");
    json_array_foreach(groups, i, g) {
        if (!is(g, "state", "left-out") || ++n > LIST_MAX)
            continue;
        printf("    %s: ", text_of(g, "name"));
        if (json_object_get(g, "path"))
            printf("%s: ", text_of(g, "path"));
        printf("%s\n", text_of(g, "reason"));
    }
    print_more(n);
}

static void print_kept(const json_t *report)
{
    const json_t *list = json_object_get(report, "kept"), *one;
    size_t i;

    if (json_array_size(list) == 0)
        return;
    printf("  configuration files that the guest changed, kept:\n");
    json_array_foreach(list, i, one) {
        if (i >= LIST_MAX)
            break;
        printf("    %s", text_of(one, "path"));
        if (json_object_get(one, "beside"))
            printf(" (the new one is %s)", text_of(one, "beside"));
        putchar('\n');
    }
    print_more(json_array_size(list));
}

void report_print_users(const json_t *users)
{
    const json_t *unit, *procs, *p;
    size_t i, k;

    json_array_foreach(users, i, unit) {
        procs = json_object_get(unit, "processes");
        printf("    %s:", text_of(unit, "unit")[0] ? text_of(unit, "unit") :
                                                     "(no unit)");
        json_array_foreach(procs, k, p) {
            if (k >= LIST_MAX)
                break;
            printf("%s %s (PID %lld)", k ? "," : "", text_of(p, "name"),
                   (long long)number_of(p, "pid"));
        }
        putchar('\n');
    }
}

static void print_restarted(const json_t *report)
{
    const json_t *list = json_object_get(report, "restarted"), *one;
    size_t i;

    if (json_array_size(list) == 0)
        return;
    printf("  restarts:\n");
    json_array_foreach(list, i, one) {
        const json_t *code = json_object_get(one, "exit_code");

        printf("    %s: ", text_of(one, "unit"));
        if (!code)
            printf("%s\n", text_of(one, "text"));
        else if (json_integer_value(code) == 0)
            printf("restarted\n");
        else
            printf("failed with %lld: %s\n", (long long)json_integer_value(code),
                   text_of(one, "text"));
    }
}

static void print_notes(const json_t *report)
{
    const json_t *list = json_object_get(report, "notes"), *one;
    size_t i;

    json_array_foreach(list, i, one) {
        char *s = i < LIST_MAX ? cmd_clean(json_string_value(one)) : NULL;

        if (s)
            printf("  note: %s\n", s);
        free(s);
    }
    print_more(json_array_size(list));
}

static void print_headline(const char *volume, const json_t *report)
{
    bool back = is(report, "direction", "rollback");
    const char *name = text_of(report, "name");
    json_int_t n = number_of(report, "n_groups"), out = report_left_out(report);

    if (is(report, "outcome", "already"))
        printf(back ? "%s: %s is not applied: nothing to roll back\n" :
                      "%s: %s is already applied\n", volume, name);
    else if (is(report, "outcome", "nothing"))
        printf("%s: %s: nothing was changed: all %lld groups are left out\n",
               volume, name, (long long)n);
    else if (is(report, "outcome", "dry-run"))
        printf("%s: would %s %s: %lld of %lld groups\n", volume,
               back ? "roll back" : "apply", name, (long long)(n - out),
               (long long)n);
    else
        printf("%s: %s %s: %lld of %lld groups, %.1f s\n", volume,
               back ? "rolled back" : "applied", name, (long long)(n - out),
               (long long)n, (double)number_of(report, "duration_ms") / 1000.0);
}

void report_print(const char *volume, const json_t *report)
{
    const json_t *agent = json_object_get(report, "agent"),
                 *users = json_object_get(report, "users"),
                 *reboot = json_object_get(report, "reboot");
    bool done = is(report, "outcome", "done"),
         back = is(report, "direction", "rollback"),
         dry = is(report, "outcome", "dry-run");
    char size[24];

    print_headline(volume, report);
    if (done || dry)
        print_methods(report, dry);
    print_left_out(report);
    print_kept(report);
    if (done)
        printf("  the guest spent %.2f s of CPU and wrote %s\n",
               (double)number_of(agent, "cpu_us") / 1e6,
               cmd_size((uint64_t)number_of(agent, "written_bytes"), size));
    print_restarted(report);
    if (json_array_size(users) > 0) {
        printf(back ? "  still running code that was taken back:\n" :
                      "  still running old code:\n");
        report_print_users(users);
    }
    if ((done || dry) && json_is_true(json_object_get(reboot, "needed"))) {
        if (back)
            printf("  a reboot is needed if the guest was rebooted on the patch\n");
        else
            printf("  a reboot is needed: %s\n", text_of(reboot, "reason"));
    }
    print_notes(report);
}
