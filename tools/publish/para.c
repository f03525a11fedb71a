// SPDX-License-Identifier: GPL-2.0-or-later
/* Paragraphs of "Field: value" lines: deb822(5). */
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#include "dpkg.h"
#include "util.h"

/* The line's length without its newline. */
static size_t line_len(const char *s)
{
    return strcspn(s, "\n");
}

char *pub_field(const char *para, const char *name)
{
    size_t n = strlen(name), len;
    const char *s, *v;

    for (s = para; *s; s += len + (s[len] != 0)) {
        len = line_len(s);
        if (len <= n || strncasecmp(s, name, n) != 0 || s[n] != ':')
            continue;
        v = s + n + 1;
        v += strspn(v, " \t");
        len = line_len(v);
        while (v[len] == '\n' && (v[len + 1] == ' ' || v[len + 1] == '\t'))
            len += 1 + line_len(v + len + 1);
        while (len > 0 && strchr(" \t\r", v[len - 1]))
            len--;
        return strndup(v, len);
    }
    return NULL;
}

static int cmp_para(const void *a, const void *b)
{
    const struct pub_para *x = a, *y = b;
    int c = strcmp(x->package, y->package);

    return c ? c : strcmp(x->arch, y->arch);
}

/* Adds the paragraph of len bytes at s. */
static int add_para(struct pub_paras *out, const char *s, size_t len,
                    const char *what, struct bs_err *err)
{
    struct pub_para *p;

    p = pub_room(out->v, out->n, &out->cap, sizeof(*p));
    if (!p)
        return -ENOMEM;
    out->v = p;
    p += out->n;
    memset(p, 0, sizeof(*p));
    p->text = malloc(len + 2);
    if (!p->text)
        return -ENOMEM;
    memcpy(p->text, s, len);
    p->text[len] = '\n';
    p->text[len + 1] = 0;
    p->package = pub_field(p->text, "Package");
    p->arch = pub_field(p->text, "Architecture");
    if (!p->arch)
        p->arch = strdup("");
    out->n++;
    if (!p->arch)
        return -ENOMEM;
    if (!p->package || !p->package[0] || strpbrk(p->package, "/ \n") ||
        strpbrk(p->arch, "/ \n") || !pub_text_ok(p->package) ||
        !pub_text_ok(p->arch))
        return bs_fail(err, EBADMSG, "%s: paragraph %zu names no package", what,
                       out->n);
    return 0;
}

int pub_paras_parse(const char *text, size_t len, const char *what,
                    struct pub_paras *out, struct bs_err *err)
{
    const char *s = text, *end = text + len;
    size_t i;
    int r;

    memset(out, 0, sizeof(*out));
    if (memchr(text, 0, len))
        return bs_fail(err, EBADMSG, "%s: not text", what);
    while (s < end) {
        const char *stop;

        if (*s == '\n') {
            s++;
            continue;
        }
        stop = memmem(s, (size_t)(end - s), "\n\n", 2);
        if (!stop)
            stop = end[-1] == '\n' ? end - 1 : end;
        r = add_para(out, s, (size_t)(stop - s), what, err);
        if (r < 0)
            goto fail;
        s = stop;
    }
    if (out->n > 0)
        qsort(out->v, out->n, sizeof(*out->v), cmp_para);
    for (i = 1; i < out->n; i++)
        if (cmp_para(&out->v[i - 1], &out->v[i]) == 0) {
            r = bs_fail(err, EBADMSG, "%s: %s stands there twice", what,
                        out->v[i].package);
            goto fail;
        }
    return 0;
fail:
    if (r == -ENOMEM)
        bs_fail_errno(err, ENOMEM, "%s", what);
    pub_paras_fini(out);
    return r;
}

void pub_paras_fini(struct pub_paras *paras)
{
    size_t i;

    for (i = 0; i < paras->n; i++) {
        free(paras->v[i].package);
        free(paras->v[i].arch);
        free(paras->v[i].text);
    }
    free(paras->v);
    memset(paras, 0, sizeof(*paras));
}
