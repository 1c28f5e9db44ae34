#!/bin/sh
# cache_misses.sh PROGRAM PROFILE LIBRARY: the same product has far fewer misses of the last-level
# cache in blocks than as its matrices lie, by cachegrind's model of the caches that PROFILE
# describes; and the library's copies have the instructions that they are about.
set -eu
program=$1 profile=$2 library=$3
command -v valgrind >/dev/null || { echo "skipped: no valgrind"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export CENOTE_HARDWARE="$profile"

size() { sed -n "s/^$1.size_bytes = //p" "$profile"; }
ways() { sed -n "s/^$1.ways = //p" "$profile"; }

misses() { # LAYOUT: sets d1 and ll
    valgrind --tool=cachegrind --cache-sim=yes --cachegrind-out-file=/dev/null \
        --D1="$(size l1d),$(ways l1d),64" --LL="$(size l3),$(ways l3),64" --log-file="$scratch/log" \
        "$program" "$1" 320 >"$scratch/$1" || { cat "$scratch/log"; exit 1; }
    d1=$(sed -n 's/.*D1 *misses: *\([0-9,]*\).*/\1/p' "$scratch/log" | tr -d ,)
    ll=$(sed -n 's/.*LLd misses: *\([0-9,]*\).*/\1/p' "$scratch/log" | tr -d ,)
}

misses naive
d1_naive=$d1 ll_naive=$ll
misses blocked
echo "last level: naive $ll_naive, blocked $ll; first level: naive $d1_naive, blocked $d1"
cmp "$scratch/naive" "$scratch/blocked" # the same bits
[ "$ll" -gt 0 ]
[ $((ll * 4)) -le "$ll_naive" ]
[ "$d1" -le "$d1_naive" ]

case $(uname -m) in
x86_64)
    command -v objdump >/dev/null || { echo "skipped: no objdump"; exit 77; }
    objdump -d --no-show-raw-insn "$library" >"$scratch/code"
    awk '/^[0-9a-f]+ <cn_copy_steps_avx2>:/ { here = 1 } /^$/ { here = 0 }
         here && /vmovntdq/ { stores++ } here && /sfence/ { fences++ }
         END { exit !(stores > 0 && fences > 0) }' "$scratch/code"
    awk '/^[0-9a-f]+ <cenote_prefetch>:/ { here = 1 } /^$/ { here = 0 }
         here && /prefetch/ { found = 1 } END { exit !found }' "$scratch/code"
    ;;
esac
