#!/bin/sh
# command.sh CENOTE MAKE_CHECKPOINT JSON_GET ROOT: the command as a user meets it, on a tiny random
# model: what it prints, what it leaves behind, and one clear line and the right exit code for
# everything that can go wrong.
set -eu
cenote=$1 make_checkpoint=$2 json_get=$3 root=$4
subcommand=
. "$(dirname "$0")/subcommand.sh"
TERM=dumb
XDG_CACHE_HOME=$scratch/cache
export TERM XDG_CACHE_HOME
picture=$root/examples/cat.png
sanitized=${SANITIZE:-}

"$make_checkpoint" tiny model --quiet --shards 2
"$make_checkpoint" tiny single --quiet --shards 1
shard=$(find model -name '*.safetensors' | sort | tail -n 1)
single=$(find single -name '*.safetensors')

# ---- usage: 2 ----
refused 2 "a command is missing"
refused 2 "nonsense" nonsense
refused 2 "MODEL_DIR is missing" plan
refused 2 "--prompt" run model
refused 2 "--bogus" run model --prompt hi --bogus
refused 2 "12potatoes" run model --prompt hi --memory 12potatoes
refused 2 "'0'" run model --prompt hi --memory 0
refused 2 "1 to 256" run model --prompt hi --threads 1000
refused 2 "no tokens" run model --raw-prompt --prompt ''
refused 2 "the prompt is not UTF-8 at byte 2" run model --prompt "$(printf 'hi\377')"
refused 2 "the system text is not UTF-8 at byte 0" run model --prompt hi --system "$(printf '\200')"

# ---- a run ----
expect 0 run model --image "$picture" --prompt "What is this?" --memory 256MiB --max-tokens 5
[ "$(tail -c 1 out | od -An -c | tr -d ' ')" = '\n' ] || fail "no newline at the end"
grep -q "5 tokens" err || fail "no summary"
grep -q "bound by " err || fail "not said what bound it"
if [ -z "$sanitized" ]; then
    [ "$(wc -l <err)" = 2 ] || fail "more than the summary on stderr"
fi
cp out text
expect 0 run model --image "$picture" --prompt "What is this?" --max-tokens 5 --quiet
cmp -s out text || fail "the default budget changes the answer"
[ -z "$sanitized" ] && [ -s err ] && fail "--quiet is not"

# ---- --json ----
expect 0 run model --image "$picture" --image "$picture" --prompt "Compare." --memory 256MiB \
    --max-tokens 6 --json --logits logits.npy --threads 2
for key in text prompt_token_ids token_ids grid_thw stop_reason \
    memory.budget_bytes memory.peak_bytes memory.smallest_budget_bytes memory.weights_bytes \
    memory.staging_bytes memory.kv_bytes memory.activation_bytes \
    io.weight_bytes_read io.bytes_read_per_token io.prefill_weight_passes io.engine io.direct \
    io.seconds_waiting io.seconds_waiting_by_layer io.bytes_read_decode \
    memory.resident_weight_bytes memory.resident_form time.bound time.load_s time.vision_s time.prefill_s time.decode_s \
    time.seconds_per_token; do
    get $key >/dev/null
done
[ "$(get schema)" = cenote.run/1 ] || fail "schema"
[ "$(get grid_thw)" = 2 ] || fail "two images, $(get grid_thw) grids"
[ "$(get memory.budget_bytes)" = 268435456 ] || fail "budget"
[ "$(get prompt_token_ids)" -gt 10 ] || fail "prompt_token_ids"
steps=$(get token_ids)
[ "$steps" -ge 1 ] && [ "$steps" -le 6 ] || fail "$steps tokens"
case $(get stop_reason) in end | length) ;; *) fail "stop_reason" ;; esac
if [ -z "$sanitized" ]; then
    [ "$(get memory.peak_bytes)" -le 268435456 ] || fail "the peak is above the budget"
fi

# ---- each flag does something ----
run_json() { # ARGUMENT...: 1 thread, 4 tokens
    expect 0 run model --json --threads 1 --max-tokens 4 --memory 256MiB "$@"
}
prompt_count() { # ARGUMENT...: tokens of the prompt
    run_json "$@"
    get prompt_token_ids
}
plain=$(prompt_count --prompt '<|im_end|>')
[ "$(get threads)" = 1 ] || fail "--threads"
[ "$(prompt_count --prompt '<|im_end|>' --parse-special)" -lt "$plain" ] || fail "--parse-special"
[ "$(prompt_count --prompt '<|im_end|>' --raw-prompt)" = 1 ] || fail "--raw-prompt"
[ "$(prompt_count --prompt '<|im_end|>' --system 'Be brief.')" -gt "$plain" ] || fail "--system"
whole=$(prompt_count --prompt hi --image "$picture")
[ "$(get grid_thw.0.0) $(get grid_thw.0.1) $(get grid_thw.0.2)" = "1 16 16" ] || fail "grid_thw"
small=$(prompt_count --prompt hi --image "$picture" --max-image-tokens 4)
[ "$small" = $((whole - 60)) ] || fail "--max-image-tokens: $small tokens, $whole without"
kv=$(get memory.kv_bytes)
run_json --prompt hi --image "$picture" --max-image-tokens 4 --kv-type bf16
[ "$(get kv_type)" = bf16 ] && [ "$(get memory.kv_bytes)" -le "$kv" ] || fail "--kv-type"
run_json --prompt hi --temperature 2 --seed 7
get text >seven
run_json --prompt hi --temperature 2 --seed 7
get text | cmp -s - seven || fail "the same seed gave another text"
run_json --prompt hi --temperature 2 --seed 8
get text | cmp -s - seven && fail "another seed gave the same text"
run_json --prompt hi --sample --seed 7
get text | cmp -s - seven && fail "--sample and temperature 2 gave the same text"
[ "$(get top_k)" = 20 ] || fail "--sample, not as generation_config.json has it"
run_json --prompt hi
get text >likeliest
run_json --prompt hi --top-k 1
get text | cmp -s - likeliest || fail "--top-k 1 is not the likeliest"
run_json --prompt hi --sample --temperature 0
get text | cmp -s - likeliest || fail "--sample at temperature 0 is not the likeliest"
run_json --prompt hi --temperature 1 --top-p 0.000001
get text | cmp -s - likeliest || fail "--top-p of next to nothing is not the likeliest"
run_json --prompt hi --repetition-penalty 100
get text | cmp -s - likeliest && fail "--repetition-penalty does nothing"
expect 0 run model --json --prompt hi --max-tokens 1 --memory 50%
expect 0 run model --json --prompt hi --max-tokens 1 --memory 1000TiB
grep -q "note: --memory 1000TiB is more than there is" err || fail "no note on too much memory"
[ "$(get memory.budget_bytes)" -lt 1000000000000000 ] || fail "more than the machine has"

# ---- debug levels find nothing, and change nothing ----
expect 0 run model --image "$picture" --prompt hi --max-tokens 3 --memory 256MiB --quiet
cp out debug-off
for level in 1 2 3; do
    CENOTE_DEBUG=$level
    export CENOTE_DEBUG
    expect 0 run model --image "$picture" --prompt hi --max-tokens 3 --memory 256MiB --quiet
    cmp -s out debug-off || fail "another answer with debug level $level"
    [ -s err ] && fail "a finding with debug level $level"
done
CENOTE_DEBUG=7
refused 2 "it may be 0 to 3" run model --prompt hi --max-tokens 1
unset CENOTE_DEBUG

# ---- notes: tensors that nobody asked for, a wait of more than 30 s ----
cp -r single extra
{
    printf '\066\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    '
} >extra/extra.safetensors
expect 0 run extra --prompt hi --max-tokens 1 --memory 256MiB
grep -qF "note: 1 tensor in the files is not used by this model" err || fail "no note on an extra tensor"
expect 0 run extra --prompt hi --max-tokens 1 --memory 256MiB --quiet
grep -q "note" err && fail "--quiet does not silence notes"
expect 0 inspect extra --json
[ "$(get classes.extra.tensors)" = 1 ] || fail "class extra"
# Some 100,000 tokens: minutes of attention. It must say so before it starts, so it need not finish.
long=$(printf '%050000d' 0 | sed 's/0/0~/g')
for hint in "" "--image $picture"; do
    : >err # or the loop below could see the last one's
    # shellcheck disable=SC2086
    "$cenote" run model $hint --prompt "$long" --threads 1 --max-tokens 1 --memory 1GiB >out 2>err &
    runner=$!
    waited=0
    while ! grep -q "may take about" err && [ $waited -lt 600 ] && kill -0 $runner 2>/dev/null; do
        sleep 0.1
        waited=$((waited + 1))
    done
    kill -KILL $runner 2>/dev/null || true
    wait $runner 2>/dev/null || true
    grep -q "note: the first word may take about [0-9]* s" err || fail "no word about a long wait"
    [ -z "$hint" ] || grep -q -e "--max-image-tokens N" err || fail "no hint to smaller images"
    [ -n "$hint" ] || ! grep -q -e "--max-image-tokens" err || fail "a hint to images without any"
done

# The time to load is the user's, the tokenizer's included: blanks make one slow to read.
cp -r model slow
head -c 20000000 /dev/zero | tr '\0' ' ' >>slow/tokenizer.json
expect 0 run slow --prompt hi --max-tokens 1 --json
awk "BEGIN { exit !($(get time.load_s) > $(get time.total_s) / 2) }" || fail "load_s leaves out files"

# ---- --logits: float32 [steps, vocabulary] ----
vocabulary=$(tr -d ' \n' <model/config.json | sed 's/.*"vocab_size":\([0-9]*\).*/\1/')
head -c 128 logits.npy | grep -qaF "'descr': '<f4', 'fortran_order': False, 'shape': ($steps, $vocabulary)" ||
    fail "header of logits.npy"
[ "$(wc -c <logits.npy)" = $((128 + steps * vocabulary * 4)) ] || fail "size of logits.npy"
ls | grep -q tmp && fail "a temporary file stayed"
refused 1 "missing/l.npy" run model --prompt hi --logits missing/l.npy
refused 2 "path of the logits is empty" run model --prompt hi --logits ''

# ---- does not fit: 3, and the budget that is named then works ----
refused 3 "needs at least" run model --image "$picture" --prompt hi --max-tokens 3 --memory 1MiB
needed=$(sed 's/.*needs at least \([0-9]*\) MiB.*/\1/' err)
expect 0 run model --image "$picture" --prompt hi --max-tokens 3 --memory "${needed}MiB" --json
smallest=$(get memory.smallest_budget_bytes)
[ $((smallest / 1048576)) -le "$needed" ] || fail "smallest_budget_bytes $smallest, named $needed MiB"
expect 0 run model --image "$picture" --prompt hi --max-tokens 3 --memory "$smallest" --json
if [ -z "$sanitized" ]; then
    [ "$(get memory.peak_bytes)" -le "$smallest" ] || fail "peak above the smallest budget"
fi
refused 3 "needs at least" run model --image "$picture" --prompt hi --max-tokens 3 \
    --memory $((smallest - 1))

expect 3 plan model --image 4000x3000 --memory 32MiB
grep -q "; --max-image-tokens N" err || fail "a refusal of a large picture gives no way out"
expect 3 plan model --image 64x64 --memory 1MiB
grep -q "max-image-tokens" err && fail "a hint that cannot help"

# ---- plan: the same answer without the run ----
expect 0 plan model --memory 256MiB --image 320x240 --max-tokens 8
grep -q "^fits in 256.0 MiB" out || fail "plan"
expect 3 plan model --memory 1MiB --image 320x240
grep -q "needs at least" err || fail "plan does not refuse"
expect 3 plan model --memory 1MiB --json
[ "$(get fits)" = false ] || fail "fits"
expect 0 plan model --memory "$(get memory.smallest_budget_bytes)" --json
[ "$(get schema)" = cenote.plan/1 ] || fail "schema of plan"
parts=0 # each byte of the budget has a place, and they add up to the smallest one
for part in process tables books weights scratch staging kv image activation; do
    parts=$((parts + $(get memory.${part}_bytes)))
done
[ $parts = "$(get memory.smallest_budget_bytes)" ] || fail "the parts add up to $parts"
get io.bytes_read_per_token >/dev/null
[ "$(get fits)" = true ] || fail "the smallest budget does not fit"

# ---- doctor ----
expect 0 doctor
grep -q "^this machine" out || fail "doctor"
expect 0 doctor --json
[ "$(get schema)" = cenote.doctor/1 ] || fail "schema of doctor"
[ "$(get profile)" = null ] || fail "a profile that nobody gave"
[ "$(get cores)" -ge 1 ] && [ "$(get memory.total_bytes)" -gt 0 ] || fail "doctor's figures"
CENOTE_HARDWARE=$root/share/hardware/i5-10210u.conf
export CENOTE_HARDWARE
expect 0 doctor --json
[ "$(get profile)" = "Intel Core i5-10210U" ] || fail "doctor's profile"
[ "$(get l2.size_bytes) $(get l3.ways) $(get cpus)" = "262144 12 8" ] || fail "the profile's figures"
expect 0 doctor
grep -q "6.0 MiB, 12 ways, lines of 64 bytes, for 8 CPUs" out || fail "doctor with a profile"
CENOTE_HARDWARE=$root/share/hardware/sm61.conf
expect 0 doctor
grep -q "6.1, blocks of up to 1024 threads with 48.0 KiB.*64, 32, 16 rows" out || fail "doctor with a GPU"
CENOTE_HARDWARE=nowhere.conf
refused 1 "nowhere.conf" doctor
unset CENOTE_HARDWARE

# ---- inspect ----
expect 0 inspect model
grep -q "each token touches" out || fail "inspect"
expect 0 inspect model --json
[ "$(get schema)" = cenote.inspect/1 ] || fail "schema of inspect"
[ "$(get tensors)" = "$(get tensor_count)" ] || fail "tensors"
for key in name dtype shape file bytes class; do
    get tensors.0.$key >/dev/null
done
[ "$(get tensors.0.class)" = embedding ] || fail "class of the first tensor"
get bytes_per_token >/dev/null
get largest_tensor >/dev/null
expect 0 inspect "$single" --json
[ "$(get classes.unknown.tensors)" = "$(get tensor_count)" ] || fail "classes of a file"

# ---- the demo model, and a run without MODEL_DIR ----
expect 0 demo
[ "$(grep -c '^it shows: ' out)" = 3 ] || fail "not three examples"
awk '/^it shows: /{ sub(/^it shows: */, ""); truth = $0 } said { if ($0 != truth) exit 1; said = 0; n++ }
    /^the model says:/{ said = 1 } END { if (n != 3) exit 1 }' out || fail "a wrong answer"
grep -q '[[:cntrl:]]' out && fail "colours in a file"
if [ -z "$sanitized" ]; then
    [ "$(grep -c 'peak memory' err)" = 3 ] || fail "not three summaries"
    grep 'read per token' err | grep -q ' 0 B read' && fail "nothing streamed"
    grep -q 'kB read per token' err || fail "nothing streamed"
fi
expect 0 run --prompt "Hello!" --max-tokens 9 --json
case $(get model) in */models/qwen3vl-tiny) ;; *) fail "another model" ;; esac
export CENOTE_MODEL_DIR=nowhere
refused 1 "nowhere" run --prompt hi
refused 1 "nowhere/examples/examples.json" demo
mkdir -p broken/examples
echo '[{"images": ["a.png"]}]' >broken/examples/examples.json
CENOTE_MODEL_DIR=broken
expect 5 demo
grep -q "lacks its image, question or answer" err || fail "a broken example"
echo '[' >broken/examples/examples.json
refused 5 "broken/examples/examples.json" demo
unset CENOTE_MODEL_DIR

# ---- wrong paths: 1 ----
refused 1 "nowhere" run nowhere --prompt hi
refused 1 "nowhere" inspect nowhere
refused 1 "nowhere" plan nowhere
refused 1 "nothing.png" run model --image nothing.png --prompt hi
mkdir empty
refused 1 "config.json" run empty --prompt hi

# ---- corrupt: 5 ----
head -c 5000 "$picture" >short.png
printf 'this is no picture' >fake.png
: >zero.png
refused 5 "fake.png" run model --image fake.png --prompt hi
refused 5 "zero.png" run model --image zero.png --prompt hi
expect 5 run model --image short.png --prompt hi
grep -q "short.png" err || fail "does not name the picture"
cp -r model cut
truncate -s -1000 "cut/${shard##*/}"
refused 5 "${shard##*/}" run cut --prompt hi
refused 5 "${shard##*/}" inspect cut
cp -r model bad
printf '\377\377\377\377\377\377\377\177' | dd of="bad/${shard##*/}" conv=notrunc bs=8 2>/dev/null
refused 5 "${shard##*/}" run bad --prompt hi
cp -r model json
echo '{"broken":' >json/config.json
refused 5 "config.json" run json --prompt hi
rm "cut/${shard##*/}"
mkfifo "cut/${shard##*/}" # must not wait for a writer
refused 5 "not a regular file" run cut --prompt hi
rm cut/*.safetensors
refused 1 "safetensors" run cut --prompt hi

# A name cannot command the terminal.
hostile=$(printf 'no\033[2Jwhere')
refused 1 "no?[2Jwhere" run "$hostile" --prompt hi

# ---- a closed pipe is an error, not a silent death ----
{
    code=0
    "$cenote" run model --prompt hi --max-tokens 200 2>err || code=$?
    echo "$code" >code
} | :
[ "$(cat code)" = 1 ] || fail "a closed pipe gave $(cat code)"
grep -q "cannot write" err || fail "a closed pipe has no line"
if [ -w /dev/full ]; then
    code=0
    "$cenote" run model --prompt hi --max-tokens 3 --json >/dev/full 2>err || code=$?
    [ "$code" = 1 ] || fail "a full disk gave $code"
fi

code=0
# GCOV_PREFIX: a build that counts lines would cut its own counters at the limit.
(ulimit -f 8 && GCOV_PREFIX=$scratch/gcov exec "$cenote" run model --prompt hi --max-tokens 9 --logits limit.npy >/dev/null 2>err) || code=$?
[ "$code" = 1 ] || fail "a file over the limit gave $code"
grep -q "limit.npy: cannot write" err || fail "a file over the limit has no line"

# ---- a closed stderr: no message lands in a file of ours ----
"$cenote" run model --prompt hi --max-tokens 2 --logits closed.npy >out 2>&- || fail "no stderr, no run"
: >err
[ "$(head -c 6 closed.npy | tail -c 5)" = NUMPY ] || fail "the summary is in the logits"

# ---- signals: 130, and nothing stays; a kill leaves nothing either ----
long_run() { # starts it in the background and waits until it writes
    mkfifo pipe
    # env: a shell starts background jobs with SIGINT ignored, and the command keeps that.
    env --default-signal=INT "$cenote" run model --prompt hi --max-tokens 100000 \
        --logits long.npy "$@" >pipe 2>err &
    runner=$!
    head -c 1 <pipe >/dev/null &
    wait_for=$!
    exec 3<pipe
    wait $wait_for
    rm pipe
}
if env --default-signal=INT true 2>/dev/null; then
    long_run
    kill -INT $runner
    cat <&3 >/dev/null
    exec 3<&-
    code=0
    wait $runner || code=$?
    : >out
    [ "$code" = 130 ] || fail "SIGINT gave $code"
    grep -q "interrupted" err || fail "no line on SIGINT"
    [ -e long.npy ] && fail "an interrupted run left its logits"

    long_run
    kill -KILL $runner
    exec 3<&-
    wait $runner 2>/dev/null || true
    ls | grep -q long && fail "a killed run left $(ls | grep long)"
else
    echo "env cannot set signals; interrupts are not tested"
fi
echo "the command does as it says"
