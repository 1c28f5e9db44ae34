#!/bin/sh
# replay.sh CENOTE JSON_GET Debug|... ROOT: cenote replay as a user meets it. Debug builds fill each block,
# which leaves pools of gigabytes to the others.
set -eu
cenote=$1 json_get=$2 build_type=$3
subcommand=replay
. "$(dirname "$0")/subcommand.sh"

# Holes of 3 and 2 units of 256 bytes, and a block of 2: first fit takes the lower one, best fit the
# smaller one, and the next block of 3 finds room there or behind all others.
printf '# a small one\na 1 768\na 2 256\r\na 3 512\na 4 256\nf 1\nf 3\na 5 512 256\na 6 768\na 7 0\nf 7\n' >small
expect 0 small --allocator first-fit --json
[ "$(get schema)" = cenote.replay/1 ] || fail "schema"
[ "$(get trace.op_count)" = 10 ] || fail "operations"
[ "$(get trace.alloc_count)" = 7 ] || fail "allocations"
[ "$(get trace.live_bytes_peak)" = 1792 ] || fail "live"
[ "$(get trace.live_count_peak)" = 5 ] || fail "live blocks"
[ "$(get memory.footprint_bytes)" = 2560 ] || fail "footprint of first fit"
[ "$(get time.alloc_ns.count)" = 6 ] || fail "the block of no bytes was asked for"
[ "$(get time.free_ns.count)" = 2 ] || fail "frees"
expect 0 small --allocator best-fit --json
[ "$(get memory.footprint_bytes)" = 1792 ] || fail "footprint of best fit"
expect 0 small --allocator buddy --json
[ "$(get memory.footprint_bytes)" -gt 1792 ] || fail "footprint of buddy"
expect 0 small --json
[ "$(get allocator)" = cenote ] || fail "the default"
[ "$(get memory.footprint_bytes)" -ge 65536 ] || fail "footprint of cenote"
expect 0 small
grep -q '^digest  *[0-9a-f]\{16\}$' out || fail "digest"
[ -s err ] && fail "it spoke"
"$cenote" replay - <small >again || fail "standard input"
[ "$(grep digest again)" = "$(grep digest out)" ] || fail "standard input gave something else"

# What does not fit is left out.
expect 3 small --allocator first-fit --budget 1536 --json
[ "$(get memory.refused_count)" = 2 ] || fail "refused"
[ "$(get memory.refused_bytes)" = 1024 ] || fail "refused bytes"
grep -q "2 allocations of 7 did not fit" err || fail "no note"
expect 3 small --allocator first-fit --budget 1536 --quiet
[ -s err ] && fail "quiet spoke"
expect 3 small --budget 150KiB
expect 0 small --budget 1MiB
refused 3 "is no leaf" small --allocator buddy --budget 100

# Without a budget nothing is refused, however little is asked for or however it is aligned.
: >nothing
printf 'a 1 0\nf 1\na 2 10\n' >little
awk 'BEGIN { for (i = 0; i < 3000; i++) print "a", i, 1 }' >many
awk 'BEGIN { for (i = 0; i < 100; i++) print "a", i, 4096, 1048576 }' >aligned
for trace in nothing little many aligned; do
    for allocator in cenote tensors buddy best-fit first-fit; do
        expect 0 $trace --allocator $allocator --quiet
    done
done

# The offsets of seeded traces, on every machine and from every compiler. Pools hold gigabytes. Where
# tensors lie depends on whether the kernel moves pages too: theirs are for compilers.sh alone.
grep -v '^#' "$4/tests/data/replay_digests.txt" >digests
while read -r allocator kind digest; do
    case $build_type-$allocator in Debug-cenote | *-tensors) continue ;; esac
    expect 0 --generate "vlm:1:20000:$kind" --allocator "$allocator" --json
    [ "$(get digest)" = "$digest" ] ||
        fail "$allocator, $kind: the digest is $(get digest); tests/data/replay_digests.txt says $digest"
done <digests
[ "$(wc -l <digests)" -ge 10 ] || fail "digests are missing"
expect 0 --generate vlm:2:20000:chunked --allocator buddy --json
grep -q "$(get digest)" digests && fail "another seed gave the same"

# What a run records replays to the offsets that it had.
model=$4/models/qwen3vl-tiny
CENOTE_TRACE=run.trace "$cenote" run "$model" --prompt hello --max-tokens 2 --quiet >out 2>err ||
    fail "a recorded run"
expect 0 run.trace --json
[ "$(get trace.alloc_count)" -gt 10 ] || fail "too few allocations"
[ "$(get recorded_offsets)" = "$(get trace.alloc_count)" ] || fail "other offsets than recorded"
[ "$(get trace.torn_bytes)" = 0 ] || fail "torn"
if CENOTE_TRACE=run.trace "$cenote" run "$model" --prompt hello >out 2>err; then
    fail "a trace was written over"
fi
grep -q "run.trace: File exists" err || fail "it does not say why"
CENOTE_TRACE=x.%p "$cenote" inspect "$model" --quiet >out 2>err || fail "inspect"
[ "$(ls x.[0-9]* | wc -l)" = 1 ] || fail "no file with the number of the process"
if [ "$build_type" != Debug ]; then
    # Killed while it records: what was written is whole but for its end, and replays.
    awk 'BEGIN { for (;;) for (i = 1; i <= 9; i++) printf "a %d %d\nf %d\n", i, i * 9999, i }' |
        head -n 400000 >long
    CENOTE_TRACE=killed.trace "$cenote" replay long --quiet >out 2>err &
    pid=$!
    while [ "$(wc -c <killed.trace 2>/dev/null || echo 0)" -lt 60000 ]; do
        kill -0 $pid 2>/dev/null || break
    done
    kill -9 $pid 2>/dev/null || :
    wait $pid || :
    head -c 50000 killed.trace >torn.trace
    expect 0 torn.trace --json
    [ "$(get trace.torn_bytes)" -gt 0 ] || fail "nothing is torn"
    [ "$(get trace.op_count)" -gt 5000 ] || fail "too few operations of a torn trace"
    grep -q "its last $(get trace.torn_bytes) bytes are not replayed" err || fail "the end is not said"
    expect 0 killed.trace
fi
# Compaction: every other block goes, and the next one finds a pool in pieces. A move is a free and an
# allocation of the recording.
awk 'BEGIN {
    for (i = 0; i < 60; i++) print "a", i, 1500000
    for (i = 0; i < 60; i += 2) print "f", i
    for (i = 100; i < 110; i++) print "a", i, 4194304
}' >pieces
expect 0 pieces --json
[ "$(get memory.moved_bytes)" = 0 ] || fail "raw blocks moved"
CENOTE_TRACE=moves.trace "$cenote" replay pieces --allocator tensors --json >out 2>err ||
    fail "a recorded replay"
[ "$(get memory.moved_bytes)" -gt 1000000 ] || fail "nothing moved"
expect 0 moves.trace --json
[ "$(get trace.alloc_count)" -gt 70 ] || fail "moves were not recorded"
[ "$(get trace.foreign_count)" = 0 ] || fail "a block was freed that was not there"

printf 'CNTRACE1' >bare
expect 0 bare
printf 'CNTRACE1\0\0\0\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' >hostile
refused 5 "hostile: the chunk at byte 8: its length is none" hostile

expect 0 small --memory-viz viz.json
grep -q '"action": "alloc"' viz.json || fail "no events to draw"
expect 1 small --memory-viz /nowhere/viz.json
if [ -w /dev/full ]; then
    expect 1 small --memory-viz /dev/full
    [ -w /dev/full ] || fail "a device was removed"
fi

refused 2 "either TRACE or --generate"
refused 2 "either TRACE or --generate" small --generate vlm:1:1:chunked
refused 2 "'lru' is none of cenote, tensors, buddy, best-fit, first-fit" small --allocator lru
refused 2 "'vlm:1' is not vlm:SEED:OPS:chunked" --generate vlm:1
refused 1 "nowhere: No such file" nowhere
refused 1 "Is a directory" .
hostile() { # CODE TEXT LINES
    printf "$3" >hostile
    refused "$1" "hostile: $2" hostile
}
hostile 5 "line 2: block 2 does not live" 'a 1 8\nf 2\n'
hostile 5 "line 2: block 1 lives already" 'a 1 8\na 1 0\n'
hostile 5 "line 1: a size of 18446744073709551615 brings what lives to 2^63 bytes or more" \
    'a 1 18446744073709551615\n'
hostile 5 "line 1: size: '18446744073709551616' is not a number" 'a 1 18446744073709551616\n'
hostile 5 "line 2: a size of 2 brings" 'a 1 9223372036854775806\na 2 2\n'
hostile 5 "line 1: an alignment of 3 is no power of two" 'a 1 8 3\n'
hostile 5 "line 1: neither 'a ID SIZE [ALIGN]' nor 'f ID'" 'a 1\n'
hostile 5 "line 1: size: '8' is not a number" 'a 1 8\0\n'
head -c 3000 /dev/urandom | tr -d '\n' >noise
expect 5 noise
refused 5 "/dev/zero: no line ends in its first 65536 bytes" /dev/zero

# What is odd, but none's fault: nothing, no bytes, few bytes, much alignment.
printf '' >empty
printf 'a 1 0\nf 1\n' >none
printf 'a 1 1\r\na 2 1\r\na 3 1\r\na 4 1\r\na 5 1\r\na 6 1' >few
printf 'a 1 8 4194304\na 2 8 4194304\na 3 8 4194304\na 4 8 67108864\n' >aligned
for allocator in cenote tensors buddy best-fit first-fit; do
    for trace in empty none few aligned bare; do
        expect 0 "$trace" --allocator "$allocator"
        [ -s err ] && fail "$allocator spoke of $trace"
    done
done
# More than there are addresses is refused block by block, as what does not fit is.
printf 'a 1 4611686018427387904\na 2 100\n' >vast
for allocator in cenote tensors; do
    expect 3 vast --allocator "$allocator" --json
    [ "$(get memory.refused_count)" = 1 ] || fail "$allocator refused more"
done
echo "replay as a user meets it"
