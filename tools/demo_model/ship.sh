#!/bin/sh
# ship.sh DIR COMMAND: makes what make.sh left in DIR (trained.pt, accuracy.json, venv) the model of the
# repository: weights, examples, what the tests hold Cenote to, the card, and README.md's first screen,
# which is what COMMAND (build/release/cli/cenote) prints. Look at the difference before you commit it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=$root/models/qwen3vl-tiny
dir=$1 command=$2
python=$dir/venv/bin/python

"$python" "$here/export.py" "$dir/trained.pt" "$model"
"$python" "$here/examples.py" "$model"
cp "$dir/accuracy.json" "$model/accuracy.json"
"$python" "$root/tests/golden/make_demo.py"
"$python" "$here/card.py" "$model"

"$command" demo >"$dir/demo.txt" 2>&1
awk -v demo="$dir/demo.txt" -v root="$root" '
    inside && /^```/ {
        inside = 0
        while ((getline line <demo) > 0) {
            if ((at = index(line, root)) > 0)
                line = substr(line, 1, at - 1) "/home/you/cenote" substr(line, at + length(root))
            print line
        }
    }
    !inside
    /^`make demo` prints this/ { next_fence = 1 }
    next_fence && /^```/ { next_fence = 0; inside = 1 }' "$root/README.md" >"$dir/README.md"
cp "$dir/README.md" "$root/README.md"
