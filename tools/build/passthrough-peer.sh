#!/bin/sh
# passthrough-peer.sh OUT - build libfuse's own example passthrough_ll, a peer of `make bench`.
#
# From the source package that libfuse.sh has fetched (build/deps/src), with the libfuse that it has
# built: nothing is downloaded, and nothing of it is kept but the program OUT. Does nothing when OUT
# is newer than that libfuse. Fails, with a line that says why, where either is missing; the peer is
# then left out.
set -eu

[ $# -eq 1 ] || { echo "usage: passthrough-peer.sh OUT" >&2; exit 2; }
die() { printf 'passthrough-peer: %s\n' "$*" >&2; exit 1; }

deps=$(cd "$(dirname "$0")/../.." && pwd)/build/deps
library=$deps/libfuse/lib/libfuse3.a
[ -f "$library" ] || die "build/deps/libfuse is missing: the system's libfuse is in use"
if [ -f "$1" ] && [ "$1" -nt "$library" ]; then
    exit 0
fi
dsc=$(ls "$deps"/src/fuse3_*.dsc 2>/dev/null | sort -V | tail -n 1)
[ -n "$dsc" ] || die "libfuse's source package is not in build/deps/src"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dpkg-source --no-check -x "$dsc" "$work/fuse3" >"$work/log" 2>&1 || die "$(tail -n 1 "$work/log")"
flags=$(PKG_CONFIG_PATH=$deps/libfuse/lib/pkgconfig pkg-config --static --cflags --libs fuse3)
mkdir -p "$(dirname "$1")"
# shellcheck disable=SC2086
gcc -O2 -D_GNU_SOURCE -I"$work/fuse3/example" -I"$work/fuse3/include" -I"$work/fuse3" \
    -o "$work/out" "$work/fuse3/example/passthrough_ll.c" $flags >"$work/log" 2>&1 ||
    die "$(grep -m 1 error "$work/log")"
mv "$work/out" "$1"
