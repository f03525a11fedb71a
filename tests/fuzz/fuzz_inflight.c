/* fuzz: hvxen */
// SPDX-License-Identifier: GPL-2.0-or-later
/* An inflight log of any content, adopted: refused, or each entry is answered
 * once.  The input patches a good log: where (2 bytes), what (1); so that it
 * reaches what lies behind the header's checksum, which is then made right. */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#include "bs/crc32c.h"
#include "bs/log.h"
#include "inflight.h"
#include "unit/hv-xen/front.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { HDR = 4096, ENT = 2112, ALL = HDR + 64 + 32 * ENT };

static struct guest g;
static struct front f;
static uint8_t good[ALL], image[ALL];

static void make_good(void)
{
    static struct hv_blkback_ring_params p;
    struct hv_blkback_conn conn = { .domid = 3, .devid = 51712, .n_rings = 1,
                                    .rings = &p, .sector_bytes = 512 };
    static struct hv_blkif_req req;
    struct hv_inflight *log;
    struct bs_err err;
    uint32_t start = 0;
    int fd;

    p.refs[0] = f.ref0;
    must(hv_inflight_create(log_name(), &conn, &start, NULL, &log, &err) == 0);
    for (unsigned i = 0; i < 4; i++) {
        req.op = req.rsp_op = (uint8_t)i;
        req.n_segs = 1;
        req.segs[0] = (struct hv_blkif_seg){ REF0, 0, 7 };
        hv_inflight_take(log, 0, i, i, &req, i == 3 ? HV_BLKIF_ERROR : HV_BLKIF_OKAY);
    }
    hv_inflight_answer(log, 0, 1, 0);
    hv_inflight_pushing(log, 0, 1);
    hv_inflight_close(log);
    fd = open(log_name(), O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && read(fd, good, ALL) == ALL);
    close(fd);
}

static void adopt_and_drain(uint32_t shared)
{
    struct hv_blkback_config config = fake_config(&g, log_name());
    struct hv_blkback_stats s;
    struct hv_blkback *b;
    struct bs_err err;
    int r;

    config.max_persistent = 2;
    must(hv_blkback_new(&config, &b, &err) == 0);
    r = connect_fronts(b, &f, 1, true, 512, true, &err);
    must(r == 0 || r == -EBADMSG || r == -ENOTSUP || r == -ESTALE || r == -EPROTO);
    if (r == 0) {
        process_all(b);
        hv_blkback_stats(b, &s);
        /* What is not in the log is taken from the ring. */
        must(s.inflight == 0 && s.redone <= 32 && s.consumed - s.redone <= 4);
        must(*ring_word(&f, RSP_PROD) == shared + s.answered);
    }
    hv_blkback_disconnect(b);
    hv_blkback_free(b);
    must(atomic_load(&g.shared->n_pages_mapped) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint32_t shared, at;
    int fd;

    if (!g.mem) {
        guest_init(&g, 16, 64 << 10);
        new_page(&g);
        front_init(&f, &g, HV_BLKIF_X86_64, 0, 0, 0);
        bs_log_set_level(BS_LOG_ERR);
        make_good();
    }
    if (len < 1)
        return 0;
    memcpy(image, good, ALL);
    shared = data[0] & 1;
    for (size_t i = 1; i + 3 <= len; i += 3) {
        /* The first entries and the header are where it matters. */
        at = bs_get_le16(data + i);
        if (at < ALL)
            image[at] = data[i + 2];
    }
    if (data[0] & 2)
        bs_put_le32(image + 4092, bs_crc32c(0, image, 4092));
    fd = open(log_name(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, image, data[0] & 4 ? ALL - data[0] : ALL) > 0);
    close(fd);
    *ring_word(&f, RSP_PROD) = shared;
    *ring_word(&f, REQ_PROD) = shared + (shared ? 3 : 4);
    adopt_and_drain(shared);
    return 0;
}
