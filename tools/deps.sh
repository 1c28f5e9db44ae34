#!/bin/sh
# deps.sh PACKAGE...: installs the Debian or Ubuntu packages that are missing. Says what it does,
# asks nothing, and leaves apt alone when there is nothing to do.
set -eu
missing=
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "deps: not a Debian or Ubuntu system; needed are the likes of: $*" >&2
    exit 0
fi
for package in "$@"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=
if [ "$(id -u)" -ne 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null 2>&1 || {
        echo "deps: missing:$missing; install them as root, or install sudo" >&2
        exit 1
    }
fi
echo "deps: installing$missing"
# One refresh: lists of a fresh image are empty, and old lists name files that are gone.
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
