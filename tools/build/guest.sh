#!/bin/sh
# guest.sh DIR - puts a Linux kernel and the modules that it needs to start from a shared directory
# into DIR, for the tests that want another kernel than the machine's (tests/guest).
#
# From Debian's package of the kernel for virtual machines, of which nothing is installed. 27 MB are
# fetched once. Without it those tests are skipped, and say so.
set -eu
dir=$1
[ -e "$dir/vmlinuz" ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
    exit 0
fi
package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if [ -n "$package" ] && apt-get -q download "$package" >log 2>&1 && dpkg-deb -x ./*.deb .; then
    cd - >/dev/null
    rm -rf "$dir"
    mkdir -p "$dir"
    for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci \
                  fuse virtiofs overlay; do # in the order in which they can be loaded
        find "$work"/lib/modules -name "$module.ko" -exec cp {} "$dir/" \;
        echo "$module.ko" >>"$dir/modules"
    done
    mv "$work"/boot/vmlinuz-* "$dir/vmlinuz"
    echo "guest: done"
else
    echo "guest: no kernel could be fetched; the tests that start one will be skipped" >&2
fi
