#!/bin/sh
# compilers.sh REPLAY_DIGESTS ROOT: the other compiler's code gives each block of a trace the place
# that it has in this build.
set -eu
ours=$1 root=$2
case $($CC --version) in *clang*) other=gcc ;; *) other=clang ;; esac
command -v $other >/dev/null 2>&1 || { echo "skipped: no $other"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cd "$root"
# What replay is made of, without the rest of the command and the library.
compile="$other -std=gnu17 -O2 -D_GNU_SOURCE -Iinclude -Isrc -Icli -Irunner/qwen3vl"
parts=$(find src/base src/os/linux src/os/*.c src/alloc src/pool src/monitor -name '*.c')
objects=
for part in $parts; do
    case $part in
    *_avx2.c)
        $compile -mavx2 -c "$part" -o "$scratch/${part##*/}.o"
        parts=$(echo "$parts" | grep -vx "$part")
        objects="$objects $scratch/${part##*/}.o"
        ;;
    esac
done
# shellcheck disable=SC2086
$compile -o "$scratch/digests" tests/system/replay_digests.c cli/allocator.c cli/digest.c cli/fit.c \
    cli/size.c cli/trace.c cli/trace_vlm.c $parts $objects -luring -lpthread -lm
"$ours" >"$scratch/ours"
grep -q "^cenote chunked " "$scratch/ours" || { echo "no digests"; exit 1; }
"$scratch/digests" | diff "$scratch/ours" - || { echo "$other gives other offsets"; exit 1; }
echo "$other gives the same offsets"
