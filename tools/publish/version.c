// SPDX-License-Identifier: GPL-2.0-or-later
/* Versions and relations between packages: deb-version(7), deb-control(5). */
#include <ctype.h>
#include <errno.h>

#include "bs/bytes.h"
#include "dpkg.h"
#include "util.h"

/* '~' sorts before the end, the end before letters, letters before the rest. */
static int order(int c)
{
    if (c == '~')
        return -1;
    if (c == 0 || isdigit(c))
        return 0;
    return isalpha(c) ? c : c + 256;
}

/* Compares parts [a, a_end) and [b, b_end). */
static int cmp_part(const char *a, const char *a_end, const char *b,
                    const char *b_end)
{
    while (a < a_end || b < b_end) {
        int first = 0;

        while ((a < a_end && !isdigit((unsigned char)*a)) ||
               (b < b_end && !isdigit((unsigned char)*b))) {
            int x = order(a < a_end ? (unsigned char)*a : 0);
            int y = order(b < b_end ? (unsigned char)*b : 0);

            if (x != y)
                return x - y;
            a += a < a_end;
            b += b < b_end;
        }
        while (a < a_end && *a == '0')
            a++;
        while (b < b_end && *b == '0')
            b++;
        while (a < a_end && isdigit((unsigned char)*a) && b < b_end &&
               isdigit((unsigned char)*b)) {
            if (first == 0)
                first = *a - *b;
            a++;
            b++;
        }
        if (a < a_end && isdigit((unsigned char)*a))
            return 1;
        if (b < b_end && isdigit((unsigned char)*b))
            return -1;
        if (first != 0)
            return first;
    }
    return 0;
}

static const char *epoch_of(const char *v, const char **rest)
{
    const char *colon = strchr(v, ':');

    *rest = colon ? colon + 1 : v;
    return colon ? colon : v;
}

int pub_version_cmp(const char *a, const char *b)
{
    const char *ra, *rb, *ea = epoch_of(a, &ra), *eb = epoch_of(b, &rb);
    const char *a_end = a + strlen(a), *b_end = b + strlen(b);
    const char *da = strrchr(ra, '-'), *db = strrchr(rb, '-');
    int c;

    c = cmp_part(a, ea, b, eb);
    if (c == 0)
        c = cmp_part(ra, da ? da : a_end, rb, db ? db : b_end);
    if (c == 0)
        c = cmp_part(da ? da + 1 : a_end, a_end, db ? db + 1 : b_end, b_end);
    return c;
}

static enum pub_rel_op parse_op(const char *s, size_t *len)
{
    static const struct {
        const char *s;
        enum pub_rel_op op;
    } t[] = { { "<<", PUB_LT }, { "<=", PUB_LE }, { ">=", PUB_GE },
              { ">>", PUB_GT }, { "=", PUB_EQ },  { "<", PUB_LE },
              { ">", PUB_GE } };
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++)
        if (pub_starts(s, t[i].s)) {
            *len = strlen(t[i].s);
            return t[i].op;
        }
    *len = 0;
    return PUB_ANY;
}

/* One alternative, NUL-terminated, changed in place. */
static bool parse_rel(char *s, struct pub_rel *rel)
{
    size_t n;
    char *p;

    s += strspn(s, " \t\n");
    n = strcspn(s, " \t\n(:[<");
    if (n == 0)
        return false;
    rel->name = s;
    rel->version = "";
    rel->op = PUB_ANY;
    p = strchr(s + n, '(');
    if (p) {
        p++;
        p += strspn(p, " \t\n");
        rel->op = parse_op(p, &n);
        p += n;
        p += strspn(p, " \t\n");
        n = strcspn(p, " \t\n)");
        if (rel->op == PUB_ANY || n == 0)
            return false;
        p[n] = 0;
        rel->version = p;
    }
    s[strcspn(s, " \t\n(:[<")] = 0;
    return true;
}

int pub_rels_parse(const char *field, struct pub_rels *out)
{
    struct pub_rel rel, *more;
    unsigned clause = 0;
    char *p, end;

    memset(out, 0, sizeof(*out));
    if (!field)
        return 0;
    out->buf = strdup(field);
    if (!out->buf)
        return -ENOMEM;
    for (p = out->buf;; clause += end == ',') {
        char *s = p;

        p += strcspn(p, ",|");
        end = *p;
        *p++ = 0;
        rel.clause = clause;
        if (parse_rel(s, &rel)) {
            more = pub_room(out->v, out->n, &out->cap, sizeof(*more));
            if (!more) {
                pub_rels_fini(out);
                return -ENOMEM;
            }
            out->v = more;
            more[out->n++] = rel;
        }
        if (!end)
            return 0;
    }
}

void pub_rels_fini(struct pub_rels *rels)
{
    free(rels->v);
    free(rels->buf);
    memset(rels, 0, sizeof(*rels));
}

bool pub_rel_holds(const struct pub_rel *rel, const char *version)
{
    int c;

    if (rel->op == PUB_ANY)
        return true;
    c = pub_version_cmp(version, rel->version);
    switch (rel->op) {
    case PUB_LT:
        return c < 0;
    case PUB_LE:
        return c <= 0;
    case PUB_EQ:
        return c == 0;
    case PUB_GE:
        return c >= 0;
    default:
        return c > 0;
    }
}
