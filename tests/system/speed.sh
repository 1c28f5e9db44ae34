#!/bin/sh
# speed.sh CENOTE JSON_GET ROOT: the forecast of `cenote plan`: measured once, kept, taken from there,
# measured again when asked to or when what was kept is no good.
set -eu
cenote=$1 json_get=$2 root=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
XDG_CACHE_HOME=$scratch/cache
export XDG_CACHE_HOME
model=$root/models/qwen3vl-tiny
store=cache/cenote/speed.json

fail() {
    echo "FAILED: $*"
    [ -s out ] && head -c 2000 out
    [ -s err ] && head -c 2000 err
    exit 1
}
plan() { # ARGUMENT...
    "$cenote" plan "$model" --threads 1 --memory 64MiB --json "$@" >out 2>err || fail "plan $*"
}
get() {
    "$json_get" "$1" <out || fail "no $1"
}
is() { # PATH VALUE
    [ "$(get "$1")" = "$2" ] || fail "$1 is $(get "$1") and not $2"
}

plan
if grep -q "no forecast" err; then
    echo "SKIP: $(cat err)"
    exit 77
fi
[ -f $store ] || fail "nothing was kept"
[ "$(find cache -type f | wc -l)" = 1 ] || fail "a temporary file was left behind"

# What was kept is used: rates that no machine has, for this host, engine and threads.
tr -d '\n' <$store | sed -E 's/("[0-9]+:[0-9]+ [a-z_]+ 65536": *\[ *)[0-9.e+-]+, *[0-9]+/\11000, 12/' >edited
cp edited $store
plan
is forecast.disk_bytes_per_s 1000
is io.slots 12
plan --memory 20MiB
is forecast.bound disk
engines="uring pread" # of which one is what was measured
for io in $engines; do
    "$cenote" plan "$model" --threads 1 --memory 64MiB --json --io $io >out 2>err || engines=pread
    echo "$(get forecast.disk_bytes_per_s)"
done >rates
[ "$engines" = pread ] || [ "$(grep -c '^1000$' rates)" = 1 ] ||
    fail "two engines, one figure: $(cat rates)"
cp edited $store

# A run and a conversation read as far ahead as the disk wants.
for command in "run --prompt hi" chat; do
    for kept in "$scratch/cache" /proc/none; do
        echo hi | XDG_CACHE_HOME=$kept "$cenote" $command "$model" --threads 1 --memory 64MiB \
            --max-tokens 2 --json >out 2>err || fail "$command"
        echo "$(get memory.staging_bytes)"
    done >staging
    [ "$(head -n 1 staging)" -gt "$(tail -n 1 staging)" ] || fail "$command reads no further ahead"
done
plan --measure
[ "$(get forecast.disk_bytes_per_s)" != 1000 ] || fail "--measure took the kept rate"

# A file of no use counts as none.
for text in "" "{" "[]" '{"schema": "cenote.speed/1", "host": 5, "disks": {}, "kernels": {}}' \
    '{"schema": "cenote.speed/1", "host": "elsewhere", "disks": {"0:0": 7}, "kernels": {}}'; do
    printf '%s' "$text" >$store
    plan
    get forecast.seconds_per_token >/dev/null
    grep -q '"schema": "cenote.speed/1"' $store || fail "not measured again after: $text"
done

# Nor does one that is larger than it can be, for runs read it inside their budget.
{ tr -d '\n' <edited; head -c 100000 /dev/zero | tr '\0' ' '; } >$store
plan
[ "$(get forecast.disk_bytes_per_s)" != 1000 ] || fail "a store of 100 KB was read"

# A directory that cannot be made is no error.
XDG_CACHE_HOME=/proc/none plan
get forecast.seconds_per_token >/dev/null

# A sweep goes from the smallest budget, where nothing is resident, to the one that reads nothing.
plan --sweep
is sweep 9
first=$(get sweep.0.bytes_read_per_token)
for i in 1 2 3 4 5 6 7 8; do
    now=$(get sweep.$i.bytes_read_per_token)
    [ "$now" -le "$first" ] || fail "budget $i of the sweep reads $now bytes, the smallest $first"
done
[ "$first" -gt 1000000 ] || fail "the smallest budget of the sweep reads $first bytes"
[ "$now" -lt 10000 ] || fail "the last budget of the sweep reads $now bytes"
"$cenote" plan "$model" --threads 1 --sweep >out 2>err || fail "plan --sweep"
[ "$(grep -c '#' out)" -ge 9 ] || fail "no bars"
grep -q "s a token, bound by" out || fail "no forecast"
