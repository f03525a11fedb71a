/* fuzz: agent */
// SPDX-License-Identifier: GPL-2.0-or-later
/* The bytes of a journal. Numbers and checksums of frames are put right first,
 * so that what the frames hold is reached. */
#include <stdlib.h>
#include <string.h>

#include "impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void put_right(uint8_t *buf, size_t len)
{
    struct wire_frame f;
    size_t off = 0;
    uint32_t seq = 0;

    while (len - off >= WIRE_HEADER_BYTES && wire_frame_decode(buf + off, &f) &&
           f.len <= len - off - WIRE_HEADER_BYTES) {
        wire_frame_encode(buf + off, f.type, seq++, buf + off + WIRE_HEADER_BYTES,
                          f.len);
        off += WIRE_HEADER_BYTES + f.len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct agent_journal_info info;
    struct agent_err err;
    struct agent_job job;
    uint8_t *buf;

    buf = malloc(len ? len : 1);
    if (!buf)
        abort();
    memcpy(buf, data, len);
    put_right(buf, len);
    agent_job_init(&job);
    agent_journal_decode(buf, len, &job, &info, &err);
    if (info.whole_bytes > len)
        __builtin_trap();
    agent_job_fini(&job);
    free(buf);
    return 0;
}
