#!/bin/sh
# include_order.sh ROOT: who may include whom (docs/architecture.md).
#
#   base < os < {alloc, policy} < pool < {weights, kv} < monitor < {runner, cli, bench}
#
# Folders in braces do not include each other, but for the command, which sees the runner's one
# public header. Outside src/ only the library's public headers are seen; make_checkpoint borrows
# src/base. All rooms of the runner see fault.h, the switches of the mutation test. A folder that has
# no place in the table is an error, so that it gets one.
# The script then breaks the rule in a copy and expects itself to notice.
set -eu
root=$1

check() { # ROOT
    (cd "$1" && find src runner cli tools -name '*.[ch]' -exec grep -Hn '^ *# *include *"' {} +) |
        awk -F: '
        function folder_of(path,   part) {
            split(path, part, "/")
            if (part[1] != "src")
                return part[1]
            return part[2]
        }
        function complain(what) {
            printf "%s:%s: %s %s\n", $1, $2, what, include
            bad = 1
        }
        BEGIN {
            may["base"] = " base "
            may["os"] = may["base"] "os "
            may["alloc"] = may["os"] "alloc "
            may["policy"] = may["os"] "policy "
            may["pool"] = may["os"] "alloc policy pool "
            may["weights"] = may["pool"] "weights "
            may["kv"] = may["pool"] "kv "
            may["monitor"] = may["pool"] "weights kv monitor "
            may["runner"] = " runner "
            may["cli"] = " cli "
            may["tools"] = " base tools "
        }
        {
            from = folder_of($1)
            include = $0
            sub(/^[^"]*"/, "", include)
            sub(/".*/, "", include)
            if (!(from in may)) {
                complain("folder " from " has no place in the order; it includes")
                next
            }
            # A path with a folder names a module of src/ (or a subfolder of its own); a bare name
            # lies next to the file that includes it.
            count = split(include, part, "/")
            to = count > 1 && part[1] in may ? part[1] : from
            rooms = split($1, part, "/") - 3
            if (include ~ /\.\./)
                complain("a path upwards:")
            else if (from == "runner" && rooms > 0 && count > 1)
                complain("a room of the runner may not look into another:")
            else if (from == "cli" && include == "qwen3vl.h")
                next
            else if (index(may[from], " " to " ") == 0)
                complain(from " may not include")
        }
        END { exit bad }'
}

# Bare names must lie next to the file: an include path that reaches into another folder would
# slip through the table.
neighbours() { # ROOT
    (cd "$1" && find src runner cli tools -name '*.[ch]' -exec grep -Hn '^ *# *include *"[^/"]*"' {} +) |
        while IFS=: read -r file line text; do
            name=${text#*\"}
            name=${name%\"*}
            [ -e "$1/${file%/*}/$name" ] && continue
            [ "${file%%/*}/$name" = cli/qwen3vl.h ] && continue
            [ "${file%%/*}/$name" = runner/fault.h ] && continue
            echo "$file:$line: $name does not lie beside it"
        done | grep . && return 1 || return 0
}

check "$root"
neighbours "$root"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
for folder in src runner cli tools; do
    cp -r "$root/$folder" "$copy/$folder"
done
expect_refusal() { # FILE LINE
    printf '%s\n' "$2" >>"$copy/$1"
    if check "$copy" >/dev/null && neighbours "$copy" >/dev/null; then
        echo "not noticed: $2 in $1"
        exit 1
    fi
    cp "$root/$1" "$copy/$1"
}
expect_refusal src/base/status.c '#include "os/os.h"'
expect_refusal src/pool/pool.c '#include "monitor/trace_format.h"'
expect_refusal src/kv/kv.c '#include "weights/file.h"'
expect_refusal cli/run.c '#include "pool/budget.h"'
expect_refusal cli/run.c '#include "kernels.h"'
expect_refusal runner/qwen3vl/run.c '#include "base/checked.h"'
expect_refusal runner/qwen3vl/image/image.c '#include "kernels/kernels.h"'
expect_refusal runner/qwen3vl/run.c '#include "../../src/os/os.h"'
mkdir "$copy/src/attic"
printf '#include "x.h"\n' >"$copy/src/attic/x.c"
if check "$copy" >/dev/null; then
    echo "not noticed: a folder without a place"
    exit 1
fi
echo "include order holds"
