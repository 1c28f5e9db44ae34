#!/bin/sh
# manual.sh CENOTE ROOT: the committed manual page and completion are those of the option tables.
set -eu
cenote=$1 root=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$cenote" help --man >"$scratch/cenote.1"
"$cenote" help --bash >"$scratch/cenote.bash"
diff "$root/docs/man/cenote.1" "$scratch/cenote.1" || { echo "run 'make man'"; exit 1; }
diff "$root/cli/cenote.bash" "$scratch/cenote.bash" || { echo "run 'make man'"; exit 1; }
if command -v bash >/dev/null; then
    completed=$(bash -c '. "$1"; COMP_WORDS=(cenote run m --ra); COMP_CWORD=3; _cenote
        echo "${COMPREPLY[*]}"' sh "$scratch/cenote.bash")
    [ "$completed" = --raw-prompt ] || { echo "completed to '$completed'"; exit 1; }
fi
if command -v man >/dev/null; then
    warnings=$(man --warnings -E UTF-8 -l -Tutf8 -Z "$scratch/cenote.1" 2>&1 >/dev/null || true)
    [ -z "$warnings" ] || { echo "$warnings"; exit 1; }
fi
for command in run plan inspect pack layout; do
    "$cenote" $command --help | grep -q "usage: cenote $command"
done
[ "$("$cenote" --version)" = "cenote 0.1.0" ]
