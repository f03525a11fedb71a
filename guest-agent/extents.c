// SPDX-License-Identifier: GPL-2.0-or-later
/* extents.c: where on the disk a file lies, if that can be said at all.
 *
 * An offset from the disk's start is given only for a file system on a plain
 * partition or a whole disk; device mapper, md, loop and the like hide it, and
 * file systems other than ext4 and XFS number their blocks in their own way.
 * Whether it is the right disk only the host can tell (PROBE). */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "impl.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef ST_RDONLY
#define ST_RDONLY 1
#endif
#define SECT_BYTES 512u

static bool sys_has(dev_t dev, const char *what)
{
    char path[128];

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev),
             minor(dev), what);
    return access(path, F_OK) == 0;
}

/* Bytes before dev on its disk; UINT64_MAX: no plain partition or disk. */
static uint64_t partition_start(dev_t dev)
{
    char path[128];
    unsigned long long sect = 0;
    FILE *f;
    int n;

    if (!sys_has(dev, "dev") || sys_has(dev, "dm") || sys_has(dev, "md") ||
        sys_has(dev, "loop") || sys_has(dev, "bcache"))
        return UINT64_MAX;
    if (!sys_has(dev, "partition"))
        return 0;
    /* A partition of one of these: the disk is its folder's parent. */
    if (sys_has(dev, "../md") || sys_has(dev, "../loop") || sys_has(dev, "../dm"))
        return UINT64_MAX;
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/start", major(dev),
             minor(dev));
    f = fopen(path, "re");
    if (!f)
        return UINT64_MAX;
    n = fscanf(f, "%llu", &sect);
    fclose(f);
    if (n != 1 || sect > INT64_MAX / SECT_BYTES)
        return UINT64_MAX;
    return (uint64_t)sect * SECT_BYTES;
}

static bool has_line(const char *path, const char *start, const char *word)
{
    char *line = NULL;
    bool found = false;
    size_t cap = 0;
    FILE *f;

    f = fopen(path, "re");
    while (f && !found && getline(&line, &cap, f) > 0)
        found = strstr(line, start) && strstr(line, word);
    free(line);
    if (f)
        fclose(f);
    return found;
}

/* ext4 with data=journal may put old bytes back when it replays.  As a default
 * of the file system (tune2fs -o journal_data) it is no option of the mount;
 * ext4's own list has it either way. */
static bool journals_data(dev_t dev)
{
    char path[128], link[256], want[32];
    const char *name;
    ssize_t n;

    snprintf(want, sizeof(want), " %u:%u ", major(dev), minor(dev));
    if (has_line("/proc/self/mountinfo", want, "data=journal"))
        return true;
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
    n = readlink(path, link, sizeof(link) - 1);
    if (n <= 0)
        return false;
    link[n] = '\0';
    name = strrchr(link, '/');
    n = snprintf(path, sizeof(path), "/proc/fs/ext4/%.64s/options",
                 name ? name + 1 : link);
    return n < (ssize_t)sizeof(path) && has_line(path, "data=", "data=journal");
}

static struct agent_fs *cached(struct agent *a, dev_t dev)
{
    unsigned i;

    for (i = 0; i < a->n_fs; i++)
        if (a->fs[i].dev == dev)
            return &a->fs[i];
    return NULL;
}

int agent_fs_of(struct agent *a, int fd, struct agent_fs *out)
{
    struct agent_fs *known;
    struct statfs sfs;
    struct stat st;
    bool can;

    if (fstat(fd, &st) < 0)
        return -errno;
    known = cached(a, st.st_dev);
    if (known) {
        *out = *known;
        return 0;
    }
    memset(out, 0, sizeof(*out));
    if (fstatfs(fd, &sfs) < 0)
        return -errno;
    out->dev = st.st_dev;
    out->read_only = (sfs.f_flags & ST_RDONLY) != 0;
    out->start = partition_start(st.st_dev);
    can = ((unsigned long)sfs.f_type == EXT4_SUPER_MAGIC ||
           (unsigned long)sfs.f_type == XFS_SUPER_MAGIC) &&
          !journals_data(st.st_dev);
    out->extents = can && out->start != UINT64_MAX;
    out->token = can && !out->read_only && sfs.f_bsize == (long)AGENT_BLK &&
                 (out->start == UINT64_MAX || out->start % AGENT_BLK == 0);
    if (a->n_fs < AGENT_FS_CACHE)
        a->fs[a->n_fs++] = *out;
    return 0;
}

#define PLAIN_FLAGS (FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED)
#define ASK_EXTENTS 128u

static bool attributes_plain(int fd)
{
    const uint64_t odd = STATX_ATTR_COMPRESSED | STATX_ATTR_ENCRYPTED
#ifdef STATX_ATTR_VERITY
                         | STATX_ATTR_VERITY
#endif
#ifdef STATX_ATTR_DAX
                         | STATX_ATTR_DAX
#endif
        ;
    struct statx stx;
    int flags;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx) < 0 ||
        (stx.stx_attributes & odd))
        return false;
    return ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ||
           !(flags & (FS_JOURNAL_DATA_FL | FS_COMPR_FL));
}

int agent_extents(int fd, const struct agent_fs *fs, struct wire_msg_op_state *m)
{
    struct fiemap *map;
    uint64_t off = 0;
    bool last = false;
    uint32_t i;
    int r;

    m->n_extents = 0;
    if (!fs->extents || !attributes_plain(fd))
        return 0;
    map = malloc(sizeof(*map) + ASK_EXTENTS * sizeof(map->fm_extents[0]));
    if (!map)
        return -ENOMEM;
    r = 0;
    while (!last) {
        memset(map, 0, sizeof(*map));
        map->fm_start = off;
        map->fm_length = FIEMAP_MAX_OFFSET - off;
        map->fm_extent_count = ASK_EXTENTS;
        if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
            goto out;
        if (map->fm_mapped_extents == 0)
            break; /* all hole, or no more */
        for (i = 0; i < map->fm_mapped_extents; i++) {
            const struct fiemap_extent *e = &map->fm_extents[i];

            if ((e->fe_flags & ~(uint32_t)PLAIN_FLAGS) ||
                m->n_extents == WIRE_MAX_EXTENTS || e->fe_length == 0)
                goto out;
            m->extents[m->n_extents++] = (struct wire_extent){
                .file_off = e->fe_logical,
                .disk_off = fs->start + e->fe_physical,
                .bytes = e->fe_length,
            };
            off = e->fe_logical + e->fe_length;
            last = (e->fe_flags & FIEMAP_EXTENT_LAST) != 0;
        }
    }
    r = 1;
out:
    free(map);
    if (r != 1)
        m->n_extents = 0;
    return r;
}
