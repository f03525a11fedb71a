// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "bs/bytes.h"
#include "compare.h"
#include "util.h"

/* ELF64, little endian: offsets of what we look at. */
enum {
    EH_SHOFF = 40, EH_SHENTSIZE = 58, EH_SHNUM = 60, EH_SHSTRNDX = 62,
    EH_BYTES = 64,
    SH_NAME = 0, SH_TYPE = 4, SH_OFFSET = 24, SH_SIZE = 32, SH_BYTES = 64,
    SHT_NOBITS_TYPE = 8,
    MAX_STRTAB = 1 << 20, MAX_RANGES = 4,
    PYC_HEADER = 16, PYC_STAMP = 8,
    CHUNK = 64 << 10,
};

struct range {
    uint64_t off, end;
};

struct ranges {
    struct range v[MAX_RANGES];
    unsigned n;
};

static bool is_note(const char *name)
{
    return strcmp(name, ".note.gnu.build-id") == 0 ||
           strcmp(name, ".gnu_debuglink") == 0 ||
           strcmp(name, ".gnu_debugaltlink") == 0;
}

/* Gives no range for what is not such an ELF file, or is damaged. */
static int find_notes(const struct pub_tree *t, const struct pub_inode *in,
                      struct ranges *out)
{
    static const uint8_t magic[] = { 0x7f, 'E', 'L', 'F', 2, 1 };
    uint64_t size = in->node.size_bytes, shoff, off, len;
    uint8_t eh[EH_BYTES], sh[SH_BYTES];
    unsigned i, n, str;
    char *names = NULL;
    int r;

    out->n = 0;
    if (size < EH_BYTES)
        return 0;
    r = pub_tree_read(t, in, 0, eh, sizeof(eh));
    if (r < 0 || memcmp(eh, magic, sizeof(magic)) != 0)
        return r;
    shoff = bs_get_le64(eh + EH_SHOFF);
    n = bs_get_le16(eh + EH_SHNUM);
    str = bs_get_le16(eh + EH_SHSTRNDX);
    if (bs_get_le16(eh + EH_SHENTSIZE) != SH_BYTES || str >= n ||
        shoff > size || size - shoff < (uint64_t)n * SH_BYTES)
        return 0;
    r = pub_tree_read(t, in, shoff + (uint64_t)str * SH_BYTES, sh, SH_BYTES);
    if (r < 0)
        return r;
    off = bs_get_le64(sh + SH_OFFSET);
    len = bs_get_le64(sh + SH_SIZE);
    if (len > MAX_STRTAB || off > size || size - off < len)
        return 0;
    names = calloc(1, len + 1);
    if (!names)
        return -ENOMEM;
    r = pub_tree_read(t, in, off, names, len);
    for (i = 0; i < n && r == 0 && out->n < MAX_RANGES; i++) {
        uint32_t name;

        r = pub_tree_read(t, in, shoff + (uint64_t)i * SH_BYTES, sh, SH_BYTES);
        name = bs_get_le32(sh + SH_NAME);
        if (r < 0 || name >= len || !is_note(names + name) ||
            bs_get_le32(sh + SH_TYPE) == SHT_NOBITS_TYPE)
            continue;
        out->v[out->n].off = bs_get_le64(sh + SH_OFFSET);
        out->v[out->n].end = out->v[out->n].off + bs_get_le64(sh + SH_SIZE);
        if (out->v[out->n].end >= out->v[out->n].off &&
            out->v[out->n].end <= size)
            out->n++;
    }
    free(names);
    return r;
}

/* Zeros what ranges cover of the n bytes at off. */
static void mask(const struct ranges *m, uint64_t off, uint8_t *buf, size_t n)
{
    unsigned i;

    for (i = 0; i < m->n; i++) {
        uint64_t a = m->v[i].off > off ? m->v[i].off : off;
        uint64_t b = m->v[i].end < off + n ? m->v[i].end : off + n;

        if (a < b)
            memset(buf + (a - off), 0, b - a);
    }
}

static int same_but(const struct pub_tree *a, const struct pub_inode *x,
                    const struct pub_tree *b, const struct pub_inode *y,
                    const struct ranges *m, bool *same)
{
    uint8_t *p = malloc(CHUNK), *q = malloc(CHUNK);
    uint64_t off, n, size = x->node.size_bytes;
    int r = -ENOMEM;

    if (!p || !q)
        goto out;
    r = 0;
    *same = true;
    for (off = 0; off < size && *same; off += n) {
        n = size - off < CHUNK ? size - off : CHUNK;
        r = pub_tree_read(a, x, off, p, n);
        if (r == 0)
            r = pub_tree_read(b, y, off, q, n);
        if (r < 0)
            goto out;
        mask(m, off, p, n);
        mask(m, off, q, n);
        *same = memcmp(p, q, n) == 0;
    }
out:
    free(p);
    free(q);
    return r;
}

int pub_is_elf_noise(const struct pub_tree *a, const struct pub_inode *x,
                     const struct pub_tree *b, const struct pub_inode *y,
                     bool *noise)
{
    struct ranges m, k;
    int r;

    *noise = false;
    if (x->node.size_bytes != y->node.size_bytes)
        return 0;
    memset(&m, 0, sizeof(m));
    memset(&k, 0, sizeof(k));
    r = find_notes(a, x, &m);
    if (r == 0)
        r = find_notes(b, y, &k);
    if (r < 0 || m.n == 0 || m.n != k.n ||
        memcmp(m.v, k.v, m.n * sizeof(m.v[0])) != 0)
        return r;
    return same_but(a, x, b, y, &m, noise);
}

int pub_is_pyc_noise(const struct pub_tree *a, const struct pub_inode *x,
                     const struct pub_tree *b, const struct pub_inode *y,
                     bool *noise)
{
    struct ranges m = { .v = { { PYC_STAMP, PYC_HEADER } }, .n = 1 };
    uint8_t head[PYC_HEADER];
    int r;

    *noise = false;
    if (x->node.size_bytes != y->node.size_bytes ||
        x->node.size_bytes < PYC_HEADER)
        return 0;
    r = pub_tree_read(a, x, 0, head, sizeof(head));
    /* Flags other than 0: checked by hash, so there is no time stamp. */
    if (r < 0 || bs_get_le32(head + 4) != 0)
        return r;
    return same_but(a, x, b, y, &m, noise);
}

char *pub_pyc_source(const char *path)
{
    static const char dir[] = "/__pycache__/";
    const char *base = pub_base(path), *tag;
    size_t n = (size_t)(base - path);
    char *s;

    if (!pub_ends(path, ".pyc") || n < sizeof(dir) - 1 ||
        memcmp(base - (sizeof(dir) - 1), dir, sizeof(dir) - 1) != 0)
        return NULL;
    tag = strchr(base, '.');
    if (!tag || tag[1] == 0 || strcmp(tag, ".pyc") == 0)
        return NULL;
    n -= sizeof(dir) - 1;
    if (asprintf(&s, "%.*s/%.*s.py", (int)n, path, (int)(tag - base), base) < 0)
        return NULL;
    return s;
}
