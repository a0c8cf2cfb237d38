#!/bin/sh
# install.sh - copies what was built to where it belongs (make install, make deb).
#
#   install.sh BIN-DIRECTORY
#
# Environment: DESTDIR (prepended to every path), PREFIX (default /usr/local), SYSCONFDIR (default
# /etc), UNITDIR, SYSUSERSDIR, TMPFILESDIR. Paths follow the FHS; the init is in libexec, where the
# daemon looks when it is not beside it. An existing configuration file is kept.
set -eu

bin=$1
here=$(dirname "$0")/..
destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
sysconfdir=${SYSCONFDIR:-/etc}
unitdir=${UNITDIR:-$prefix/lib/systemd/system}
sysusersdir=${SYSUSERSDIR:-$prefix/lib/sysusers.d}
tmpfilesdir=${TMPFILESDIR:-$prefix/lib/tmpfiles.d}
man=$(mktemp -d)
trap 'rm -rf "$man"' EXIT

put() { # MODE SOURCE DESTINATION
    install -D -m "$1" "$2" "$destdir$3"
}

put 755 "$bin/agentfense" "$prefix/bin/agentfense"
put 755 "$bin/agentfense-fsctl" "$prefix/sbin/agentfense-fsctl"
put 755 "$bin/agentfensed" "$prefix/sbin/agentfensed"
put 755 "$bin/agentfense-init" "$prefix/libexec/agentfense/agentfense-init"

python3 "$here/docs/man/generate.py" "$bin" "$man"
for page in "$man"/*; do
    put 644 "$page" "$prefix/share/man/man${page##*.}/${page##*/}"
done

completions=$prefix/share/bash-completion/completions
put 644 "$here/packaging/bash-completion" "$completions/agentfense"
ln -sf agentfense "$destdir$completions/agentfensed"
ln -sf agentfense "$destdir$completions/agentfense-fsctl"

sed -e "s|@SBINDIR@|$prefix/sbin|" -e "s|@SYSCONFDIR@|$sysconfdir|" \
    "$here/packaging/agentfensed.service.in" >"$man/unit"
put 644 "$man/unit" "$unitdir/agentfensed.service"
put 644 "$here/packaging/sysusers.conf" "$sysusersdir/agentfense.conf"
put 644 "$here/packaging/tmpfiles.conf" "$tmpfilesdir/agentfense.conf"

# The commented example with one line switched on: members of the group may call.
sed 's/^# group: agentfense$/group: agentfense/' "$here/docs/agentfensed.yaml" >"$man/yaml"
grep -q '^group: agentfense$' "$man/yaml" || { echo "install.sh: no line of group" >&2; exit 1; }
if [ ! -e "$destdir$sysconfdir/agentfense/agentfensed.yaml" ]; then
    put 640 "$man/yaml" "$sysconfdir/agentfense/agentfensed.yaml"
fi

doc=$prefix/share/doc/agentfense
put 644 "$here/README.md" "$doc/README.md"
put 644 "$here/CHANGELOG.md" "$doc/CHANGELOG.md"
put 644 "$here/docs/agentfensed.yaml" "$doc/examples/agentfensed.yaml"
put 644 "$here/LICENSE" "$doc/copyright"
for dashboard in "$here"/packaging/grafana/*.json; do
    put 644 "$dashboard" "$prefix/share/agentfense/grafana/${dashboard##*/}"
done
