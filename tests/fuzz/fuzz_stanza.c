/* fuzz: agent */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Input: package, NUL, architecture, NUL, `from`, NUL, `to`, NUL, database. */
#include <stdlib.h>
#include <string.h>

#include "impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *next(char **p, char *end)
{
    char *s = *p, *nul = memchr(s, 0, (size_t)(end - s));

    *p = nul ? nul + 1 : end;
    return nul ? s : "";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct wire_msg_stanza m = { .file = "/f" };
    char *buf, *p, *end, *db, *out, version[64];
    size_t n, out_len;

    buf = malloc(len + 1);
    if (!buf)
        abort();
    memcpy(buf, data, len);
    buf[len] = 0;
    p = buf;
    end = buf + len;
    m.package = next(&p, end);
    m.arch = next(&p, end);
    m.from = next(&p, end);
    m.to = next(&p, end);
    n = (size_t)(end - p);
    db = malloc(n ? n : 1); /* for ASan: no byte more */
    if (!db)
        abort();
    memcpy(db, p, n);
    if (m.package[0]) {
        agent_par_match(db, n, &m, version, sizeof(version));
        if (agent_par_merge(db, n, &m, &out, &out_len) == 0) {
            if (out_len > n + strlen(m.to) + 4)
                __builtin_trap();
            agent_par_match(out, out_len, &m, version, sizeof(version));
            free(out);
        }
    }
    free(db);
    free(buf);
    return 0;
}
