#!/bin/sh
# make.sh DIR: trains the demo model from nothing, exports it to DIR/qwen3vl-tiny, measures it on
# pictures of a seed that nobody looked at before. ship.sh takes it into the repository. The random
# pictures and the steps are fixed; what comes out still differs a little between CPUs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
[ -x venv/bin/python ] || python3 -m venv venv
venv/bin/python -m pip install --quiet -r "$here/requirements.txt"
venv/bin/python "$here/train.py" trained.pt
venv/bin/python "$here/export.py" trained.pt qwen3vl-tiny
venv/bin/python "$here/examples.py" qwen3vl-tiny
venv/bin/python "$here/evaluate.py" trained.pt --seed 20261121 --out accuracy.json | tee accuracy.txt
