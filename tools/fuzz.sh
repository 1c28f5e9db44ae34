#!/bin/sh
# fuzz.sh SECONDS JOBS: every fuzz target for so long, from the committed corpus. What is found
# stays in build/fuzz-corpus/NAME; a crash leaves its input there too.
set -eu
seconds=$1 jobs=$2
cmake --preset fuzz >build/fuzz-configure.log || { cat build/fuzz-configure.log; exit 1; }
cmake --build build/fuzz -j "$jobs"
found=0
for target in build/fuzz/tests/fuzz/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    case $target in *fuzz_replay_*) continue ;; esac
    found=1
    name=${target##*/fuzz_}
    dict=
    [ -f "tests/fuzz/$name.dict" ] && dict=-dict=tests/fuzz/$name.dict
    corpus=build/fuzz-corpus/$name
    mkdir -p "$corpus"
    echo "== $name, $seconds s"
    # shellcheck disable=SC2086
    "$target" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$corpus/" "$corpus" \
        $dict "tests/fuzz/corpus/$name"
done
[ "$found" = 1 ] || { echo "no fuzz targets were built" >&2; exit 1; }
