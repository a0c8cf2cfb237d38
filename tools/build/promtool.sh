#!/bin/sh
# promtool.sh DIR - puts promtool, with which the tests check the metrics endpoint, into DIR.
#
# From Debian's package prometheus, of which only this one program is taken: installing the package
# would start a server on the machine. 19 MB are fetched once. Without it the tests that need it are
# skipped, so that a machine without a package source still builds.
set -eu
dir=$1
[ -x "$dir/promtool" ] && exit 0
if command -v promtool >/dev/null || ! command -v apt-get >/dev/null; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if apt-get -q download prometheus >log 2>&1 &&
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool; then
    cd - >/dev/null
    mkdir -p "$dir"
    mv "$work/usr/bin/promtool" "$dir/promtool"
    echo "promtool: done"
else
    echo "promtool: could not be fetched; the tests that use it will be skipped" >&2
fi
