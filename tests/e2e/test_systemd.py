"""The service under a real systemd: installed from the package, started, killed, stopped.

systemd runs as pid 1 of namespaces of its own, on an overlay over the machine's root with a fresh
/run and /tmp, and a control group hierarchy that it alone sees. Of its own units only the journal
is left, so that nothing of it reaches the machine. Everything goes with the namespaces.
"""

import pathlib
import re
import subprocess

import pytest

from harness import BIN as TESTED, ROOT

SYSTEMD = pathlib.Path("/lib/systemd/systemd")
RELEASE = ROOT / "build/release/bin"
BIN = RELEASE if (RELEASE / "agentfensed").exists() else TESTED

# $1: an empty directory of tmpfs, $2: the package, $3: what is to be done, $4: where results go
BOOT = r"""
set -e
base=$1 root=$1/root
mkdir $base/u $base/w $root
mount -t overlay -o lowerdir=/,upperdir=$base/u,workdir=$base/w o $root
mount -t tmpfs -o mode=755 none $root/run
mount -t tmpfs none $root/tmp
mkdir $root/run/results $root/run/old
mount --bind "$4" $root/run/results
mount --rbind /dev $root/dev
mount -t sysfs none $root/sys
mount -t tmpfs -o mode=755 none $root/sys/fs/cgroup
mkdir $root/sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd,xattr none $root/sys/fs/cgroup/systemd
mount -t proc none $root/proc
for wants in $root/lib/systemd/system/*.wants $root/etc/systemd/system/*.wants; do
    find "$wants" -mindepth 1 ! -name 'systemd-journald*' -delete
done
: > $root/etc/fstab
cp "$2" $root/run/package.deb
cp "$3" $root/run/script
chroot $root dpkg --force-depends -i /run/package.deb > "$4/dpkg" 2>&1
cat > $root/etc/systemd/system/try.service <<E
[Unit]
Wants=agentfensed.service
After=agentfensed.service
[Service]
Type=oneshot
ExecStart=/bin/sh -x /run/script
ExecStopPost=systemctl --no-block exit
StandardOutput=file:/run/results/log
StandardError=file:/run/results/log
E
cd $root
pivot_root . run/old
umount -l /run/old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=try.service --log-target=null --show-status=0
"""

SCRIPT = r"""
cd /run/results
value() { systemctl show agentfensed -P "$1"; }
value ActiveState > started
value ControlGroup > group
mkdir /run/project && echo hello > /run/project/a
box=$(agentfense create --preset full-access /run/project)
agentfense exec $box -- sh -c 'cat a; echo new > b; cat b' > ran 2>&1
first=$(value MainPID)
kill -KILL $first
while [ "$(value MainPID)" = $first ] || [ "$(value ActiveState)" != active ]; do sleep 0.1; done
value NRestarts > restarts
agentfense ls > listed 2>&1
agentfense exec $box -- cat b > after 2>&1 || agentfense start $box
agentfense exec $box -- cat b > after 2>&1
systemctl stop agentfensed
value Result > result
cat /proc/self/mountinfo > mounts
journalctl -u agentfensed -o short-unix > journal
journalctl -u agentfensed -p warning -o cat > warnings
echo done > done
"""


def test_the_package_works_under_systemd_survives_a_kill_and_stops(tmp_path):
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")
    package = subprocess.run([ROOT / "packaging/deb.sh", BIN, tmp_path], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.strip()
    base, results, script = tmp_path / "base", tmp_path / "results", tmp_path / "script"
    base.mkdir()
    results.mkdir()
    script.write_text(SCRIPT)
    spaces = ["unshare", "-m", "-p", "-u", "-i", "-n", "-C", "-f", "--propagation", "private"]
    inside = 'mount -t tmpfs -o mode=755 none "$1" && exec sh -c "$0" sh "$@"'
    done = subprocess.run([*spaces, "sh", "-c", inside, BOOT, base, package, script, results],
                          capture_output=True, text=True, timeout=170, stdin=subprocess.DEVNULL)
    told = {path.name: path.read_text() for path in results.iterdir()}
    said = done.stdout + done.stderr + told.get("log", "")
    if "systemd" not in told and "log" not in told and "name=systemd" in done.stderr:
        pytest.skip(f"no control group hierarchy for systemd here: {done.stderr.strip()}")
    assert "done" in told, said
    assert told["started"] == "active\n"
    assert told["group"].startswith("/system.slice/agentfensed.service")
    assert told["ran"] == "hello\nnew\n"
    assert told["restarts"] == "1\n"
    assert "sb_" in told["listed"]
    assert told["after"] == "new\n", "what a command wrote is lost with the daemon"
    assert told["result"] == "success\n", told["journal"]
    assert "/var/lib/agentfense/mnt" not in told["mounts"], "a mount is left behind"
    assert re.search(r"agentfensed\[\d+\]: ready", told["journal"])
    assert not [line for line in told["warnings"].splitlines() if "level=info" in line], (
        "the journal takes every line for a warning")
