#!/usr/bin/env bash
# Every man page passes mandoc's lint, and every page that one of them refers
# to as ours exists.
set -u
command -v mandoc >/dev/null || { echo "mandoc is not installed"; exit 77; }
cd "$(dirname "$0")/../.." || exit 1
failed=0
n=0
for page in */man/*.[1-8]; do
    n=$((n + 1))
    out=$(mandoc -Tlint -W warning "$page" 2>&1) || { echo "$out"; failed=1; }
    # No line of the rendered page is wider than a terminal.
    mandoc -O width=78 -Tascii "$page" 2>/dev/null | sed 's/.\x08//g' |
        awk -v page="$page" 'length($0) > 80 { print page ": " length($0) " columns: " $0; bad = 1 } END { exit bad }' ||
        failed=1
    while read -r name section; do
        [ -e "$(echo */man/"$name.$section")" ] || {
            echo "$page: refers to $name($section), which is not there"
            failed=1
        }
    done < <(sed -n 's/^\.Xr \(blksub[a-z-]*\) \([1-8]\).*/\1 \2/p' "$page" | sort -u)
done
echo "$n pages"
[ "$n" -gt 0 ] && [ "$failed" = 0 ]
