# shellcheck shell=bash
# Sourced by benchmarks: a volume that has lived, and the clean-up of them all.
#   $d     the benchmark's own folder, removed at its end
#   $mib   size of the volume; set by who sources this

say() { echo "bench: $*" >&2; }

need() { # COMMAND...: exit 77 when one is missing
    local p
    for p in "$@"; do
        command -v "$p" >/dev/null || { say "$p is missing; make deps"; exit 77; }
    done
}

pids=()
bench_begin() {
    d=$(mktemp -d "${TMPDIR:-/tmp}/bs-bench.XXXXXX")
    trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
          wait 2>/dev/null || true; rm -rf "$d"' EXIT
    export BLKSUB_STORE=$d/store
}

# Trees of 4 MiB files that fill three quarters of the disk.  v1 and, by a 22nd of
# the files each, v2, v3, v4: three patches that cover a tenth of the disk.
make_patches() {
    # shellcheck disable=SC2154
    local i v n=$((mib * 3 / 16))
    say "making $mib MiB images and three patches"
    mkdir -p "$d/tree"
    for i in $(seq 1 "$n"); do
        head -c $((4 << 20)) /dev/urandom >"$d/tree/f$i"
    done
    "$B/blksub" keygen -o "$d/k" >/dev/null
    mkdir -p "$BLKSUB_STORE"
    for v in 1 2 3 4; do
        [ "$v" = 1 ] || for i in $(seq "$v" 22 "$n"); do
            head -c $((4 << 20)) /dev/urandom >"$d/tree/f$i"
        done
        truncate -s "${mib}M" "$d/v.raw"
        mke2fs -q -t ext4 -b 4096 -d "$d/tree" "$d/v.raw"
        "$B/blksub" image import "$d/v.raw" --name "v$v" >/dev/null
        rm "$d/v.raw"
        [ "$v" = 1 ] && continue
        [ "$v" = 2 ] && "$B/blksub" trust add "$d/k.pub" >/dev/null
        "$B/blksub" publish "v$((v - 1))" "v$v" -o "$d/p$v" --key "$d/k.key" \
            --name "p$v" >/dev/null
        "$B/blksub" patch import "$d/p$v" >/dev/null
    done
    rm -rf "$d/tree"
}

# lived_in NAME OWN_PERCENT TOKEN_PERCENT
lived_in() {
    "$B/blksub" volume create "$1" --image v1 >/dev/null
    "$B/tests/bench/bench_prep" "$BLKSUB_STORE" "$1" "$2" "$3" p2 p3 p4
}

median() { # of the numbers on stdin
    sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}
