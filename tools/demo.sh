#!/bin/sh
# demo.sh BUILD_DIR: the whole way of a run on something that fits a minute and no download.
set -eu
build=$1
model=build/demo-model
image=examples/cat.png
prompt="What is in this picture?"
memory=24MiB
if [ ! -f "$model/config.json" ]; then
    rm -rf "$model"
    "$build/tools/make_checkpoint" tiny "$model" --quiet
fi
cat <<END
The model in $model is tiny and random: it takes the real way from picture to text, and its
text is noise. The project ships no trained model yet; with one, the call is the same.

\$ cenote run $model --image $image --prompt "$prompt" --memory $memory \\
    --max-tokens 32 --temperature 1 --seed 2
END
"$build/cli/cenote" run "$model" --image "$image" --prompt "$prompt" --memory "$memory" \
    --max-tokens 32 --temperature 1 --seed 2
