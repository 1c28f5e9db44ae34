# What tests of the command as a user meets it share; to be sourced by a script that has set cenote,
# json_get and subcommand (empty: it is among the arguments). Leaves the script in a scratch directory
# of its own.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

fail() {
    echo "FAILED: $*"
    [ -s out ] && { echo "stdout:"; head -c 2000 out; }
    [ -s err ] && { echo "stderr:"; head -c 4000 err; }
    exit 1
}

# expect CODE ARGUMENT...: runs cenote into files out and err.
expect() {
    wanted=$1
    shift
    code=0
    "$cenote" ${subcommand:+"$subcommand"} "$@" >out 2>err </dev/null || code=$?
    [ "$code" = "$wanted" ] || fail "exit code $code and not $wanted: $*"
}

# refused CODE TEXT ARGUMENT...: nothing on stdout, and one line of the program that says TEXT.
refused() {
    refused_code=$1 refused_text=$2
    shift 2
    expect "$refused_code" "$@"
    [ -s out ] && fail "a refusal wrote to stdout: $*"
    [ "$(wc -l <err)" = 1 ] || fail "not one line: $*"
    grep -q "^cenote: " err || fail "the line does not name the program: $*"
    grep -qF -e "$refused_text" err || fail "the line does not say '$refused_text': $*"
}

get() { # PATH: of the JSON in out
    "$json_get" "$1" <out || fail "no $1"
}
