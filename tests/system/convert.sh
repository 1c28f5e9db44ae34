#!/bin/sh
# convert.sh CENOTE ROOT: tools/traces/convert.py, where there is a python.
set -eu
command -v python3 >/dev/null 2>&1 || { echo "skipped: no python3"; exit 77; }
CENOTE=$1 PYTHONDONTWRITEBYTECODE=1 python3 "$2/tools/traces/test_convert.py"
