#!/bin/sh
# bench.sh JOBS: every bench, one after the other, for they want the machine to themselves.
set -eu
jobs=$1
cmake --preset release -DCENOTE_TESTS=OFF -DCENOTE_BENCH=ON >build/configure.log ||
    { cat build/configure.log; exit 1; }
cmake --build build/release -j "$jobs"
for bench in build/release/bench/bench_*; do
    [ -x "$bench" ] && [ -f "$bench" ] || continue
    echo "== $bench"
    "$bench"
done
