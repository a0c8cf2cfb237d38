#!/bin/sh
# deps.sh - install the Debian packages that building, running and testing need.
#
# Idempotent: when everything is installed it asks dpkg once and touches nothing else.
# Needs root, or sudo. A broken apt source that has nothing to do with us does not stop it:
# what counts is whether the packages install. "deps.sh bench" adds what only `make bench` compares
# with. Next: libfuse.sh for the newer libfuse.
set -eu

# build: compiler, make's helpers, the checkers of `make style`, `make tidy`, `make fuzz`
build='build-essential pkg-config clang clang-format clang-tidy libclang-rt-14-dev diffutils
       python3'
# libfuse.sh: Debian's source package of a newer libfuse
fuse_build='meson ninja-build libnuma-dev libudev-dev dpkg-dev gpgv ca-certificates'
# mux: file system session (fs), ring (mux/base), store (mux/store)
core='libfuse3-dev liburing-dev liblmdb-dev uthash-dev liburcu-dev libarchive-dev'
# exec: seccomp filter, capabilities, Docker's Engine API, limits, a libc for the init
exec='libseccomp-dev libcap-dev libcurl4-openssl-dev libjansson-dev musl-tools'
# api: HTTP/2, protobuf messages, hashes, YAML config, sd_notify
api='libnghttp2-dev libprotobuf-c-dev protobuf-c-compiler libprotobuf-dev libssl-dev libcyaml-dev
     libyaml-dev libfyaml-dev libsystemd-dev'
# tools: the full screen of agentfense-fsctl top
tools='libncurses-dev'
# at run time: sandboxes, fusermount3 and mount.fuse3
run='bubblewrap fuse3'
# tests: C unit tests, a stock gRPC client and its stubs, xattrs, the test runner, the package, a
# Docker daemon (started by the tests on directories of its own) and what its image is made of
tests='libcmocka-dev protobuf-compiler protobuf-compiler-grpc python3-grpcio python3-protobuf
       python3-pytest python3-pytest-xdist python3-pytest-timeout attr tmux
       python3-pip python3-venv git openssl iproute2 docker.io busybox-static zstd
       man-db systemd binutils util-linux'
# tests of full disks and shared extents: file systems in images
images='e2fsprogs xfsprogs'
# tests in a virtual machine (its kernel: guest.sh)
guest='qemu-system-x86'
bench='fuse-overlayfs'

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

packages=$(echo $build $fuse_build $core $exec $api $tools $run $tests $images $guest)
if [ "${1:-}" = bench ]; then
    packages=$(echo $packages $bench)
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    # Words of the other distributions differ too much to guess: name what is needed.
    cat >&2 <<END
deps: this is not a Debian system; install these yourself, then run make again with FUSE=system:
  compilers   gcc, make, pkg-config, clang (with clang-format, clang-tidy, sanitizer runtime),
              musl-gcc (else the init is linked with the system's libc)
  libraries   libfuse3 (>= 3.18.3, or FUSE=system with 3.14 and fewer features), liburing, lmdb,
              libseccomp, libcap, protobuf-c (with protoc-c), protobuf (protoc and its .proto
              files), nghttp2, libcurl, openssl, jansson, libcyaml, libfyaml, uthash, liburcu,
              libarchive, libsystemd, ncursesw
  programs    bubblewrap, fusermount3, /usr/bin/python3, openssl (tests)
  tests       cmocka, grpc_python_plugin, attr; for python3: grpcio, protobuf, pytest,
              pytest-xdist, pytest-timeout; dockerd and busybox for those of Docker
(The Debian names are: $packages)
END
    exit 1
fi

# dpkg-query fails when it has never heard of a name, but still prints the others.
missing_packages()
{
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' $packages 2>/dev/null |
        awk -v want="$packages" '
            $2 == "installed" { have[$1] = 1 }
            END {
                n = split(want, w, " ")
                for (i = 1; i <= n; i++)
                    if (!(w[i] in have))
                        print w[i]
            }'
}

missing=$(missing_packages)
if [ -z "$missing" ]; then
    say "all $(echo $packages | wc -w) packages are installed"
    exit 0
fi
say "installing:" $missing

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "installing packages needs root: run 'make deps' as root once"
    as_root=sudo
fi

install_missing()
{
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Lock::Timeout=300 -q -y \
        --no-install-recommends install $missing </dev/null
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be absent or old. An update that fails for one source still refreshes the
# others, so its failure only matters if the packages then do not install.
$as_root apt-get -q -o Dpkg::Lock::Timeout=300 update >"$log" 2>&1 ||
    say "apt-get update reported a problem; going on"
if ! install_missing >>"$log" 2>&1; then
    cat "$log" >&2
    die "apt-get could not install:" $missing
fi
missing=$(missing_packages)
[ -z "$missing" ] || { cat "$log" >&2; die "still not installed:" $missing; }
say "done"
