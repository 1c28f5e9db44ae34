#!/bin/sh
# headers.sh INCLUDE_DIR: every public header compiles alone, as C11 and as C++, pedantically.
set -eu
include=$1
cxx=
for candidate in c++ g++ clang++; do
    if command -v "$candidate" >/dev/null 2>&1; then
        cxx=$candidate
        break
    fi
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wundef -Werror"
for header in "$include"/cenote/*.h; do
    name=cenote/${header##*/}
    # Twice, for the guard.
    printf '#include <%s>\n#include <%s>\nint main(void) { return 0; }\n' "$name" "$name" \
        >"$scratch/alone.c"
    # shellcheck disable=SC2086
    $CC -std=c11 $warnings -Wstrict-prototypes -I"$include" -fsyntax-only "$scratch/alone.c"
    [ -z "$cxx" ] && continue
    # shellcheck disable=SC2086
    "$cxx" -std=c++11 $warnings -I"$include" -fsyntax-only -x c++ "$scratch/alone.c"
done
if [ -z "$cxx" ]; then
    echo "no C++ compiler: checked as C11 only"
    exit 77
fi
echo "headers stand alone"
