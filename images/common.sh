# shellcheck shell=bash
# What the image scripts share.  To be sourced.

# shellcheck disable=SC2034  # used by those that source this
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

need() {
    local c
    for c; do
        command -v "$c" >/dev/null || die "needs $c; run 'make deps'"
    done
}

# The digest of what a step is made from: words, and files (their content and
# mode) as "@FILE".  A file that is not there counts as absent.
inputs() {
    local a
    for a; do
        case $a in
        @*)
            printf '%s\n' "$a"
            [ ! -e "${a#@}" ] || { stat -c %a "${a#@}" && cat "${a#@}"; }
            ;;
        *) printf '%s\n' "$a" ;;
        esac
    done | sha256sum | cut -c 1-64
}

# fresh STAMP DIGEST: was the step already done from the same inputs?
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$1"; }

# Where the agent is, or nothing when it is not built yet.
agent_binary() {
    local f
    for f in "${BLKSUB_AGENT-}" "${B-}/blksub-agent" "$top/build/blksub-agent"; do
        if [ -f "$f" ]; then
            printf '%s\n' "$f"
            return
        fi
    done
}

# table KIND RAW BYTES: an empty disk of BYTES with one Linux partition from
# 1 MiB on; KIND is mbr or gpt.
table() {
    local label=dos type=83
    [ "$1" = mbr ] || { label=gpt type=0FC63DAF-8483-4772-8E79-3D69D8477DE4; }
    rm -f "$2"
    truncate -s "$3" "$2"
    printf 'label: %s\nstart=1MiB, size=%d, type=%s\n' "$label" \
        $((($3 - 2 * 1048576) / 512)) "$type" | sfdisk -q "$2"
}

# The newest kernel of a flavour that is installed, or nothing.
kernel_of() { find /boot -name "vmlinuz-*[0-9]-$1" | sort -V | tail -n 1; }

# module_files MODULES NAME: the files of a module and, before it, of what it
# needs, in the order to load them.  Nothing if it is built in or not there.
module_files() {
    awk -v m="/$2.ko" -F '[: ]+' 'index($1, m) {
        for (i = NF; i >= 1; i--) if ($i) print $i }' "$1/modules.dep"
}
