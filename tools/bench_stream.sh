#!/bin/sh
# bench_stream.sh JOBS ARGS...: builds what bench/stream needs, then runs it with ARGS.
set -eu
jobs=$1
shift
cmake --preset release -DCENOTE_TESTS=OFF -DCENOTE_BENCH=ON >build/configure.log ||
    { cat build/configure.log; exit 1; }
cmake --build build/release -j "$jobs"
exec python3 bench/stream/stream.py --build build/release --dir build/bench-stream "$@"
