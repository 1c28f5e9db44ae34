#!/bin/sh
# pack.sh CENOTE MAKE_CHECKPOINT JSON_GET: packed copies as a user meets them: written once, left
# alone, written anew when stale, verified, and nothing left behind by what fails.
set -eu
cenote=$1 make_checkpoint=$2 json_get=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
XDG_CACHE_HOME=$scratch/cache
export XDG_CACHE_HOME

fail() {
    echo "FAILED: $*"
    [ -s out ] && { echo "stdout:"; head -c 2000 out; }
    [ -s err ] && { echo "stderr:"; head -c 4000 err; }
    exit 1
}

expect() { # CODE ARGUMENT...: runs the command into files out and err
    wanted=$1
    shift
    code=0
    "$cenote" "$@" >out 2>err </dev/null || code=$?
    [ "$code" = "$wanted" ] || fail "exit code $code and not $wanted: cenote $*"
}

get() { # PATH: of the JSON in out
    "$json_get" "$1" <out || fail "no $1"
}

only() { # FOLDER: holds one file, a packed copy
    [ "$(ls -A "$1" | wc -l)" = 1 ] || fail "not one file in $1: $(ls -A "$1")"
    ls "$1" | grep -Eq '^cenote-[0-9a-f]{16}\.pack$' || fail "not a packed copy: $(ls "$1")"
}

"$make_checkpoint" tiny model --quiet --shards 2

# ---- written once ----
expect 0 pack model --out copies
[ "$(cat out)" = "copies/$(ls copies)" ] || fail "the path is not on stdout"
grep -q "^cenote: written: " err || fail "no summary"
only copies
cp copies/* first
expect 0 pack model --cache copies --json
for key in file_bytes packed_panels packed_bytes packed_weight_bytes ratio seconds path; do
    get $key >/dev/null
done
[ "$(get schema) $(get state)" = "cenote.pack/1 there" ] || fail "a good copy was not left alone"
[ "$(get file_bytes)" = "$(wc -c <first)" ] || fail "file_bytes"
expect 0 pack model --out copies --force --quiet
[ -s err ] && [ -z "${SANITIZE:-}" ] && fail "--quiet is not"
cmp -s first copies/* || fail "the same checkpoint, other bytes"
expect 0 pack model
ls model | grep -q '^cenote-.*\.pack$' || fail "the default folder is not MODEL_DIR"

# ---- verified ----
expect 0 pack model --out copies --verify --json
[ "$(get state)" = verified ] || fail "verified"
expect 1 pack model --out . --verify
grep -q "there is no packed copy" err || fail "a copy that is not there"
blocks=$(($(wc -c <first) / 4096)) # of which each begins with bytes of a panel
dd if=/dev/zero of="$(echo copies/*)" bs=4096 count=1 seek=$((blocks / 2)) conv=notrunc 2>dd.log
expect 5 pack model --out copies --verify
grep -q "tensor \`.*rows \[.*the checksum differs" err || fail "the damaged panel is not named"

# ---- read: the same logits to the bit, from the copy, from a damaged one and from the checkpoint ----
expect 3 plan model --cache none --max-tokens 4 --memory 1MiB --json
least=$(get memory.smallest_budget_bytes)
logits() { # NAME ARGUMENT...
    name=$1
    shift
    expect 0 run model --prompt hi --max-tokens 4 --memory $((least + 65536)) --logits "$name" --json "$@"
}
logits plain.npy --cache none
plain_bytes=$(get io.weight_bytes_read)
logits damaged.npy --cache copies
[ "$(get io.pack_failures)" -gt 0 ] || fail "the damaged panel was read"
cmp -s plain.npy damaged.npy || fail "a damaged copy changes the logits"
expect 0 pack model --out copies --force --quiet
logits packed.npy --cache copies
[ "$(get io.pack_failures)" = 0 ] || fail "a good panel was refused"
[ "$(get io.weight_bytes_read)" -lt "$plain_bytes" ] || fail "a packed copy saves nothing"
cmp -s plain.npy packed.npy || fail "a packed copy changes the logits"

# ---- no room for its table: the checkpoint is read, unless the copy was asked for by name ----
"$cenote" run model --prompt hi --max-tokens 4 --json >out 2>err </dev/null || fail "a run"
[ "$(get io.packed_copy)" = read ] || fail "the copy beside the model was left alone"
tokens=$(get prompt_token_ids)
expect 3 plan model --cache none --prompt-tokens "$tokens" --max-tokens 4 --memory 1MiB --json
[ "$(get io.packed_copy)" = none ] || fail "--cache none"
least=$(get memory.smallest_budget_bytes)
expect 0 plan model --prompt-tokens "$tokens" --max-tokens 4 --memory "$least" --json
[ "$(get io.packed_copy)" = "no room" ] || fail "plan does not say that there is no room"
for command in "plan model --prompt-tokens $tokens" "run model --prompt hi"; do
    expect 0 $command --max-tokens 4 --memory "$least"
    grep -q "note: the packed copy is not used: .*no room" err || fail "no note: $command"
    expect 3 $command --max-tokens 4 --memory "$least" --cache copies
    grep -q "too small: .*--cache none takes less" err || fail "not said what helps: $command"
done
expect 0 plan model --prompt-tokens "$tokens" --max-tokens 4 --memory $((least + 1048576)) --json
[ "$(get io.packed_copy)" = read ] || fail "the copy is not used where there is room"

# ---- stale ----
shard=$(find model -name '*.safetensors' | sort | tail -n 1)
touch -d 2001-02-03 "$shard"
expect 5 pack model --out copies --verify
grep -q "stale: ${shard##*/}" err || fail "not said what is stale"
expect 0 pack model --out copies
grep -q "note: written anew: .*stale" err || fail "no note about the stale copy"
expect 0 pack model --out copies --verify
only copies

# ---- refused, and nothing left ----
expect 1 pack model --out nowhere/below
expect 1 pack nowhere --out copies
expect 2 pack
expect 2 pack model --memory 1GiB
mkdir small
code=0
(ulimit -f 100; "$cenote" pack model --out small >out 2>err) || code=$?
[ "$code" = 1 ] || fail "exit code $code when the file grows too large"
grep -q "write: " err || fail "not said that writing failed"
[ -z "$(ls -A small)" ] || fail "left behind: $(ls -A small)"
"$make_checkpoint" tiny single --quiet --dtype f32
expect 1 pack single --out small
grep -q "no bf16 matrix" err || fail "f32 is packed"
[ -z "$(ls -A small)" ] || fail "left behind: $(ls -A small)"
