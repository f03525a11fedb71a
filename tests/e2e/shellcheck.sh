#!/usr/bin/env bash
# Every shell script of the tree passes shellcheck.
set -u
command -v shellcheck >/dev/null || { echo "shellcheck is not installed"; exit 77; }
cd "$(dirname "$0")/../.." || exit 1
# A script is a tracked file whose first line says so, or *.sh.
list() {
    if git rev-parse --git-dir >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard
    else
        find . -type f -not -path './build/*' | sed 's|^\./||'
    fi
}
failed=0
n=0
while read -r f; do
    [ -f "$f" ] || continue
    case $f in
    *.sh | *.bash | *.bash-completion) ;;
    *)
        read -r first <"$f" 2>/dev/null || continue
        [[ $first =~ ^'#!'.*[/\ ](ba|da)?sh([[:space:]]|$) ]] || continue
        ;;
    esac
    n=$((n + 1))
    # 2013, 2015, 2016: words without blanks, A && B || fail, and $ for jq and
    # awk in single quotes are on purpose.
    shellcheck -x -P SCRIPTDIR -e SC2013,SC2015,SC2016 "$f" || failed=1
done < <(list)
echo "$n scripts"
[ "$n" -gt 0 ] && [ "$failed" = 0 ]
