#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs live_compare.py with a python that has transformers: $CENOTE_TEST_PYTHON, else python3.
# Exit code 77 (skipped) without one.
python=${CENOTE_TEST_PYTHON:-python3}
if ! "$python" -c "import torch, transformers, PIL" 2>/dev/null; then
    echo "skipped: $python has no torch, transformers and pillow (CENOTE_TEST_PYTHON names another)"
    exit 77
fi
exec "$python" "$(dirname "$0")/live_compare.py" "$@"
