#!/bin/sh
# test.sh JOBS: every suite, cheapest doubt first, the release build last so that the closing line
# is ctest's. Stops at the first suite that fails. Seconds of each go to build/test-times.txt.
#
# The sanitizer builds leave out what belongs to release: tests of memory budgets (a sanitizer's own
# memory is several times the program's) and of the 2B model (label "release").
set -eu
jobs=$1
times=build/test-times.txt
: >"$times"
began=$(date +%s)
unset MAKEFLAGS MAKELEVEL

note() { # NAME: seconds since the last note
    now=$(date +%s)
    echo "$1 $((now - began))" >>"$times"
    began=$now
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
threaded='^stress|team|stream|pool|budget|gem[mv]|attention|kernels|system.command'

build asan
suite asan -LE release
build tsan
suite tsan -R "$threaded" -LE release
build coverage
find build/coverage -name '*.gcda' -delete
suite coverage -LE 'release|stress' >build/coverage-tests.log || { cat build/coverage-tests.log; exit 1; }
gcovr --root . --filter src/ --filter runner/ --filter cli/ --print-summary \
    --object-directory build/coverage --output build/coverage.txt | tail -n 3
note coverage-report
build release
echo "== seconds so far"
sed 's/^/   /' "$times"
suite release
