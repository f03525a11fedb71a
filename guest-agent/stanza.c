// SPDX-License-Identifier: GPL-2.0-or-later
/* stanza.c: paragraphs of a package database (deb822 form), as bytes.  Pure.
 * Paragraphs are separated by empty lines; a line that begins with a blank
 * goes on the line before.  Bytes of paragraphs that are not asked for are
 * never changed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "impl.h"

static size_t line_len(const char *p, size_t len)
{
    const char *nl = memchr(p, '\n', len);

    return nl ? (size_t)(nl - p) + 1 : len;
}

static bool is_blank(const char *p, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\n' && p[i] != '\r')
            return false;
    return true;
}

/* The next paragraph at or after *off. */
static bool next_paragraph(const char *text, size_t len, size_t *off,
                           struct agent_par *out)
{
    size_t at = *off, n;

    while (at < len && is_blank(text + at, n = line_len(text + at, len - at)))
        at += n;
    if (at >= len)
        return false;
    out->off = at;
    while (at < len && !is_blank(text + at, n = line_len(text + at, len - at)))
        at += n;
    out->len = at - out->off;
    *off = at;
    return true;
}

static void trim(const char **p, size_t *n)
{
    while (*n > 0 && is_blank(*p, 1)) {
        ++*p;
        --*n;
    }
    while (*n > 0 && is_blank(*p + *n - 1, 1))
        --*n;
}

/* The value of a field's first line, lent. */
static bool find_field(const char *text, size_t len, const char *field,
                       const char **value, size_t *value_len)
{
    size_t at, n, want = strlen(field);

    for (at = 0; at < len; at += n) {
        n = line_len(text + at, len - at);
        if (n <= want || text[at + want] != ':' ||
            strncasecmp(text + at, field, want) != 0)
            continue;
        *value = text + at + want + 1;
        *value_len = n - want - 1;
        trim(value, value_len);
        return true;
    }
    return false;
}

bool agent_par_field(const char *text, size_t len, const char *field, char *out,
                     size_t cap)
{
    const char *p;
    size_t n;

    out[0] = 0;
    if (!find_field(text, len, field, &p, &n))
        return false;
    if (n >= cap)
        n = cap - 1;
    memcpy(out, p, n);
    out[n] = 0;
    return true;
}

static bool field_is(const char *text, size_t len, const char *field,
                     const char *value, size_t value_len)
{
    const char *p;
    size_t n;

    return find_field(text, len, field, &p, &n) && n == value_len &&
           memcmp(p, value, n) == 0;
}

/* The paragraph around a line that is known not to be empty. */
static struct agent_par paragraph_at(const char *text, size_t len, size_t at)
{
    struct agent_par par;
    size_t start, n;

    for (par.off = at; par.off > 0; par.off = start) {
        for (start = par.off - 1; start > 0 && text[start - 1] != '\n'; start--)
            ;
        if (is_blank(text + start, par.off - start))
            break;
    }
    while (at < len && !is_blank(text + at, n = line_len(text + at, len - at)))
        at += n;
    par.len = at - par.off;
    return par;
}

static bool arch_is(const char *par, size_t len, const char *arch)
{
    return !arch[0] || field_is(par, len, "Architecture", arch, strlen(arch));
}

/* Databases are large and written in one way: so first as they are written. */
static bool find_as_written(const char *text, size_t len, const char *package,
                            const char *arch, struct agent_par *out)
{
    char want[300] = "Package: ";
    const char *p = text, *hit;
    struct agent_par par;
    size_t n = strlen(package);

    if (n > sizeof(want) - 12)
        return false;
    strcat(want, package);
    strcat(want, "\n");
    n = strlen(want);
    while ((hit = memmem(p, len - (size_t)(p - text), want, n))) {
        p = hit + n;
        if (hit > text && hit[-1] != '\n')
            continue;
        par = paragraph_at(text, len, (size_t)(hit - text));
        if (!arch_is(text + par.off, par.len, arch))
            continue;
        *out = par;
        return true;
    }
    return false;
}

bool agent_par_find(const char *text, size_t len, const char *package,
                    const char *arch, struct agent_par *out)
{
    struct agent_par par;
    size_t off = 0;

    if (find_as_written(text, len, package, arch, out))
        return true;
    while (next_paragraph(text, len, &off, &par)) {
        if (!field_is(text + par.off, par.len, "Package", package,
                      strlen(package)) ||
            !arch_is(text + par.off, par.len, arch))
            continue;
        *out = par;
        return true;
    }
    return false;
}

/* A package may change its architecture (amd64 to all): so by each name that
 * the message knows. */
static bool find_any(const char *text, size_t len, const struct wire_msg_stanza *m,
                     struct agent_par *out)
{
    const char *side[2] = { m->from, m->to };
    char arch[256];
    unsigned i;

    if (agent_par_find(text, len, m->package, m->arch, out))
        return true;
    for (i = 0; i < 2; i++)
        if (agent_par_field(side[i], strlen(side[i]), "Architecture", arch,
                            sizeof(arch)) &&
            strcmp(arch, m->arch) != 0 &&
            agent_par_find(text, len, m->package, arch, out))
            return true;
    return false;
}

static bool same_text(const char *x, size_t x_len, const char *y, size_t y_len)
{
    trim(&x, &x_len);
    trim(&y, &y_len);
    return x_len == y_len && memcmp(x, y, x_len) == 0;
}

static bool same_version(const char *par, size_t par_len, const char *side)
{
    static const char *const fields[] = { "Version", "Status" };
    size_t i, n, n2, side_len = strlen(side);
    const char *p, *q;

    for (i = 0; i < N_ELEMS(fields); i++) {
        bool has = find_field(par, par_len, fields[i], &p, &n);

        if (has != find_field(side, side_len, fields[i], &q, &n2))
            return false;
        if (has && (n != n2 || memcmp(p, q, n) != 0))
            return false;
    }
    return true;
}

enum wire_match agent_par_match(const char *text, size_t len,
                                const struct wire_msg_stanza *m, char *version,
                                size_t cap)
{
    struct agent_par par;

    version[0] = 0;
    if (!find_any(text, len, m, &par)) {
        if (!m->from[0])
            return WIRE_IS_FROM;
        return m->to[0] ? WIRE_IS_OTHER : WIRE_IS_TO;
    }
    text += par.off;
    agent_par_field(text, par.len, "Version", version, cap);
    if (m->to[0] && same_text(text, par.len, m->to, strlen(m->to)))
        return WIRE_IS_TO;
    if (m->from[0] && same_version(text, par.len, m->from))
        return WIRE_IS_FROM;
    if (m->to[0] && same_version(text, par.len, m->to))
        return WIRE_IS_TO;
    return WIRE_IS_OTHER;
}

static void put(char *out, size_t *at, const char *p, size_t n)
{
    memcpy(out + *at, p, n);
    *at += n;
}

int agent_par_merge(const char *text, size_t len, const struct wire_msg_stanza *m,
                    char **out, size_t *out_len)
{
    size_t to_len = strlen(m->to), at = 0, end;
    const char *to = m->to;
    struct agent_par par;
    char *buf;

    trim(&to, &to_len);
    buf = malloc(len + to_len + 4);
    if (!buf)
        return -ENOMEM;
    if (find_any(text, len, m, &par)) {
        end = par.off + par.len;
        put(buf, &at, text, par.off);
        if (to_len > 0) {
            put(buf, &at, to, to_len);
            put(buf, &at, "\n", 1);
        } else {
            /* with the empty lines that ended it */
            while (end < len &&
                   is_blank(text + end, line_len(text + end, len - end)))
                end += line_len(text + end, len - end);
        }
        put(buf, &at, text + end, len - end);
    } else {
        put(buf, &at, text, len);
        if (to_len > 0) {
            if (at > 0 && buf[at - 1] != '\n')
                put(buf, &at, "\n", 1);
            if (at > 1 && buf[at - 2] != '\n')
                put(buf, &at, "\n", 1);
            put(buf, &at, to, to_len);
            put(buf, &at, "\n\n", 2);
        }
    }
    *out = buf;
    *out_len = at;
    return 0;
}
