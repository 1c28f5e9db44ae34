#!/bin/sh
# faults.sh FAULTY_PROGRAM SHIPPED...: what ships holds nothing of the faults that tests can make
# (runner/qwen3vl/fault.h), neither a symbol nor a name; the program that can make them holds both.
set -eu
faulty=$1
shift

holds() { # FILE
    "$NM" "$1" 2>/dev/null | grep -q 'qwen_fault' || LC_ALL=C grep -aqE 'CENOTE_TEST_FAULT|DEEPSTACK_LEFT_OUT' "$1"
}

holds "$faulty" || { echo "$faulty: no faults; this test sees nothing"; exit 1; }
for shipped; do
    if holds "$shipped"; then
        echo "$shipped: holds faults of the tests"
        exit 1
    fi
    echo "$shipped: none"
done
