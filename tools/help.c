// SPDX-License-Identifier: GPL-2.0-or-later
/* The table of commands and their help texts.  Man pages say it at length; a
 * test holds options, these texts and the pages together. */
#include <string.h>

#include "help.h"

static const char keygen_text[] =
    "usage: blksub keygen -o NAME\n"
    "\n"
    "Makes a key pair for signing patches: NAME.pub, which the hosts are told to\n"
    "trust, and NAME.key, which stays with the publisher. Replaces neither.\n"
    "\n"
    "  -o, --output NAME   where to put them\n";

static const char trust_text[] =
    "usage: blksub trust add FILE\n"
    "       blksub trust list\n"
    "       blksub trust remove ID\n"
    "\n"
    "The public keys whose patches this store accepts. FILE is a .pub file of\n"
    "blksub keygen or of minisign; ID is what list shows.\n";

static const char image_text[] =
    "usage: blksub image import FILE [--name NAME]\n"
    "       blksub image list\n"
    "       blksub image show IMAGE\n"
    "       blksub image remove IMAGE\n"
    "\n"
    "Golden images. FILE is in any format that qemu-img reads. IMAGE is a name,\n"
    "a digest, or at least the first 8 digits of one.\n"
    "\n"
    "  -n, --name NAME     a name for it: 1-63 of A-Z a-z 0-9 . _ -\n";

static const char publish_text[] =
    "usage: blksub publish OLD NEW -o PATCH --key KEY [option ...]\n"
    "\n"
    "Compares two golden images file by file and writes one signed patch that\n"
    "turns OLD into NEW. OLD and NEW are files or names of images in the store.\n"
    "\n"
    "  -o, --output PATCH  the file to write\n"
    "  -k, --key KEY       the secret key (blksub keygen) that signs it\n"
    "      --policy FILE   what to leave out, and more: blksub-policy(5)\n"
    "      --codec CODEC   zstd (default) or zlib\n"
    "      --level N       of compression: 1-22, with zlib 1-9\n"
    "      --name NAME     the patch's name, for people\n"
    "      --serial N      rises with each patch; default: the present time\n";

static const char inspect_text[] =
    "usage: blksub inspect PATCH [--files | --packages | --verify |\n"
    "                             --signed-part OUT]\n"
    "\n"
    "Shows what a patch file says: packages, restarts, reboot, sizes, signature.\n"
    "\n"
    "      --files         every path and what happens to it\n"
    "      --packages      packages with old and new versions, group by group\n"
    "      --verify        check signature and every digest\n"
    "      --signed-part OUT\n"
    "                      write OUT and OUT.minisig, for minisign -V\n";

static const char volume_text[] =
    "usage: blksub volume create NAME --image IMAGE [--size SIZE]\n"
    "       blksub volume list\n"
    "       blksub volume show NAME\n"
    "       blksub volume map NAME [--offset N] [--length N]\n"
    "       blksub volume check NAME [--rate MIB]\n"
    "       blksub volume remove NAME\n"
    "       blksub volume export NAME OUT [--format raw|qcow2] [--compress]\n"
    "       blksub volume clone NAME NEW\n"
    "       blksub volume resize NAME SIZE\n"
    "\n"
    "A volume is one guest's disk: a golden image, the patches applied to it, and\n"
    "what the guest wrote. show says where its bytes come from and what room it\n"
    "takes, map where every block comes from. export writes its present content\n"
    "to the file OUT; clone makes a second volume of it, while it is not served;\n"
    "resize makes it larger, served or not. check looks for damage in all that the\n"
    "volume is made of, also while it is served; exit code 11: there is some.\n"
    "\n"
    "  -i, --image IMAGE   the golden image: name or digest\n"
    "  -s, --size SIZE     as 20G; not below the image's size, which is default\n"
    "      --offset N      map: begin there; bytes, or as 64K, 1.5G\n"
    "      --length N      map: so many bytes\n"
    "      --rate MIB      check: read at most so much in a second; 0 = no limit\n"
    "  -f, --format FORMAT raw or qcow2; default: qcow2 if OUT ends with .qcow2\n"
    "  -c, --compress      a compressed qcow2\n";

static const char patch_text[] =
    "usage: blksub patch import FILE\n"
    "       blksub patch list\n"
    "       blksub patch show PATCH\n"
    "       blksub patch remove PATCH\n"
    "\n"
    "Patches in the store. import checks the signature and every digest; apply\n"
    "does it by itself. PATCH is a name, an id, or its first 8 digits or more.\n";

static const char serve_text[] =
    "usage: blksub serve VOLUME --nbd SOCKET [option ...] [-- NBDKIT-ARGUMENT ...]\n"
    "\n"
    "Becomes the worker of VOLUME: serves it over NBD until it is ended (Ctrl-C,\n"
    "SIGTERM). There is one worker for each volume.\n"
    "\n"
    "      --nbd SOCKET    the unix socket to serve on\n"
    "      --agent SOCKET  the unix socket on which QEMU offers the channel of the\n"
    "                      guest's agent; connected to whenever it is there\n"
    "  -t, --threads N     requests that are served at a time, 1-256\n"
    "  -r, --read-only     refuse writes\n"
    "      --tls-certificates DIR\n"
    "                      only with TLS, with the certificates in DIR\n"
    "      --exit-with-parent\n"
    "                      end when the process that started it ends\n"
    "\n"
    "What stands after -- goes to nbdkit(1).\n";

static const char apply_text[] =
    "usage: blksub apply PATCH (--volume VOLUME ... | --all) [option ...]\n"
    "\n"
    "Applies a patch (a file, or one in the store) to running guests. A package\n"
    "whose files the guest changed is left out as a whole and reported.\n"
    "\n"
    "      --volume VOLUME one guest; may be given again\n"
    "      --all           every volume that is served\n"
    "      --dry-run       say what would happen, change nothing\n"
    "      --restart       restart the units that still run old code\n"
    "      --strategy S    auto (default), in-place, token or copy\n"
    "      --keep-going    with --all: go on when a guest failed\n";

static const char status_text[] =
    "usage: blksub status [--volume VOLUME]\n"
    "\n"
    "How far each guest is: patches, agent, and which processes still run old\n"
    "code.\n"
    "\n"
    "      --volume VOLUME one guest only\n";

static const char metrics_text[] =
    "usage: blksub metrics [--volume VOLUME ...]\n"
    "\n"
    "What the workers can be measured by, in Prometheus' text format: requests,\n"
    "latencies, errors, states. blksub-metrics(7) has the table.\n"
    "\n"
    "      --volume VOLUME this one; may be given again. Default: all workers\n";

static const char rollback_text[] =
    "usage: blksub rollback PATCH (--volume VOLUME ... | --all) [option ...]\n"
    "\n"
    "Takes a patch back: the guests get the old files again.\n"
    "\n"
    "      --volume VOLUME one guest; may be given again\n"
    "      --all           every volume that is served\n"
    "      --dry-run       say what would happen, change nothing\n"
    "      --restart       restart the units that still run the code taken back\n"
    "      --strategy S    auto (default), in-place, token or copy\n"
    "      --keep-going    with --all: go on when a guest failed\n";

static const char log_text[] =
    "usage: blksub log [--volume VOLUME]\n"
    "\n"
    "What was applied and rolled back, when, and with what result.\n"
    "\n"
    "      --volume VOLUME one guest only\n";

static const char flush_text[] =
    "usage: blksub flush VOLUME [PATH ...]\n"
    "\n"
    "Asks the guest to drop cached pages of files, and proves that it did.\n"
    "Without PATH: of all files of the last patch.\n";

static const char hold_text[] =
    "usage: blksub hold VOLUME [--limit SECONDS]\n"
    "\n"
    "Lets the guest's requests to its disk wait; none fails. Done when those under\n"
    "way have ended. Until blksub resume, or the limit; to hold again renews it.\n"
    "\n"
    "  -l, --limit SECONDS the worker resumes by itself then, 1-3600 (60)\n";

static const char resume_text[] =
    "usage: blksub resume VOLUME\n"
    "\n"
    "Ends a hold: the guest's requests go on.\n";

const struct help_entry help_entries[] = {
    { "keygen", cmd_keygen, "make a key pair for signing patches", keygen_text },
    { "trust", cmd_trust, "keys whose patches this store accepts", trust_text },
    { "image", cmd_image, "golden images: import, list, show, remove",
      image_text },
    { "publish", cmd_publish, "make the patch from one image to another",
      publish_text },
    { "inspect", cmd_inspect, "what a patch file contains", inspect_text },
    { "patch", cmd_patch, "patches in the store", patch_text },
    { "volume", cmd_volume, "guests' disks: create, show, export, resize, ...",
      volume_text },
    { "serve", cmd_serve, "serve a volume to its guest", serve_text },
    { "apply", cmd_apply, "apply a patch to running guests", apply_text },
    { "status", cmd_status, "how far each guest is", status_text },
    { "metrics", cmd_metrics, "what workers can be measured by", metrics_text },
    { "rollback", cmd_rollback, "take a patch back", rollback_text },
    { "log", cmd_log, "what was done", log_text },
    { "flush", cmd_flush, "make a guest drop cached pages", flush_text },
    { "hold", cmd_hold, "let a guest's disk requests wait", hold_text },
    { "resume", cmd_resume, "let them go on", resume_text },
    { NULL, NULL, NULL, NULL },
};

const struct help_entry *help_find(const char *name)
{
    const struct help_entry *e;

    for (e = help_entries; e->name; e++)
        if (strcmp(e->name, name) == 0)
            return e;
    return NULL;
}

void help_all(FILE *f)
{
    const struct help_entry *e;

    fputs("usage: blksub [--store DIR] [--json] COMMAND ...\n"
          "       blksub help COMMAND\n"
          "\n"
          "Replaces blocks of the golden image under running guests.\n"
          "\n", f);
    for (e = help_entries; e->name; e++)
        fprintf(f, "  %-10s%s\n", e->name, e->summary);
    fputs("\n"
          "      --store DIR     default: $BLKSUB_STORE, or /var/lib/blksub\n"
          "      --json          answers and errors as JSON on stdout\n"
          "      --version       the version of this program\n"
          "  -h, --help          this; after a command: its options\n"
          "\n"
          "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not found,\n"
          "4 refused (malformed, signature), 5 wrong base or older, 6 done in part\n"
          "(conflicts), 7 no worker or agent, 8 busy, 9 no space, 10 canceled,\n"
          "11 damage found.\n", f);
}
