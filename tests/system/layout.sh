#!/bin/sh
# layout.sh CENOTE JSON_GET: cenote layout as a user meets it.
set -eu
cenote=$1 json_get=$2
subcommand=layout
. "$(dirname "$0")/subcommand.sh"

# Greedy puts a below b and needs 74 bytes; the other way round 20 do.
printf 'id,lower,upper,size,alignment\na b,0,2,10,1\nb,1,3,10,64\nempty,5,6,0,1\n' >small.csv
expect 0 small.csv
printf 'id,offset\na b,10\nb,0\nempty,0\n' | cmp - out || fail "offsets"
grep -q "^cenote: peak 20 bytes, 1.0000 times the lower bound and the least there is" err ||
    fail "no summary"
expect 0 small.csv --quiet
[ -s err ] && fail "quiet spoke"
"$cenote" layout - <small.csv >again 2>/dev/null || fail "standard input"
cmp out again || fail "standard input gave something else"

expect 0 small.csv --json
[ "$(get schema)" = cenote.layout/1 ] || fail "schema"
[ "$(get lower_bound_bytes)" = 20 ] || fail "lower bound"
[ "$(get peak_bytes)" = 20 ] || fail "peak"
[ "$(get greedy_bytes.time)" = 74 ] || fail "greedy"
[ "$(get greedy_best)" = size ] || fail "greedy best"
[ "$(get stop_reason)" = optimal ] || fail "stop reason"
[ "$(get improvements)" -ge 1 ] || fail "improvements"
get ratio >/dev/null
get steps >/dev/null

expect 0 small.csv --capacity 20
expect 0 small.csv --time-limit 0s --capacity 74
refused 3 "--capacity of 73 bytes is too small: the best layout found has 74 bytes" small.csv \
    --time-limit 0s --capacity 73
refused 3 "none has less than 20" small.csv --capacity 19
expect 3 small.csv --capacity 19 --json
[ "$(get fits)" = false ] || fail "fits"
[ "$(get stop_reason)" = impossible ] || fail "stop reason of what is impossible"

# Two hundred buffers with steps instead of time: the same offsets twice.
awk 'BEGIN {
    print "id,lower,upper,size"
    for (i = 0; i < 200; i++)
        printf "%d,%d,%d,%d\n", i, i * 7 % 90, i * 7 % 90 + 1 + i * 13 % 17, 100 + i * 31 % 977
}' >large.csv
expect 0 large.csv --steps 50000 --quiet
mv out first
expect 0 large.csv --steps 50000 --quiet
cmp out first || fail "the same steps gave different offsets"
[ "$(wc -l <out)" = 201 ] || fail "not a line for each buffer"

refused 2 "FILE.csv is missing"
refused 2 "'1y' is not a time" small.csv --time-limit 1y
refused 2 "'10%'" small.csv --capacity 10%
refused 1 "nowhere.csv: No such file" nowhere.csv
refused 1 "Is a directory" .
printf 'id,lower,upper,size\na,0,1,8\nb,3,2,8\n' >bad.csv
refused 5 "bad.csv: line 3: upper: it is not above lower" bad.csv
refused 5 "/dev/null: line 1: the header" /dev/null
refused 5 "/dev/zero: no line ends in its first 65536 bytes" /dev/zero
echo "layout as a user meets it"
