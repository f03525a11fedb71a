// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "hv-prom.h"

static void put(struct hv_prom *p, const char *s, size_t n)
{
    size_t cap;
    char *more;

    if (p->failed)
        return;
    if (n >= p->cap - p->len) {
        cap = (p->len + n + 1) * 2;
        more = realloc(p->text, cap);
        if (!more) {
            p->failed = true;
            return;
        }
        p->text = more;
        p->cap = cap;
    }
    memcpy(p->text + p->len, s, n);
    p->len += n;
    p->text[p->len] = '\0';
}

static void put_text(struct hv_prom *p, const char *s)
{
    put(p, s, strlen(s));
}

static bool is_utf8(const char *s)
{
    json_t *j = json_string(s);

    json_decref(j);
    return j != NULL;
}

static void put_escaped(struct hv_prom *p, const char *s, bool quotes)
{
    bool utf8 = is_utf8(s);

    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '\\')
            put_text(p, "\\\\");
        else if (c == '\n')
            put_text(p, "\\n");
        else if (c == '"' && quotes)
            put_text(p, "\\\"");
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
            put_text(p, "?");
        else
            put(p, s, 1);
    }
}

void hv_prom_family(struct hv_prom *p, const char *name, const char *type,
                    const char *help)
{
    put_text(p, "# HELP ");
    put_text(p, name);
    put_text(p, " ");
    put_escaped(p, help, false);
    put_text(p, "\n# TYPE ");
    put_text(p, name);
    put_text(p, " ");
    put_text(p, type);
    put_text(p, "\n");
}

static void put_head(struct hv_prom *p, const char *name,
                     const char *const *labels)
{
    size_t i;

    put_text(p, name);
    for (i = 0; labels[i]; i += 2) {
        put_text(p, i ? "," : "{");
        put_text(p, labels[i]);
        put_text(p, "=\"");
        put_escaped(p, labels[i + 1], true);
        put_text(p, "\"");
    }
    put_text(p, i ? "} " : " ");
}

void hv_prom_sample(struct hv_prom *p, const char *name,
                    const char *const *labels, uint64_t value)
{
    char text[32];

    put_head(p, name, labels);
    snprintf(text, sizeof(text), "%" PRIu64 "\n", value);
    put_text(p, text);
}

void hv_prom_sample_ns(struct hv_prom *p, const char *name,
                       const char *const *labels, uint64_t ns)
{
    char text[48];

    put_head(p, name, labels);
    snprintf(text, sizeof(text), "%" PRIu64 ".%09" PRIu64 "\n",
             ns / 1000000000u, ns % 1000000000u);
    put_text(p, text);
}

void hv_prom_fini(struct hv_prom *p)
{
    free(p->text);
    memset(p, 0, sizeof(*p));
}

/* ---- several documents ----------------------------------------------------- */

struct family {
    char *name;
    struct hv_prom head; /* HELP and TYPE, of the first that had it */
    struct hv_prom samples;
};

struct hv_prom_merge {
    struct family *families;
    size_t n;
};

/* A document is looked at twice: checked as a whole, then taken. */
struct reader {
    const char *p, *end;
    size_t line;
};

static bool next_line(struct reader *r, const char **line, size_t *len)
{
    const char *nl;

    if (r->p == r->end)
        return false;
    nl = memchr(r->p, '\n', (size_t)(r->end - r->p));
    *line = r->p;
    *len = nl ? (size_t)(nl - r->p) : (size_t)(r->end - r->p);
    r->p = nl ? nl + 1 : r->end;
    r->line++;
    return true;
}

static bool is_name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == ':' || (!first && c >= '0' && c <= '9');
}

static size_t name_len(const char *s, size_t len)
{
    size_t n = 0;

    while (n < len && is_name_char(s[n], n == 0))
        n++;
    return n;
}

/* {a="b",c="d"} at s: its length, or 0 when it is none. */
static size_t labels_len(const char *s, size_t len)
{
    size_t at = 1, n;

    for (;;) {
        n = name_len(s + at, len - at);
        at += n;
        if (n == 0 || len - at < 2 || s[at] != '=' || s[at + 1] != '"')
            return 0;
        for (at += 2; at < len && s[at] != '"'; at++) {
            if (s[at] != '\\')
                continue;
            at++;
            if (at == len || !strchr("\\\"n", s[at]) || !s[at])
                return 0;
        }
        if (len - at < 2)
            return 0;
        at++;
        if (s[at] == '}')
            return at + 1;
        if (s[at++] != ',')
            return 0;
        if (at < len && s[at] == '}') /* a last comma is allowed */
            return at + 1;
    }
}

/* Blanks, a number, and nothing more but perhaps a time stamp. */
static bool is_value(const char *s, size_t len)
{
    char text[64], *end;
    double d;

    if (len < 2 || len >= sizeof(text) || s[0] != ' ')
        return false;
    memcpy(text, s + 1, len - 1);
    text[len - 1] = '\0';
    if (strlen(text) != len - 1 || text[0] == ' ')
        return false;
    d = strtod(text, &end); /* knows +Inf and NaN */
    (void)d;
    if (end == text)
        return false;
    return !*end || (*end == ' ' && end[1] &&
                     strspn(end + 1, "-0123456789") == strlen(end + 1));
}

/* Does a sample of this name belong to the family? */
static bool is_of(const char *family, size_t family_len, const char *name,
                  size_t len)
{
    static const char *const suffixes[] = { "", "_bucket", "_sum", "_count" };
    size_t i;

    if (len < family_len || memcmp(family, name, family_len) != 0)
        return false;
    for (i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
        if (strlen(suffixes[i]) == len - family_len &&
            memcmp(suffixes[i], name + family_len, len - family_len) == 0)
            return true;
    return false;
}

static struct family *find(struct hv_prom_merge *m, const char *name, size_t len)
{
    struct family *more;
    size_t i;

    for (i = 0; i < m->n; i++)
        if (strlen(m->families[i].name) == len &&
            memcmp(m->families[i].name, name, len) == 0)
            return &m->families[i];
    more = reallocarray(m->families, m->n + 1, sizeof(*more));
    if (!more)
        return NULL;
    m->families = more;
    memset(&more[m->n], 0, sizeof(*more));
    more[m->n].name = strndup(name, len);
    return more[m->n].name ? &more[m->n++] : NULL;
}

static bool is_type(const char *s, size_t len)
{
    static const char *const types[] = { "counter", "gauge", "histogram",
                                         "summary", "untyped" };
    size_t i;

    for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strlen(types[i]) == len && memcmp(types[i], s, len) == 0)
            return true;
    return false;
}

enum kind { K_OTHER, K_HELP, K_TYPE, K_SAMPLE, K_BAD };

static enum kind kind_of(const char *line, size_t len, const char **name,
                         size_t *n)
{
    size_t rest, labels = 0;
    enum kind k;

    if (len == 0)
        return K_OTHER;
    if (line[0] == '#') {
        if (len < 7 || (memcmp(line, "# HELP ", 7) != 0 &&
                        memcmp(line, "# TYPE ", 7) != 0))
            return K_OTHER;
        k = line[2] == 'H' ? K_HELP : K_TYPE;
        *name = line + 7;
        *n = name_len(*name, len - 7);
        rest = 7 + *n;
        if (*n == 0 || len <= rest || line[rest] != ' ')
            return K_BAD;
        if (k == K_TYPE && !is_type(line + rest + 1, len - rest - 1))
            return K_BAD;
        return k;
    }
    *name = line;
    *n = name_len(line, len);
    rest = len - *n;
    if (*n == 0 || rest == 0)
        return K_BAD;
    if (line[*n] == '{') {
        labels = labels_len(line + *n, rest);
        if (labels == 0)
            return K_BAD;
    }
    return is_value(line + *n + labels, rest - labels) ? K_SAMPLE : K_BAD;
}

/* With m NULL only looks. */
static int take(struct hv_prom_merge *m, const char *text, size_t len,
                struct bs_err *err)
{
    struct reader r = { text, text + len, 0 };
    const char *line, *name, *family = NULL;
    size_t line_len, n, family_len = 0;
    struct family *f = NULL;
    struct hv_prom *to;
    bool fresh = false;
    enum kind k;

    if (len > 0 && text[len - 1] != '\n')
        return bs_fail(err, EPROTO, "metrics: the last line is cut short");
    while (next_line(&r, &line, &line_len)) {
        k = kind_of(line, line_len, &name, &n);
        if (k == K_BAD ||
            (k == K_SAMPLE && !(family && is_of(family, family_len, name, n))))
            return bs_fail(err, EPROTO, "metrics: line %zu is none of the text "
                           "format", r.line);
        if (k == K_OTHER)
            continue;
        if (k != K_SAMPLE &&
            (!family || n != family_len || memcmp(name, family, n) != 0)) {
            family = name;
            family_len = n;
            f = m ? find(m, name, n) : NULL;
            if (m && !f)
                return bs_fail(err, ENOMEM, "no memory");
            fresh = f && f->head.len == 0;
        }
        if (!f || (k != K_SAMPLE && !fresh))
            continue;
        to = k == K_SAMPLE ? &f->samples : &f->head;
        put(to, line, line_len);
        put(to, "\n", 1);
    }
    return 0;
}

int hv_prom_merge_new(struct hv_prom_merge **out)
{
    *out = calloc(1, sizeof(**out));
    return *out ? 0 : -ENOMEM;
}

void hv_prom_merge_free(struct hv_prom_merge *m)
{
    size_t i;

    if (!m)
        return;
    for (i = 0; i < m->n; i++) {
        free(m->families[i].name);
        hv_prom_fini(&m->families[i].head);
        hv_prom_fini(&m->families[i].samples);
    }
    free(m->families);
    free(m);
}

int hv_prom_merge_add(struct hv_prom_merge *m, const char *text, size_t len,
                      struct bs_err *err)
{
    int r = take(NULL, text, len, err);

    return r < 0 ? r : take(m, text, len, err);
}

int hv_prom_merge_text(const struct hv_prom_merge *m, char **text, size_t *len)
{
    struct hv_prom all = { 0 };
    bool failed = false;
    size_t i;

    put(&all, "", 0);
    for (i = 0; i < m->n; i++) {
        const struct family *f = &m->families[i];

        failed = failed || f->head.failed || f->samples.failed;
        put(&all, f->head.text ? f->head.text : "", f->head.len);
        put(&all, f->samples.text ? f->samples.text : "", f->samples.len);
    }
    if (failed || all.failed) {
        hv_prom_fini(&all);
        return -ENOMEM;
    }
    *text = all.text;
    *len = all.len;
    return 0;
}
