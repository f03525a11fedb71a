/* fuzz: tools */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Package databases come from images: any text is parsed or refused. */
#include <stdint.h>
#include <stdlib.h>

#include "publish/dpkg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void use_field(const char *para, const char *name)
{
    char *field = pub_field(para, name);
    struct pub_rels rels;
    size_t i;

    if (pub_rels_parse(field, &rels) == 0) {
        for (i = 0; i < rels.n; i++) {
            pub_rel_holds(&rels.v[i], "1:2.3~rc1-4");
            /* An order is antisymmetric. */
            if ((pub_version_cmp(rels.v[i].version, "1.0-1") < 0) !=
                (pub_version_cmp("1.0-1", rels.v[i].version) > 0))
                abort();
        }
        pub_rels_fini(&rels);
    }
    free(field);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct pub_paras p;
    size_t i;

    if (pub_paras_parse((const char *)data, len, "status", &p, NULL) < 0)
        return 0;
    for (i = 0; i < p.n; i++) {
        use_field(p.v[i].text, "Depends");
        use_field(p.v[i].text, "Provides");
        use_field(p.v[i].text, "Conffiles");
    }
    pub_paras_fini(&p);
    return 0;
}
