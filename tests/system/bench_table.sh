#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench_table.sh SOURCE_DIR: the verdicts of `make bench-stream`, on records made up for them.
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: no python3"
    exit 77
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 "$1/bench/stream/test_report.py"
