#!/bin/sh
# deb.sh - a Debian package of what was built (make deb), without network and without debhelper.
#
#   deb.sh BIN-DIRECTORY OUTPUT-DIRECTORY
#
# Prints the path of the package. The programs are stripped copies; the libraries that they need
# become dependencies (dpkg-shlibdeps); the private libfuse is linked in and needs nothing.
# Maintainer scripts: packaging/deb/. Next: install.sh.
set -eu

bin=$1
out=$2
here=$(dirname "$0")
version=$(sed -n 's/.*define AGENTFENSE_VERSION "\(.*\)".*/\1/p' "$here/../tools/common/version.h")
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
# mktemp's 0700 would become the mode of / in the package.
mkdir -p "$root/DEBIAN" "$work/debian" "$work/bin" "$out"
chmod 755 "$root" "$root/DEBIAN"

for program in agentfense agentfensed agentfense-fsctl agentfense-init; do
    strip --strip-unneeded -o "$work/bin/$program" "$bin/$program"
done
# What runs --help for the man pages are the stripped ones, too.
umask 022
DESTDIR=$root PREFIX=/usr SYSCONFDIR=/etc "$here/install.sh" "$work/bin"
chmod 640 "$root/etc/agentfense/agentfensed.yaml"
gzip -9n "$root"/usr/share/man/man*/*

printf 'Source: agentfense\n\nPackage: agentfense\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O root/usr/bin/agentfense root/usr/sbin/agentfensed \
    root/usr/sbin/agentfense-fsctl | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ]

size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
cat >"$root/DEBIAN/control" <<END
Package: agentfense
Version: $version
Architecture: $arch
Maintainer: AgentFense-C maintainers <maintainers@example.org>
Installed-Size: $size
Depends: $depends, bubblewrap (>= 0.8.0), fuse3, diffutils
Suggests: bash-completion, docker.io
Section: admin
Priority: optional
Description: sandboxes for AI agents: views with rules over one FUSE mount
 One daemon serves every sandbox from a single FUSE mount. Rules decide what a
 sandbox sees; its changes go into copy-on-write layers; commands run in
 bubblewrap as unprivileged users without network.
END
echo /etc/agentfense/agentfensed.yaml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/deb/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) \
    >"$root/DEBIAN/md5sums"

package=$out/agentfense_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
