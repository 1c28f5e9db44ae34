#!/bin/sh
# install.sh BUILD_DIR: an installed tree serves a stranger, through pkg-config and through
# find_package(), also after it was moved.
set -eu
build=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/first
"$CMAKE" --install "$build" --prefix "$prefix" >/dev/null

for file in bin/cenote share/man/man1/cenote.1 \
    share/cenote/models/qwen3vl-tiny/config.json share/cenote/hardware/sm61.conf \
    include/cenote/cenote.h; do
    [ -e "$prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done
library=$(find "$prefix" -name libcenote.so)
[ -n "$library" ] || { echo "not installed: libcenote.so"; exit 1; }

cat >"$scratch/consumer.c" <<'END'
#include <cenote/cenote.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    printf("%s\n", cenote_version());
    return strcmp(cenote_version(), CENOTE_VERSION_TEXT) != 0;
}
END

lib=${library%/*}
PKG_CONFIG_PATH=$lib/pkgconfig
export PKG_CONFIG_PATH
flags=$(pkg-config --cflags --libs cenote)
# shellcheck disable=SC2086
$CC "$scratch/consumer.c" -o "$scratch/by_pkg_config" $flags -Wl,-rpath,"$lib"
[ "$("$scratch/by_pkg_config")" = 0.1.0 ]

mkdir "$scratch/consumer"
mv "$scratch/consumer.c" "$scratch/consumer/"
cat >"$scratch/consumer/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.20)
project(consumer C)
find_package(cenote 0.1 REQUIRED)
add_executable(consumer consumer.c)
target_link_libraries(consumer PRIVATE cenote::cenote)
END
"$CMAKE" -S "$scratch/consumer" -B "$scratch/consumer/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$CC" >/dev/null
"$CMAKE" --build "$scratch/consumer/build" >/dev/null
[ "$("$scratch/consumer/build/consumer")" = 0.1.0 ]

# The command finds its library relative to itself.
mv "$prefix" "$scratch/second"
[ "$(env -u LD_LIBRARY_PATH "$scratch/second/bin/cenote" --version)" = "cenote 0.1.0" ]
echo "installs, links, moves"
