#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# with_python.sh MODULES SCRIPT ARGUMENT...: runs SCRIPT, which lies beside this, with a python that
# has MODULES ("torch, PIL"): $CENOTE_TEST_PYTHON, else python3. Exit code 77 (skipped) without one.
modules=$1 script=$2
shift 2
python=${CENOTE_TEST_PYTHON:-python3}
if ! "$python" -c "import $modules" 2>/dev/null; then
    echo "skipped: $python lacks one of $modules (CENOTE_TEST_PYTHON names another python)"
    exit 77
fi
exec "$python" "$(dirname "$0")/$script" "$@"
