#!/usr/bin/env bash
# The command line without a guest: help, man pages, options, errors and exit
# codes, keys, images, volumes, export, JSON, completion.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-$PWD/build}
blksub=$B/blksub
for tool in jq qemu-img qemu-io mandoc; do
    command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done
[ -x "$blksub" ] || { echo "$blksub is not built"; exit 1; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export BLKSUB_STORE=$tmp/store
unset TERM
failed=0
n=0

fail() {
    echo "FAIL: $*"
    failed=1
}

# expect CODE ARG...: runs blksub; out and err hold what it said.
expect() {
    local want=$1 r
    shift
    n=$((n + 1))
    PATH=${run_path:-$PATH} "$blksub" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    r=$?
    out=$(cat "$tmp/out")
    err=$(cat "$tmp/err")
    [ $r = "$want" ] && return 0
    fail "blksub $*: exit $r, not $want"
    sed 's/^/    out: /' "$tmp/out"
    sed 's/^/    err: /' "$tmp/err"
    return 1
}

# refused CODE ARG...: as expect, and the error is one line, on stderr only.
refused() {
    expect "$@" || return
    [ -z "$out" ] || fail "blksub ${*:2}: an error, but stdout says: $out"
    [ -n "$err" ] || fail "blksub ${*:2}: an error without a word"
    if [ "$1" != 2 ] && { [ "$(wc -l <"$tmp/err")" != 1 ] || [[ $err != "blksub: "* ]]; }; then
        fail "blksub ${*:2}: not one line that begins with 'blksub: ': $err"
    fi
}

# json CODE FILTER ARG...: with --json; stdout is JSON for which FILTER is true.
json() {
    local want=$1 filter=$2
    shift 2
    expect "$want" --json "$@" || return
    jq -e "$filter" "$tmp/out" >/dev/null || fail "blksub --json $*: not $filter: $out"
    [ -z "$err" ] || fail "blksub --json $*: stderr says: $err"
}

page_of() {
    case $1 in
    apply | rollback | status | log | flush) echo blksub-apply.1 ;;
    hold | resume) echo blksub-hold.1 ;;
    publish | inspect) echo blksub-publish.1 ;;
    serve) echo blksub-serve.1 ;;
    *) echo blksub.1 ;;
    esac
}

# Long options as text has them.
options_in() {
    grep -oE -- '(^|[^a-z-])--[a-z][a-z-]+' | grep -oE -- '--[a-z-]+' | sort -u
}

test_help() {
    local c opts page opt
    expect 0 --help && [ -z "$err" ] || fail "--help"
    commands=$(sed -nE 's/^  ([a-z]+) .*/\1/p' "$tmp/out")
    [ "$(wc -w <<<"$commands")" -ge 13 ] || fail "few commands: $commands"
    cp "$tmp/out" "$tmp/all-help"
    expect 0 help && cmp -s "$tmp/out" "$tmp/all-help" || fail "help is not --help"
    for c in $commands; do
        expect 0 help "$c"
        cp "$tmp/out" "$tmp/help.$c"
        expect 0 "$c" --help
        cmp -s "$tmp/out" "$tmp/help.$c" || fail "$c --help is not help $c"
        [[ $out == "usage: blksub $c"* ]] || fail "help $c: $out"
        awk -v c="$c" 'length($0) > 80 { print "help " c ": wide: " $0; bad = 1 } END { exit bad }' \
            "$tmp/out" || fail "wide help"
        # Options: those of the code, of the help and of the page are the same.
        page=tools/man/$(page_of "$c")
        mandoc -Tutf8 "$page" | sed 's/.\x08//g' >"$tmp/page"
        opts=$(options_in <"$tmp/help.$c")
        for opt in $opts; do
            grep -qE -- "(^|[^a-z-])$opt([^a-z-]|\$)" "$tmp/page" || fail "$page does not name $opt of $c"
            # Without its value or operands: 2, but never "unrecognized".
            "$blksub" "$c" "$opt" >/dev/null 2>"$tmp/err" </dev/null
            [[ $(<"$tmp/err") != *unrecognized* ]] || fail "$c does not know its $opt"
        done
    done
    awk 'length($0) > 80 { exit 1 }' "$tmp/all-help" || fail "wide --help"
    for opt in $(options_in <"$tmp/all-help"); do
        mandoc -Tutf8 tools/man/blksub.1 | sed 's/.\x08//g' | grep -q -- "$opt" ||
            fail "blksub.1 does not name $opt"
    done
    # Options of the sources that no help names.
    for opt in $(sed -nE 's/^ *\{ *"([a-z][a-z-]+)", *(no|required|optional)_argument.*/\1/p' tools/*.c | sort -u); do
        case $opt in json | store | version | help) continue ;; esac
        cat "$tmp"/help.* | grep -qE -- "--$opt([^a-z-]|\$)" || fail "no help names --$opt"
    done
    refused 2 help nonsense
    expect 0 --version && [[ $out == "blksub "* ]] || fail "--version: $out"
}

test_usage() {
    local c
    refused 2
    refused 2 nonsense
    refused 2 --nonsense
    refused 2 --store
    refused 2 image list --store
    refused 2 --store '' image list
    refused 2 image
    refused 2 image nonsense
    refused 2 image import
    refused 2 image import a b
    refused 2 image list surplus
    refused 2 image import --nonsense x
    refused 2 volume create v
    refused 2 volume create --image
    refused 2 volume export v
    refused 2 volume check
    refused 2 volume check v surplus
    refused 2 volume check v --rate
    refused 2 keygen
    refused 2 keygen -o ''
    refused 2 trust add
    refused 2 serve v
    refused 2 serve --nbd "$tmp/s"
    refused 2 publish
    refused 2 inspect
    refused 2 apply
    refused 2 rollback
    refused 2 flush
    refused 2 hold
    refused 2 hold a b
    refused 2 hold a --limit 0
    refused 2 hold a --limit 3601
    refused 2 hold a --limit 1s
    refused 2 resume
    refused 2 volume clone a
    refused 2 volume resize a
    refused 2 volume resize a big
    for c in $commands; do
        refused 2 "$c" --nonsense
    done
}

test_no_store() {
    refused 3 --store "$tmp/none" image list
    refused 3 --store "$tmp/none" volume list
    json 3 '.error.code == "ENOENT" and (.error.text | length > 0)' --store "$tmp/none" image list
    json 3 '.error.code == "ENOENT"' image list --store="$tmp/none"
    [ ! -e "$tmp/none" ] || fail "a listing made a store"
    mkdir "$tmp/other"
    echo "something else" >"$tmp/other/file"
    refused 3 --store "$tmp/other" image list
    [ "$(ls -A "$tmp/other")" = file ] || fail "a listing wrote to a folder that is no store"
}

test_keys() {
    local id other
    expect 0 keygen -o "$tmp/k" || return
    [ "$(stat -c %a "$tmp/k.key")" = 600 ] || fail "k.key: mode $(stat -c %a "$tmp/k.key")"
    [ "$(stat -c %a "$tmp/k.pub")" = 644 ] || fail "k.pub: mode $(stat -c %a "$tmp/k.pub")"
    sha256sum "$tmp/k.key" "$tmp/k.pub" >"$tmp/sums"
    refused 8 keygen -o "$tmp/k"
    rm "$tmp/k.pub" && refused 8 keygen --output "$tmp/k"
    [ ! -e "$tmp/k.pub" ] || fail "half a key pair was made"
    rm "$tmp/k.key"
    json 0 '.id | test("^[0-9A-F]{16}$")' keygen -o "$tmp/k"
    id=$(jq -r .id <<<"$out")
    refused 3 trust add "$tmp/none.pub"
    refused 4 trust add "$tmp/k.key"
    expect 0 trust add "$tmp/k.pub"
    expect 0 trust add "$tmp/k.pub"
    expect 0 trust list && [[ $out == *$id* ]] || fail "trust list: $out"
    json 0 ".keys | length == 1 and .[0].id == \"$id\"" trust list
    if command -v minisign >/dev/null; then
        minisign -G -W -p "$tmp/m.pub" -s "$tmp/m.key" >/dev/null 2>&1
        expect 0 trust add "$tmp/m.pub"
        json 0 '.keys | length == 2' trust list
        # minisign writes an id without its leading zeros.
        other=$(sed -nE 's/.*key ([0-9A-F]{1,16})$/000000000000000\1/p' "$tmp/m.pub")
        expect 0 trust remove "${other: -16}"
    fi
    refused 3 trust remove 0123456789ABCDEF
    expect 0 trust remove "$id"
    json 0 '.keys | length == 0' trust list
}

test_images() {
    local digest
    qemu-img create -q -f qcow2 "$tmp/a.qcow2" 8M
    qemu-io -f qcow2 -c "write -P 0x5a 1M 64k" -c "write -P 0xa5 7M 4k" "$tmp/a.qcow2" >/dev/null
    refused 3 image import "$tmp/none.qcow2"
    refused 2 image import "$tmp/a.qcow2" --name .hidden
    refused 2 image import "$tmp/a.qcow2" --name -- -x
    refused 2 image import "$tmp/a.qcow2" --name 'a b'
    refused 2 image import "$tmp/a.qcow2" --name ../a
    refused 2 image import "$tmp/a.qcow2" --name "$(printf 'x%.0s' {1..64})"
    expect 0 image import "$tmp/a.qcow2" --name a
    json 0 '.images | length == 1 and .[0].name == "a" and .[0].size_bytes == 8388608' image list
    digest=$(jq -r '.images[0].digest' <<<"$out")
    [ "$("$blksub" --json image show a | jq -r .digest)" = "$digest" ] || fail "show by name"
    json 0 ".digest == \"$digest\"" image show "$digest"
    json 0 ".digest == \"$digest\"" image show "${digest:0:8}"
    refused 3 image show "${digest:0:7}"
    refused 3 image show none
    # The same content in another format is the same image.
    qemu-img convert -O raw "$tmp/a.qcow2" "$tmp/a.raw"
    json 0 ".digest == \"$digest\" and .name == \"a\"" image import "$tmp/a.raw"
    json 0 '.images | length == 1' image list
    # A name belongs to one image.
    qemu-img create -q -f raw "$tmp/b.raw" 1M
    refused 8 image import "$tmp/b.raw" --name a
    expect 0 image import "$tmp/b.raw" --name b
    expect 0 image list && [ "$(wc -l <<<"$out")" = 3 ] || fail "image list: $out"
    expect 0 image remove b
    refused 3 image remove b
    # Not an image in any format: a folder.
    "$blksub" image import "$tmp" >/dev/null 2>&1 && fail "a folder was imported"
    [ -z "$(find "$BLKSUB_STORE" -name '.tmp-*')" ] || fail "left over: $(find "$BLKSUB_STORE" -name '.tmp-*')"
}

test_volumes() {
    refused 3 volume create v --image none
    refused 2 volume create ../v --image a
    refused 2 volume create v --image a --size 4M
    refused 2 volume create v --image a --size 10000001
    refused 2 volume create v --image a --size big
    expect 0 volume create v --image a
    json 0 '.name == "w" and .size_bytes == 16777216' volume create w --image a --size 16M
    refused 8 volume create v --image a
    json 0 '.volumes | map(.name) == ["v", "w"]' volume list
    expect 0 volume list && [ "$(wc -l <<<"$out")" = 3 ] || fail "volume list: $out"
    json 0 '.size_bytes == 8388608 and .patches == 0 and (.served | not) and .applied == []' volume show v
    expect 0 volume show v
    refused 3 volume show none
    # All that hold it are listed.
    expect 8 image remove a
    [ "$err" = "blksub: image a: 2 volumes use it
  volume v is made of it
  volume w is made of it" ] || fail "image remove: $err"
    json 8 '.error | .code == "EBUSY" and (.holders | map(.volume) == ["v", "w"]) and
        (.holders | all(.how == ["image"] and (.served | not)))' image remove a
    json 0 '.volumes == 2 and (.uses | length == 2)' image show a
    json 0 '.images[0].volumes == 2' image list
    expect 0 volume map w && [ "$(xargs <<<"${out##*$'\n'}")" = "0x701000 0x8ff000 image hole - a" ] ||
        fail "map: $out"
    json 0 '.origin == "image" and .start == 8384512 and .length == 4096 and .zero and (.data | not)' \
        volume map w --offset 8384512 --length 4K
    json 0 '.start == 16773120 and .length == 4096' volume map w --offset 16773120 --length 1T
    refused 2 volume map w --offset 16777217
    refused 2 volume map w --offset some
    refused 3 volume map none
    refused 2 volume map
    json 0 '.outcome == "clean" and .volume == "v" and .images == 1 and (.findings | length == 0)' \
        volume check v --rate 0
    expect 0 volume check v && [[ $out == "v: no damage: 1 image, 0 patches, "* ]] || fail "check: $out"
    json 0 '.last_check.outcome == "clean"' volume show v
    json 0 '.last_check == null' volume show w
    json 3 '.error.code == "ENOENT"' volume check none
    refused 2 volume check v --rate -1
    refused 2 volume check v --rate 1M
    # Export: raw and sparse, qcow2, never over a file.
    expect 0 volume export v "$tmp/v.raw"
    qemu-img compare -q "$tmp/v.raw" "$tmp/a.qcow2" || fail "export differs from the image"
    [ "$(stat -c %b "$tmp/v.raw")" -lt 1024 ] || fail "export is not sparse: $(stat -c %b "$tmp/v.raw")"
    expect 0 volume export w "$tmp/w.qcow2"
    [ "$(qemu-img info --output=json "$tmp/w.qcow2" | jq -r '.format, ."virtual-size"' | xargs)" = "qcow2 16777216" ] ||
        fail "w.qcow2: $(qemu-img info "$tmp/w.qcow2")"
    refused 8 volume export v "$tmp/v.raw"
    refused 3 volume export none "$tmp/none.raw"
    refused 2 volume export v "$tmp/v.vmdk" --format vmdk
    json 0 '.format == "qcow2"' volume export v "$tmp/odd-name" --format qcow2
    expect 0 volume export v "$tmp/small.qcow2" --compress
    qemu-img compare -q "$tmp/small.qcow2" "$tmp/v.raw" || fail "a compressed export differs"
    refused 2 volume export v "$tmp/small.raw" --format raw --compress
    [ "$(find "$tmp" -maxdepth 1 -name '.*.??????' | wc -l)" = 0 ] || fail "export left a temporary"
    # Clones and growth of volumes that nobody serves.
    json 0 '.volume == "w2" and .of == "w" and .size_bytes == 16777216 and .patches == 0' volume clone w w2
    refused 8 volume clone w v
    refused 3 volume clone none w3
    refused 2 volume clone w ../x
    refused 2 volume resize w2 8M && grep -q "cannot shrink" "$tmp/err" || fail "shrink: $err"
    refused 2 volume resize w2 16777217
    refused 3 volume resize none 1G
    expect 0 volume resize w2 16M
    json 0 '.size_bytes == 20971520 and (.served | not)' volume resize w2 20M
    json 0 '.size_bytes == 20971520' volume show w2
    refused 7 hold w2
    refused 7 resume w2
    refused 3 hold none
    expect 0 volume export w2 "$tmp/w2.raw"
    cmp -s -n 8388608 "$tmp/w2.raw" "$tmp/v.raw" || fail "a clone that has grown differs"
    expect 0 volume remove w2
    # Relative paths, and the store by option instead of the environment.
    (cd "$tmp" && env -u BLKSUB_STORE "$blksub" volume export v rel.raw --store store >/dev/null) ||
        fail "relative paths"
    expect 0 volume remove w
    refused 3 volume remove w
    expect 0 volume remove v
    expect 0 image remove a
}

test_metrics() {
    expect 0 metrics && [ "$(wc -l <<<"$out")" = 2 ] || fail "metrics of no volume: $out"
    refused 3 metrics --volume none
    refused 2 metrics surplus
    json 0 '.volumes == [] and (.text | startswith("# HELP blksub_worker_up "))' metrics
}

test_patches() {
    json 0 '.patches == []' patch list
    expect 0 patch list
    refused 3 patch show none
    refused 3 patch remove none
    : >"$tmp/empty"
    refused 4 patch import "$tmp/empty" && grep -q "trusts no key" "$tmp/err" || fail "no key: $err"
    expect 0 trust add "$tmp/k.pub"
    refused 3 patch import "$tmp/none"
    head -c 10000 /dev/urandom >"$tmp/noise"
    refused 4 patch import "$tmp/noise"
    refused 4 patch import "$tmp/empty"
    refused 4 inspect "$tmp/noise"
    refused 3 inspect "$tmp/none"
}

test_serve_refusals() {
    local empty_path=$tmp/empty-path
    qemu-img create -q -f raw "$tmp/c.raw" 1M
    expect 0 image import "$tmp/c.raw" --name c
    expect 0 volume create c --image c
    refused 3 serve none --nbd "$tmp/s"
    refused 2 serve c --nbd "$tmp/s" --threads 0
    refused 2 serve c --nbd "$tmp/s" --threads x
    refused 2 serve c --nbd "/$(printf 'x%.0s' {1..120})"
    refused 3 serve c --nbd "$tmp/s" --tls-certificates "$tmp/none"
    : >"$tmp/file"
    refused 8 serve c --nbd "$tmp/file"
    [ -e "$tmp/file" ] || fail "serve removed a file"
    mkdir "$empty_path"
    run_path=$empty_path refused 3 serve c --nbd "$tmp/s"
    grep -q "nbdkit is not installed" "$tmp/err" || fail "no nbdkit: $err"
    # Without the plugin beside it.
    cp "$blksub" "$empty_path/"
    blksub=$empty_path/blksub refused 3 serve c --nbd "$tmp/s"
    grep -q "nbdkit-blksub-plugin.so" "$tmp/err" || fail "no plugin: $err"
    expect 0 volume remove c
    expect 0 image remove c
}

test_output() {
    # What cannot be written is an error.
    if [ -e /dev/full ]; then
        "$blksub" image list >/dev/full 2>"$tmp/err"
        [ $? = 1 ] && grep -q "standard output" "$tmp/err" || fail "/dev/full: $(cat "$tmp/err")"
    fi
    # Without a terminal there is no bar and no escape sequence.
    qemu-img create -q -f raw "$tmp/d.raw" 4M
    expect 0 image import "$tmp/d.raw" --name d
    [ -z "$err" ] || fail "a bar without a terminal: $err"
    ! grep -q $'\x1b\|\r' "$tmp/out" || fail "escape sequences"
}

complete_words() {
    # complete_words WORD...: what completion offers for the last word.
    bash --norc -c '
        export PATH=$1:$PATH
        . tools/blksub.bash-completion || exit 1
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _blksub
        printf "%s\n" "${COMPREPLY[@]}"' _ "$(dirname "$blksub")" "$@" 2>"$tmp/err" | sort | xargs
    [ ! -s "$tmp/err" ] || fail "completion of $*: $(cat "$tmp/err")"
}

completes() {
    local want=$1 got
    shift
    got=$(complete_words "$@")
    [ "$got" = "$want" ] || fail "completion of '$*': '$got', not '$want'"
}

test_completion() {
    qemu-img create -q -f raw "$tmp/e.raw" 2M
    expect 0 image import "$tmp/e.raw" --name golden
    expect 0 volume create web1 --image golden
    expect 0 volume create web2 --image golden
    completes "image" blksub im
    completes "--store" blksub --s
    completes "check clone create export list map remove resize show" blksub volume ""
    completes "web1 web2" blksub volume show ""
    completes "golden" blksub volume create x --image g
    completes "golden" blksub image show g
    completes "web1 web2" blksub status --volume w
    completes "web1 web2" blksub --json status --volume w
    completes "--nbd" blksub serve web1 --n
    completes "auto copy in-place token" blksub apply x --strategy ""
    # Each command of the program is offered, with each option of its help.
    local c opt offered
    # shellcheck disable=SC2086
    [ "$(complete_words blksub "")" = "$(printf '%s\n' $commands help | sort | xargs)" ] ||
        fail "commands offered: $(complete_words blksub "")"
    for c in $commands; do
        offered=$(complete_words blksub "$c" --)
        [[ $c != image ]] || offered=$(complete_words blksub image import --)
        [[ $c != volume ]] || offered="$(for sub in create check export map; do complete_words blksub volume $sub --; done | xargs)"
        for opt in $(options_in <"$tmp/help.$c"); do
            [[ " $offered " == *" $opt "* ]] || fail "completion of $c does not offer $opt: $offered"
        done
    done
}

commands=
test_help
test_usage
test_no_store
test_keys
test_images
test_volumes
test_metrics
test_patches
test_serve_refusals
test_output
test_completion
echo "$n runs of blksub"
[ $failed = 0 ]
