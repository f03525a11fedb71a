// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <blkid/blkid.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "partition.h"
#include "util.h"

enum { EXT_SB_OFF = 1024, EXT_MAGIC_OFF = EXT_SB_OFF + 56, EXT_MAGIC = 0xef53 };

/* Names what lies at p->off.  A file system that is not known is no error. */
static int name_type(int fd, struct pub_partition *p)
{
    const char *type = NULL;
    uint8_t magic[2];
    blkid_probe pr;

    if (p->bytes >= EXT_SB_OFF * 2 &&
        pread(fd, magic, 2, (off_t)(p->off + EXT_MAGIC_OFF)) == 2)
        p->is_ext = bs_get_le16(magic) == EXT_MAGIC;
    pr = blkid_new_probe();
    if (!pr)
        return -ENOMEM;
    blkid_probe_enable_partitions(pr, 0);
    blkid_probe_enable_superblocks(pr, 1);
    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE);
    if (blkid_probe_set_device(pr, fd, (blkid_loff_t)p->off,
                               (blkid_loff_t)p->bytes) == 0 &&
        blkid_do_safeprobe(pr) == 0 &&
        blkid_probe_lookup_value(pr, "TYPE", &type, NULL) == 0 && type)
        snprintf(p->type, sizeof(p->type), "%s", type);
    blkid_free_probe(pr);
    return 0;
}

/* Appends the partitions that hold something.  Sector sizes of 512 and 4096
 * bytes are tried, since a file has none of its own. */
static int list_table(int fd, uint64_t size, unsigned sector,
                      struct pub_partition **out, size_t *n)
{
    struct pub_partition *v = NULL, *more, p;
    size_t n_v = 0, cap = 0;
    blkid_partlist list;
    blkid_probe pr;
    int r = -ENOMEM, i, n_parts;

    pr = blkid_new_probe();
    if (!pr)
        goto out;
    blkid_probe_enable_superblocks(pr, 0);
    blkid_probe_enable_partitions(pr, 1);
    r = 0;
    if (blkid_probe_set_device(pr, fd, 0, (blkid_loff_t)size) != 0 ||
        blkid_probe_set_sectorsize(pr, sector) != 0 ||
        blkid_do_safeprobe(pr) != 0)
        goto out;
    list = blkid_probe_get_partitions(pr);
    n_parts = list ? blkid_partlist_numof_partitions(list) : 0;
    for (i = 0; i < n_parts; i++) {
        blkid_partition part = blkid_partlist_get_partition(list, i);
        uint64_t start = (uint64_t)blkid_partition_get_start(part);
        uint64_t count = (uint64_t)blkid_partition_get_size(part);

        memset(&p, 0, sizeof(p));
        /* libblkid counts in 512 bytes, whatever the sector is. */
        if (bs_mul(&p.off, start, 512) || bs_mul(&p.bytes, count, 512) ||
            !bs_within(p.off, p.bytes, size) ||
            blkid_partition_is_extended(part))
            continue;
        p.number = blkid_partition_get_partno(part);
        r = name_type(fd, &p);
        if (r < 0)
            goto out;
        r = -ENOMEM;
        more = pub_room(v, n_v, &cap, sizeof(*v));
        if (!more)
            goto out;
        v = more;
        v[n_v++] = p;
        r = 0;
    }
    *out = v;
    *n = n_v;
    v = NULL;
out:
    free(v);
    blkid_free_probe(pr);
    return r;
}

int pub_partition_list(int fd, struct pub_partition **out, size_t *n,
                       struct bs_err *err)
{
    static const unsigned sectors[] = { 512, 4096 };
    struct pub_partition whole = { 0 }, *v = NULL;
    size_t n_v = 0, i;
    struct stat st;
    int r;

    if (fstat(fd, &st) != 0)
        return bs_fail_errno(err, errno, "image: cannot stat");
    whole.bytes = (uint64_t)st.st_size;
    r = name_type(fd, &whole);
    if (r < 0)
        return bs_fail(err, ENOMEM, "image: out of memory");
    /* A partition table may follow a stale superblock in its gap, but a file
     * system of the whole image has no table: bytes 0-1023 of ext are free
     * for a boot sector, so look at the superblock first. */
    if (whole.type[0] || whole.is_ext) {
        v = malloc(sizeof(*v));
        if (!v)
            return bs_fail(err, ENOMEM, "image: out of memory");
        *v = whole;
        *out = v;
        *n = 1;
        return 0;
    }
    for (i = 0; i < N_ELEMS(sectors) && n_v == 0; i++) {
        free(v);
        v = NULL;
        r = list_table(fd, whole.bytes, sectors[i], &v, &n_v);
        if (r < 0)
            return bs_fail(err, -r, "image: cannot read the partition table");
    }
    if (n_v == 0) {
        free(v);
        return bs_fail(err, ENOTSUP,
                       "image: neither a file system nor a partition table");
    }
    *out = v;
    *n = n_v;
    return 0;
}
