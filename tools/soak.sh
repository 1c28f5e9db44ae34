#!/bin/sh
# soak.sh MINUTES JOBS OPERATIONS: first so many operations of churn on one pool, whose footprint
# must stay flat (bench/bench_soak.c); then the stress and property tests again and again, under the
# thread and the address sanitizer in turn, until the time is over or one fails.
set -eu
minutes=$1 jobs=$2 operations=$3
cmake --preset release -DCENOTE_BENCH=ON >/dev/null
cmake --build build/release -j "$jobs" --target bench_soak >/dev/null
build/release/bench/bench_soak "$operations"
end=$(($(date +%s) + minutes * 60))
for preset in asan tsan; do
    cmake --preset $preset >/dev/null
    cmake --build build/$preset -j "$jobs" >/dev/null
done

suite() { # PRESET LABELS
    ctest --test-dir "build/$1" -j "$jobs" --output-on-failure -L "$2" >build/soak.log ||
        { cat build/soak.log; exit 1; }
}

round=0
while [ "$(date +%s)" -lt "$end" ]; do
    round=$((round + 1))
    echo "== round $round"
    suite asan 'stress|property'
    suite tsan stress
done
echo "$round rounds, nothing found"
