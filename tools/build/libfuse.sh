#!/bin/sh
# libfuse.sh PREFIX MINIMUM - build libfuse once into a private prefix, from Debian's sources.
#
# Does nothing when PREFIX already holds a build of at least MINIMUM made by this version of the
# script, or when the system's libfuse is new enough. Otherwise: find the first newer Debian suite
# on the mirror this machine already uses that has fuse3 >= MINIMUM, fetch its source package,
# check it, build a static libfuse3.a and install it into PREFIX.
#
# The machine's apt configuration is read (mirror, proxy, credentials), never changed: lists, cache
# and sources of the newer suite live beside PREFIX in src/. The suite's Release file is checked
# against the system's debian-archive-keyring, and apt checks the package's hashes against it. A
# suite signed only by keys that the keyring does not have yet fails here; the way out is a newer
# keyring from the machine's own suite (apt-get install debian-archive-keyring), never an unverified
# download. The source stays in src/, so a rebuild needs no network.
#
# Environment: LIBFUSE_SUITES  suites to try, in order (default: "forky testing sid")
#              LIBFUSE_MIRROR  mirror to use instead of the one found in apt's configuration
set -eu

[ $# -eq 2 ] || { echo "usage: libfuse.sh PREFIX MINIMUM" >&2; exit 2; }
say() { printf 'libfuse: %s\n' "$*"; }
die() { printf 'libfuse: %s\n' "$*" >&2; exit 1; }

minimum=$2
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
src=$(dirname "$prefix")/src
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
suites=${LIBFUSE_SUITES:-forky testing sid}
# A number for this recipe: raise it when the options below change, and everyone rebuilds.
recipe=2
stamp=$prefix/.built
# Lets any thread answer a request over io_uring; without it fs uses /dev/fuse (fs/transport.c).
uring_patch=$(cd "$(dirname "$0")" && pwd)/libfuse-uring.patch

if [ -f "$stamp" ] && [ -f "$prefix/lib/libfuse3.a" ]; then
    read -r built_recipe built_version <"$stamp" || true
    if [ "$built_recipe" = "$recipe" ] &&
        dpkg --compare-versions "$built_version" ge "$minimum" 2>/dev/null; then
        say "$built_version is built"
        exit 0
    fi
fi
if pkg-config --atleast-version="$minimum" fuse3 2>/dev/null; then
    say "the system's $(pkg-config --modversion fuse3) is new enough"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-source >/dev/null; then
    die "the system's libfuse is older than $minimum and this is not Debian: install libfuse" \
        ">= $minimum (static or shared, with io_uring), or use 'make FUSE=system': fewer features"
fi

# Two makes at once must not build into one directory.
mkdir -p "$src"
if [ "${LIBFUSE_LOCKED:-}" != 1 ] && command -v flock >/dev/null; then
    LIBFUSE_LOCKED=1 exec flock "$src/.lock" "$0" "$prefix" "$minimum"
fi
log=$src/build.log

cached_dsc()
{
    for dsc in "$src"/fuse3_*.dsc; do
        [ -f "$dsc" ] || continue
        version=$(sed -n 's/^Version: *//p' "$dsc" | head -n 1)
        if dpkg --compare-versions "$version" ge "$minimum"; then
            echo "$dsc"
            return 0
        fi
    done
    return 1
}

# The archive roots of the machine's own sources, deb822 and one-line alike: apt parses both.
# Security and vendor archives may be among them; they simply do not have the suite.
mirrors()
{
    if [ -n "${LIBFUSE_MIRROR:-}" ]; then
        echo "$LIBFUSE_MIRROR"
        return
    fi
    # Unfiltered and without release info: images often come without apt's downloaded lists.
    apt-get indextargets --no-release-info -o APT::Get::IndexTargets::Filtered=false \
        --format '$(SITE)' 2>/dev/null | grep -v -e '-security' | awk '!seen[$0]++'
}

private_apt()
{
    tool=$1
    shift
    "$tool" -q -o Dir::Etc::SourceList="$src/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$src/apt/lists" -o Dir::Cache="$src/apt/cache" \
        -o APT::Sandbox::User= -o Acquire::Languages=none \
        -o Acquire::Retries=2 -o Acquire::http::Timeout=30 \
        -o Acquire::Check-Valid-Until=false "$@"
}
# Check-Valid-Until: a frozen mirror serves a signed but old Release file; the version we insist on
# is what protects from being fed an older package.

fetch_from() # mirror suite
{
    rm -rf "$src/apt"
    mkdir -p "$src/apt/lists/partial" "$src/apt/cache/archives/partial"
    echo "deb-src [signed-by=$keyring] $1 $2 main" >"$src/apt/sources.list"
    private_apt apt-get -o APT::Update::Error-Mode=any update >>"$log" 2>&1 || return 1
    version=$(private_apt apt-cache showsrc --only-source fuse3 2>>"$log" |
        sed -n 's/^Version: *//p' | sort -V | tail -n 1)
    [ -n "$version" ] && dpkg --compare-versions "$version" ge "$minimum" || return 1
    say "fetching the source of fuse3 $version ($2)"
    # Into a folder of its own first: an interrupted download must not look like a cached source.
    rm -rf "$src/partial"
    mkdir "$src/partial"
    (cd "$src/partial" && private_apt apt-get source --download-only "fuse3=$version") \
        >>"$log" 2>&1 || return 1
    mv "$src"/partial/fuse3_*.tar.* "$src"
    mv "$src"/partial/fuse3_*.dsc "$src"
    rm -rf "$src/partial"
}

fetch()
{
    [ -r "$keyring" ] || die "$keyring is missing: install debian-archive-keyring"
    found=$(mirrors)
    [ -n "$found" ] || die "apt has no archive configured; set LIBFUSE_MIRROR to a Debian mirror"
    for mirror in $found; do
        for suite in $suites; do
            if fetch_from "$mirror" "$suite"; then
                rm -rf "$src/apt"
                return 0
            fi
        done
    done
    tail -n 30 "$log" >&2
    die "no suite of '$suites' on this machine's mirror has a verifiable fuse3 >= $minimum." \
        "If a key is missing, upgrade debian-archive-keyring; else set LIBFUSE_SUITES or" \
        "LIBFUSE_MIRROR, or use 'make FUSE=system' for fewer features. Log: $log"
}

: >"$log"
dsc=$(cached_dsc) || { fetch; dsc=$(cached_dsc) || die "nothing usable arrived; log: $log"; }
version=$(sed -n 's/^Version: *//p' "$dsc" | head -n 1)
say "building $version (once)"

work=$src/work
rm -rf "$work" "$prefix"
mkdir -p "$work"
# Static, so that the daemon needs no library path; custom-io, so that tests can drive the op table
# over a socket pair without a mount. Its helper fusermount3 is the system's.
if ! {
    dpkg-source --no-check -x "$dsc" "$work/fuse3" &&
        if patch -s -d "$work/fuse3" -p1 --dry-run <"$uring_patch"; then
            patch -d "$work/fuse3" -p1 <"$uring_patch"
        else
            echo "libfuse-uring.patch does not apply: built without it"
        fi &&
        CFLAGS='-O2 -g -fPIC -fstack-protector-strong' meson setup "$work/build" "$work/fuse3" \
            --prefix="$prefix" --libdir=lib --buildtype=plain --wrap-mode=nodownload \
            -Ddefault_library=static -Dexamples=false -Dtests=false -Dutils=false -Duseroot=false \
            -Denable-io-uring=true -Denable-custom-io=true -Dpkgconfig.relocatable=true &&
        ninja -C "$work/build" install
} >>"$log" 2>&1; then
    tail -n 40 "$log" >&2
    die "the build failed; the whole log is $log"
fi
rm -rf "$work"
installed=$(sed -n 's/^Version: *//p' "$prefix/lib/pkgconfig/fuse3.pc")
echo "$recipe $installed" >"$stamp"
say "$installed is in ${prefix#"$PWD"/}"
