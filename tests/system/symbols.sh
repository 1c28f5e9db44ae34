#!/bin/sh
# symbols.sh LIBRARY INCLUDE_DIR: the library exports what its headers declare, all of it and
# nothing else.
set -eu
library=$1 include=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# "w" and "v" are the sanitizers' and the tool chain's weak ones; "A" is the version's own name.
"$NM" -D --defined-only "$library" |
    awk '$2 != "A" && $2 != "w" && $2 != "v" { sub(/@.*/, "", $3); print $3 }' | sort >"$scratch/exported"
# Preprocessed, so that a declaration may span lines and macros.
printf '#include <cenote/cenote.h>\n' >"$scratch/all.c"
$CC -E -P -I"$include" "$scratch/all.c" >"$scratch/all.i"
tr '\n' ' ' <"$scratch/all.i" | tr ';}' '\n\n' | grep 'visibility("default")' |
    grep -o 'cenote_[a-z0-9_]* *(' | tr -d ' (' | sort -u >"$scratch/declared"

[ -s "$scratch/declared" ] || { echo "found no declarations"; exit 1; }
if ! diff "$scratch/declared" "$scratch/exported" >"$scratch/difference"; then
    echo "declared (<) and exported (>) differ:"
    cat "$scratch/difference"
    exit 1
fi
echo "$(wc -l <"$scratch/exported") symbols, as declared"
