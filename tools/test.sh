#!/bin/sh
# test.sh JOBS: every suite, cheapest doubt first, the release build last so that the closing line
# is ctest's. Stops at the first suite that fails. build/test-times.txt gets what each took: seconds
# by the clock, and seconds of the processors (all children's), which other work does not change.
#
# The sanitizer builds leave out what belongs to release: tests of memory budgets (a sanitizer's own
# memory is several times the program's) and of the 2B model (label "release").
set -eu
jobs=$1
times=build/test-times.txt
: >"$times"
began=$(date +%s)
cpu_before=0
unset MAKEFLAGS MAKELEVEL

# Not in a subshell, which would have no children yet.
cpu_seconds() { # into $cpu
    times >build/times.tmp
    cpu=$(awk 'NR == 2 { gsub(/[ms]/, " "); print int($1 * 60 + $2 + $3 * 60 + $4) }' \
        build/times.tmp)
}

note() { # NAME: what it took since the last note
    now=$(date +%s)
    cpu_seconds
    echo "$1 $((now - began)) s, $((cpu - cpu_before)) s of processors" >>"$times"
    began=$now
    cpu_before=$cpu
}

build() { # PRESET
    echo "== $1: build"
    cmake --preset "$1" -DCENOTE_TESTS=ON -DCENOTE_WERROR=ON >"build/$1-configure.log" || { cat "build/$1-configure.log"; exit 1; }
    cmake --build "build/$1" -j "$jobs" >"build/$1-build.log" || { cat "build/$1-build.log"; exit 1; }
    note "$1-build"
}

suite() { # PRESET CTEST_OPTION...
    preset=$1
    shift
    echo "== $preset: tests"
    ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure "$@"
    note "$preset-tests"
}

# What has threads: everything else would only be slow under the thread sanitizer.
threaded='^stress|team|stream|reader|disk|pool|budget|tensor_cache|gem[mv]|attention|kernels|system.command'

build asan
suite asan -LE release
build tsan
suite tsan -R "$threaded" -LE release
build coverage
find build/coverage -name '*.gcda' -delete
# make_checkpoint is not counted, and its test limits the size of files, gcov's among them.
suite coverage -LE 'release|stress|fuzz' -E unit.make_checkpoint >build/coverage-tests.log ||
    { cat build/coverage-tests.log; exit 1; }
gcovr --root . --filter src/ --filter runner/ --filter cli/ --print-summary \
    --object-directory build/coverage --output build/coverage.txt | tail -n 3
note coverage-report
build release
echo "== so far"
sed 's/^/   /' "$times"
suite release
