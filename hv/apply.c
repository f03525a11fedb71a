// SPDX-License-Identifier: GPL-2.0-or-later
/* A job from the first question to the report: preconditions, attempts, and
 * the way back when one fails. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "apply-impl.h"
#include "bs/log.h"

#define AGENT_WAIT_MS 15000   /* for an agent that is just starting */
#define ABORT_LIMIT_MS 60000u /* undoing is a matter of unlinking */
#define MAX_CONFLICTS 10000   /* in a report */

/* For tests, blksub-control(7): "STEP" dies there, "pause:STEP" stops there
 * the first time, until a SIGCONT. */
void hv_stop_at(const char *step)
{
    static const char pause_word[] = "pause:";
    static atomic_flag paused = ATOMIC_FLAG_INIT;
    const char *want = getenv("BLKSUB_WORKER_STOP");

    if (!want)
        return;
    if (strcmp(want, step) == 0)
        raise(SIGKILL);
    if (strncmp(want, pause_word, strlen(pause_word)) == 0 &&
        strcmp(want + strlen(pause_word), step) == 0 &&
        !atomic_flag_test_and_set(&paused))
        raise(SIGSTOP);
}

void apply_progress(struct apply *a, const char *stage, uint64_t done,
                    uint64_t total)
{
    if (a->env->progress)
        a->env->progress(a->env->opaque, stage, done, total);
}

void apply_exclude(struct apply *a, uint32_t g, const char *path,
                   const char *fmt, ...)
{
    struct group_work *w = &a->groups[g];
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (!w->excluded) {
        w->reason = strdup(text);
        w->path = path ? strdup(path) : NULL;
    }
    w->excluded = true;
    if (path && json_array_size(a->conflicts) < MAX_CONFLICTS)
        json_array_append_new(a->conflicts,
                              json_pack("{s:s, s:s, s:s}", "path", path, "group",
                                        a->m->groups[g].name, "reason", text));
}

int apply_changed(struct apply *a, uint32_t i)
{
    struct op_work *w = &a->ops[i];

    if (w->method == WIRE_IN_PLACE)
        w->no_in_place = true; /* perhaps it was only opened */
    else if (++w->n_changes >= 2)
        apply_exclude(a, a->m->ops[i].group, a->m->ops[i].path,
                      "the guest keeps changing it");
    return APPLY_AGAIN;
}

/* ---- preconditions ---- */

static int patch_name(const struct apply *a, const struct bstore_digest *id,
                      struct bstore_patch_info *out, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];

    return bstore_patch_find(a->env->store, bstore_digest_to_hex(id, hex), out,
                             err);
}

/* The newest patch that is in effect, or n_old. */
static size_t newest(const struct apply *a)
{
    size_t i = a->n_old;

    while (i > 0 && !applied_is_live(&a->old[i - 1]))
        i--;
    return i > 0 ? i - 1 : a->n_old;
}

/* The patch must fit what the volume is now. */
static int check_base(struct apply *a, struct bs_err *err)
{
    struct bstore_digest now;
    struct bstore_patch_info top;
    char from[BSTORE_DIGEST_HEX], is[BSTORE_DIGEST_HEX];
    size_t t = newest(a);
    int r;

    now = *bstore_image_digest(bstore_volume_image(a->env->volume));
    if (t < a->n_old) {
        r = patch_name(a, &a->old[t].patch, &top, err);
        if (r < 0)
            return r;
        if (a->old[t].phase != BSTORE_APPLIED)
            return bs_fail(err, EBUSY, "patch %s is not finished on %s: apply "
                           "it again or roll it back first", top.name,
                           bstore_volume_name(a->env->volume));
        now = top.to;
    }
    if (!bstore_digest_eq(&now, &a->m->from))
        return bs_fail(err, EMEDIUMTYPE, "patch %s is for image %.16s, but %s "
                       "is at image %.16s", a->m->name,
                       bstore_digest_to_hex(&a->m->from, from),
                       bstore_volume_name(a->env->volume),
                       bstore_digest_to_hex(&now, is));
    if (a->m->serial < bstore_volume_max_serial(a->env->volume))
        return bs_fail(err, ESTALE, "patch %s has serial %llu, which is older "
                       "than %llu on %s", a->m->name,
                       (unsigned long long)a->m->serial, (unsigned long long)
                       bstore_volume_max_serial(a->env->volume),
                       bstore_volume_name(a->env->volume));
    return 0;
}

static int check_top(struct apply *a, size_t t, struct bs_err *err)
{
    struct bstore_patch_info top;
    int r;

    if (t == a->entry)
        return 0;
    r = patch_name(a, &a->old[t].patch, &top, err);
    if (r < 0)
        return r;
    return bs_fail(err, EBUSY, "patch %s was applied on top of %s: roll that "
                   "back first", top.name, a->m->name);
}

/* Decides which groups the job is about. 1: none, it is done already. */
static int check_list(struct apply *a, struct bs_err *err)
{
    const struct bstore_applied *e;
    size_t t = newest(a);
    bool any = false;
    uint32_t g;
    int r;

    for (a->entry = 0; a->entry < a->n_old; a->entry++)
        if (bstore_digest_eq(&a->old[a->entry].patch, bstore_patch_id(a->patch)))
            break;
    e = a->entry < a->n_old && applied_is_live(&a->old[a->entry]) ?
            &a->old[a->entry] : NULL;
    if (!e && a->req->rollback)
        return 1;
    r = e ? check_top(a, t, err) : check_base(a, err);
    if (r < 0)
        return r;
    a->unfinished = e && e->phase != BSTORE_APPLIED;
    /* A key may have lost its trust since the import.  What was committed is
     * finished all the same, and rolled back. */
    if (!a->req->rollback && !a->unfinished) {
        r = bstore_patch_check_trust(a->env->store, a->patch, err);
        if (r < 0)
            return r;
    }
    for (g = 0; g < a->m->n_groups; g++) {
        bool there = e && bit_get(e->groups, g);

        a->groups[g].todo = a->unfinished || there == a->req->rollback;
        any = any || a->groups[g].todo;
    }
    return any || !e ? 0 : 1;
}

/* ---- one attempt ---- */

static void abort_attempt(struct apply *a)
{
    struct hv_link *link = a->env->link;
    struct bs_err err;

    hv_link_allow_ping(link, false);
    if (!a->begun || a->committed)
        return;
    hv_link_allow_ping(link, true); /* HELLO ends what is only checked, too */
    hv_link_set_flags(link, NULL, NULL); /* also when told to end */
    hv_link_settle(link, ABORT_LIMIT_MS);
    if (!hv_link_is_up(link))
        return; /* recovery aborts it when the agent is back */
    wire_put_bytes(hv_link_payload(link), a->job_id, 16);
    if (hv_link_call(link, WIRE_ABORT, hv_answer_ok, NULL, ABORT_LIMIT_MS, NULL,
                     &err) < 0) {
        bs_log(BS_LOG_WARN, "apply", "cannot abort in the guest: %s", err.text);
        hv_link_settle(link, 1000);
        hv_link_drop(link, "it did not undo a job");
    }
    hv_link_allow_ping(link, false);
}

static void begin_attempt(struct apply *a)
{
    uint32_t i;

    for (i = 0; i < a->m->n_ops; i++) {
        struct op_work *w = &a->ops[i];
        bool no_in_place = w->no_in_place, no_token = w->no_token;
        uint8_t n_changes = w->n_changes;

        memset(w, 0, sizeof(*w));
        w->n_changes = n_changes;
        w->no_in_place = no_in_place;
        w->no_token = no_token;
    }
    a->begun = a->committed = false;
}

static bool any_selected(const struct apply *a)
{
    uint32_t g;

    for (g = 0; g < a->m->n_groups; g++)
        if (a->groups[g].selected)
            return true;
    return a->m->n_groups == 0;
}

static int random_ids(struct apply *a, struct bs_err *err)
{
    if (getrandom(a->job_id, sizeof(a->job_id), 0) != sizeof(a->job_id) ||
        getrandom(a->secret, sizeof(a->secret), 0) != sizeof(a->secret))
        return bs_fail_errno(err, errno, "no random numbers");
    return 0;
}

static int attempt(struct apply *a, const atomic_bool *stop,
                   const atomic_bool *cancel, struct bs_err *err)
{
    bool open_session = !a->req->dry_run;
    int r;

    begin_attempt(a);
    r = random_ids(a, err);
    if (r == 0 && open_session) {
        r = bstore_volume_session_open(a->env->volume, a->secret, a->patch, err);
        open_session = r == 0;
    }
    if (r == 0)
        r = apply_check(a, err);
    if (r == 0) {
        apply_plan(a);
        hv_stop_at("checked");
    }
    if (r == 0 && !a->req->dry_run && any_selected(a)) {
        r = apply_stage(a, err);
        if (r == 0)
            r = apply_commit(a, err);
    }
    abort_attempt(a);
    hv_link_set_flags(a->env->link, stop, cancel);
    if (open_session)
        bstore_volume_session_close(a->env->volume);
    return r;
}

/* ---- the whole job ---- */

static void fini(struct apply *a)
{
    uint32_t g;

    for (g = 0; a->groups && g < a->m->n_groups; g++) {
        free(a->groups[g].reason);
        free(a->groups[g].path);
    }
    free(a->groups);
    free(a->ops);
    free(a->refused);
    free(a->copy_buf);
    applied_free(a->old, a->n_old);
    json_decref(a->conflicts);
    json_decref(a->kept);
    json_decref(a->notes);
    json_decref(a->users);
    json_decref(a->restarted);
    bstore_image_close(a->from_image);
    bstore_patch_close(a->patch);
    if (a->env->link)
        hv_link_allow_ping(a->env->link, false);
    explicit_bzero(a->secret, sizeof(a->secret));
}

static int init(struct apply *a, struct bs_err *err)
{
    const struct bstore_applied *list;
    int r;

    a->started_ms = hv_now_ms();
    r = bstore_patch_open(a->env->store, &a->req->patch, &a->patch, err);
    if (r < 0)
        return r;
    a->m = bstore_patch_manifest(a->patch);
    r = bstore_image_open(a->env->store, &a->m->from, &a->from_image, err);
    if (r < 0)
        return r;
    a->image_is_from = bstore_digest_eq(
        &a->m->from, bstore_image_digest(bstore_volume_image(a->env->volume)));
    list = bstore_volume_applied(a->env->volume, &a->n_old);
    r = applied_copy(list, a->n_old, &a->old);
    a->ops = calloc((size_t)a->m->n_ops + 1, sizeof(*a->ops));
    a->groups = calloc((size_t)a->m->n_groups + 1, sizeof(*a->groups));
    a->copy_buf = malloc(WIRE_DATA_MAX);
    a->conflicts = json_array();
    a->kept = json_array();
    a->notes = json_array();
    if (r < 0 || !a->ops || !a->groups || !a->copy_buf || !a->conflicts ||
        !a->kept || !a->notes)
        return bs_fail(err, ENOMEM, "no memory");
    return 0;
}

static int wait_ms(const struct hv_env *env)
{
    return env->agent_wait_ms ? env->agent_wait_ms : AGENT_WAIT_MS;
}

static int find_agent(struct apply *a, struct bs_err *err)
{
    char note[256];
    int r;

    if (!a->env->link)
        return bs_fail(err, EHOSTUNREACH, "%s is served without an agent's "
                       "channel (serve --agent)",
                       bstore_volume_name(a->env->volume));
    apply_progress(a, "connecting", 0, 0);
    r = hv_link_refresh(a->env->link, wait_ms(a->env), err);
    if (r == 0)
        r = hv_recover(a->env, note, sizeof(note), err);
    return r;
}

static int reload_list(struct apply *a, struct bs_err *err)
{
    const struct bstore_applied *list;

    applied_free(a->old, a->n_old);
    a->old = NULL;
    list = bstore_volume_applied(a->env->volume, &a->n_old);
    if (applied_copy(list, a->n_old, &a->old) < 0) {
        a->n_old = 0;
        return bs_fail(err, ENOMEM, "no memory");
    }
    return 0;
}

static void restart_units(struct apply *a)
{
    char *units[256];
    struct bs_err err;
    json_t *user;
    size_t n = 0, i, k;

    json_array_foreach(a->users, i, user) {
        const char *unit = json_string_value(json_object_get(user, "unit"));

        if (unit && unit[0] && n < N_ELEMS(units))
            units[n++] = (char *)(uintptr_t)unit;
    }
    for (i = 0; i < a->m->n_units && n < N_ELEMS(units); i++) {
        if (a->m->units[i].group != BSTORE_NO_GROUP &&
            !a->groups[a->m->units[i].group].selected)
            continue;
        for (k = 0; k < n && strcmp(units[k], a->m->units[i].name) != 0; k++)
            ;
        if (k == n)
            units[n++] = a->m->units[i].name;
    }
    apply_progress(a, "restarting", 0, n);
    if (hv_restart_units(a->env, units, n, &a->restarted, &err) < 0)
        json_array_append_new(a->notes, json_string(err.text));
}

/* The update is done: what fails from here on is a note. */
static void look_around(struct apply *a)
{
    struct bs_err err;
    json_t *fresh = NULL;

    if (hv_users(a->env, a->m, &a->users, &err) < 0) {
        json_array_append_new(a->notes, json_string(err.text));
        return;
    }
    if (!a->req->restart)
        return;
    restart_units(a);
    if (hv_users(a->env, a->m, &fresh, &err) == 0) {
        json_decref(a->users);
        a->users = fresh;
    }
}

int hv_apply_run(const struct hv_env *env, const struct hv_apply_request *req,
                 json_t **result, struct bs_err *err)
{
    struct apply a = { .env = env, .req = req };
    const atomic_bool *stop = NULL, *cancel = NULL;
    const char *outcome;
    unsigned n;
    int r;

    if (env->link)
        hv_link_get_flags(env->link, &stop, &cancel);
    r = init(&a, err);
    if (r == 0)
        r = check_list(&a, err); /* refuse what can be refused at once */
    if (r < 0)
        goto out;
    if (r == 0 || a.unfinished) {
        r = find_agent(&a, err);
        if (r == 0)
            r = reload_list(&a, err); /* recovery may have changed it */
        if (r == 0)
            r = check_list(&a, err);
    }
    if (r < 0)
        goto out;
    if (r > 0) {
        if (req->restart && !req->dry_run && env->link &&
            hv_link_refresh(env->link, wait_ms(env), err) == 0)
            look_around(&a); /* what was not restarted then can be now */
        *result = apply_report(&a, "already");
        goto done;
    }
    r = APPLY_AGAIN;
    for (n = 0; r == APPLY_AGAIN && n < APPLY_ATTEMPTS; n++)
        r = attempt(&a, stop, cancel, err);
    if (r == APPLY_AGAIN)
        r = bs_fail(err, EBUSY, "the guest keeps changing what the patch is "
                    "about; try again later");
    if (r < 0)
        goto out;
    outcome = req->dry_run ? "dry-run" : a.committed ? "done" : "nothing";
    if (a.committed)
        look_around(&a);
    *result = apply_report(&a, outcome);
done:
    r = *result ? 0 : bs_fail(err, ENOMEM, "no memory");
out:
    fini(&a);
    return r;
}
