"""What is installed: a Debian package that is installed, run and removed; man pages, completion.

dpkg works in a chroot with an overlay over the machine's /usr, in a mount namespace that goes with
the test: nothing of the machine is touched.
"""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from harness import BIN as TESTED, ROOT

# What is packaged is the release build, also where another one is tested.
RELEASE = ROOT / "build/release/bin"
BIN = RELEASE if (RELEASE / "agentfensed").exists() else TESTED
PROGRAMS = ("agentfense", "agentfense-fsctl", "agentfensed")
UNIT = ROOT / "packaging/agentfensed.service.in"


def run(*argv, code=0, **kwargs):
    """Runs a program to its end; its stdout."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([os.fspath(a) for a in argv], capture_output=True, text=True, timeout=120,
                          check=False, **kwargs)
    assert done.returncode == code, (argv, done.stdout, done.stderr)
    return done.stdout


def unit_value(key):
    """All values of a setting of the unit file."""
    return [line.split("=", 1)[1] for line in UNIT.read_text().splitlines()
            if line.startswith(key + "=")]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    out = tmp_path_factory.mktemp("deb")
    return pathlib.Path(run(ROOT / "packaging/deb.sh", BIN, out).strip())


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    run("dpkg-deb", "-x", package, root)
    return root


def test_the_package_has_what_it_needs_and_no_more(package):
    control = run("dpkg-deb", "-f", package)
    assert re.search(r"^Depends: .*libc6 .*bubblewrap.*fuse3", control, re.M), control
    # The private libfuse is linked in.
    assert "libfuse" not in re.search(r"^Depends: (.*)$", control, re.M).group(1)
    files = {}
    for line in run("dpkg-deb", "-c", package).splitlines():
        mode, owner, _, _, _, name = line.split(None, 5)
        files[name.split(" -> ")[0].lstrip(".")] = (mode, owner)
    assert all(owner == "root/root" for _, owner in files.values())
    assert not [n for n, (mode, _) in files.items() if mode[0] != "l" and "w" in mode[4:]], files
    for name in ("/usr/bin/agentfense", "/usr/sbin/agentfensed", "/usr/sbin/agentfense-fsctl",
                 "/usr/libexec/agentfense/agentfense-init"):
        assert files[name][0] == "-rwxr-xr-x"
    for name in ("/usr/lib/systemd/system/agentfensed.service",
                 "/usr/lib/sysusers.d/agentfense.conf",
                 "/usr/lib/tmpfiles.d/agentfense.conf", "/etc/agentfense/agentfensed.yaml",
                 "/usr/share/man/man1/agentfense.1.gz", "/usr/share/man/man8/agentfensed.8.gz",
                 "/usr/share/man/man8/agentfense-fsctl.8.gz",
                 "/usr/share/man/man5/agentfensed.yaml.5.gz",
                 "/usr/share/bash-completion/completions/agentfense"):
        assert name in files
    assert "/etc/agentfense/agentfensed.yaml" in run("dpkg-deb", "-I", package, "conffiles")


def test_nothing_installed_points_into_the_build_tree(unpacked):
    for path in unpacked.rglob("*"):
        if path.is_file() and not path.is_symlink() and os.access(path, os.X_OK):
            assert "RUNPATH" not in run("readelf", "-d", path)
    for path in list((unpacked / "etc").rglob("*")) + list((unpacked / "usr/lib").rglob("*")):
        assert path.is_dir() or str(ROOT) not in path.read_text()


def test_install_keeps_a_configuration_that_is_there(tmp_path):
    env = dict(os.environ, DESTDIR=str(tmp_path), PREFIX="/opt/af", SYSCONFDIR="/etc")
    config = tmp_path / "etc/agentfense/agentfensed.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("mine")
    run(ROOT / "packaging/install.sh", BIN, env=env)
    assert config.read_text() == "mine"
    unit = (tmp_path / "opt/af/lib/systemd/system/agentfensed.service").read_text()
    assert "ExecStart=/opt/af/sbin/agentfensed --config /etc/agentfense/agentfensed.yaml" in unit


def test_systemd_accepts_the_unit_and_it_has_no_mount_namespace(unpacked, tmp_path):
    text = (unpacked / "usr/lib/systemd/system/agentfensed.service").read_text()
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [s for s in settings if re.match(
        r"Private|Protect|ReadOnly|ReadWrite|Inaccessible|MountFlags|RootDirectory|TemporaryFile|"
        r"Bind|NoNewPriv|Restrict|DynamicUser", s)]
    for needed in ("Type=notify", "Delegate=yes", "KillMode=mixed", "LimitMEMLOCK=infinity"):
        assert needed in settings
    # Where the programs are, so that verify finds them.
    unit = tmp_path / "agentfensed.service"
    unit.write_text(text.replace("/usr/sbin/", str(unpacked / "usr/sbin") + "/").replace(
        "Documentation=", "#"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True,
                          text=True, timeout=60, check=False)
    mine = [line for line in done.stderr.splitlines() if "agentfensed.service" in line]
    assert mine == [], done.stderr


class Installed:
    """The daemon of an unpacked package, under the unit's capabilities, with systemd's sockets."""

    def __init__(self, root, directory):
        self.socket = directory / "api.sock"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.log = directory / "log"
        self.mount = directory / "state/mnt"
        with open(self.log, "wb") as log:
            seen = os.fstat(log.fileno())
            env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                   "NOTIFY_SOCKET": str(directory / "notify"),
                   "JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}
            capabilities = " ".join(unit_value("CapabilityBoundingSet")).lower().split()
            bounds = ",".join("+" + c.removeprefix("cap_") for c in capabilities)
            # The shipped configuration, with places and a group that exist here.
            config = (root / "etc/agentfense/agentfensed.yaml").read_text()
            config = config.replace("/var/lib/agentfense", str(directory / "state"))
            config = config.replace("/run/agentfense/agentfensed.sock", str(self.socket))
            config = config.replace("\ngroup: agentfense\n", "\ngroup: root\n")
            (directory / "agentfensed.yaml").write_text(config)
            self.process = subprocess.Popen(
                ["setpriv", "--bounding-set", "-all," + bounds, "--",
                 str(root / "usr/sbin/agentfensed"), "--config",
                 str(directory / "agentfensed.yaml")],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")

    def told(self):
        """The next message to systemd; fails at once when the daemon has ended instead."""
        deadline = time.monotonic() + 60
        while not select.select([self.notify], [], [], 0.1)[0]:
            ended = self.process.poll()
            assert ended is None, f"the daemon ended with {ended}: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"it says nothing: {self.log.read_text()}"
        return self.notify.recv(4096).decode()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def installed(unpacked, short_tmp):
    made = Installed(unpacked, short_tmp)
    yield made
    made.stop()
    made.notify.close()


@pytest.fixture
def short_tmp():
    """A directory whose path fits into a socket's address."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="af-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_installed_daemon_works_as_a_service(installed, unpacked, tmp_path):
    assert "READY=1" in installed.told(), installed.log.read_text()
    (tmp_path / "a").write_text("hello\n")
    tool = [unpacked / "usr/bin/agentfense", "--socket", installed.socket]
    box = run(*tool, "create", "--preset", "full-access", tmp_path).strip()
    out = run(*tool, "exec", box, "--", "sh", "-c", "cat a; echo b > b; chmod 700 b; id -u")
    assert out == "hello\n1000\n"
    assert run(*tool, "diff", box) == "  A  b\n"
    views = json.loads(run(unpacked / "usr/sbin/agentfense-fsctl", "--socket", installed.socket,
                           "--json", "views"))
    assert views[0]["sandbox_id"] == box
    run(*tool, "rm", box)
    installed.process.send_signal(signal.SIGTERM)
    assert "STOPPING=1" in installed.told()
    assert installed.stop() == 0
    assert str(installed.mount) not in pathlib.Path("/proc/self/mountinfo").read_text()
    lines = [line for line in installed.log.read_text().splitlines() if "level=" in line]
    assert lines and all(re.match(r"<[3467]>level=\w+ area=", line) for line in lines), lines


def test_the_installed_agentfense_finds_daemon_and_init_for_a_private_run(unpacked, tmp_path):
    (tmp_path / "a").write_text("x")
    env = {k: v for k, v in os.environ.items() if k != "AGENTFENSE_SOCKET"}
    assert run(unpacked / "usr/bin/agentfense", "run", tmp_path, "--", "cat", "a", env=env) == "x"


def test_dpkg_installs_configures_and_purges_the_package(package, tmp_path):
    """In a chroot that has the machine's programs, read-only, and a dpkg database of its own."""
    script = r'''
set -e
root=$1
mount -t tmpfs -o mode=755 none $root
mkdir $root/usr
mount -t overlay -o lowerdir=/usr,upperdir=$2,workdir=$3 o $root/usr
for l in bin sbin lib lib64; do [ -L /$l ] && cp -a /$l $root/$l || true; done
mkdir -p $root/etc $root/proc $root/dev $root/tmp $root/run $root/var/lib/dpkg/info \
    $root/var/lib/dpkg/updates
cp /etc/group /etc/passwd /etc/gshadow /etc/shadow /etc/ld.so.cache $root/etc/
cp -a /etc/alternatives $root/etc/
mount -t proc none $root/proc; mount --bind /dev $root/dev
cp /var/lib/dpkg/status $root/var/lib/dpkg/status; touch $root/var/lib/dpkg/available
cp $4 $root/tmp/p.deb
chroot $root dpkg --force-depends -i /tmp/p.deb
chroot $root getent group agentfense
chroot $root agentfensed --version
chroot $root stat -c %a /var/lib/agentfense
touch $root/var/lib/agentfense/data
chroot $root dpkg -r agentfense; test -e $root/var/lib/agentfense/data
test -e $root/etc/agentfense/agentfensed.yaml
chroot $root dpkg -P agentfense
test ! -e $root/var/lib/agentfense; test ! -e $root/etc/agentfense/agentfensed.yaml
test ! -e $root/usr/sbin/agentfensed; echo purged
'''
    root = tmp_path / "root"
    root.mkdir()
    base = tmp_path / "overlay"  # an upper of its own: the machine's /usr is not written to
    base.mkdir()
    out = run("unshare", "-m", "--propagation", "private", "sh", "-c",
              'mount -t tmpfs none "$5" && mkdir "$5/u" "$5/w" && exec sh -c "$6" sh "$1" "$5/u" '
              '"$5/w" "$4"', "sh", root, "-", "-", package, base, script)
    assert "agentfense:x:" in out and "agentfensed 0." in out
    assert "\n700\n" in out and out.endswith("purged\n")


# ---- man pages and completion -----------------------------------------------------------


def commands_of(program):
    """The commands that --help lists."""
    part = re.search(r"^Commands:\n(.*?)\n\n", run(BIN / program, "--help"), re.S | re.M)
    return re.findall(r"^  ([a-z][a-z-]*)", part.group(1), re.M) if part else []


def options_of(program, *words):
    """The options that --help explains: what stands first on an indented line."""
    found = []
    for line in run(BIN / program, *words, "--help").splitlines():
        match = re.match(r"  ((?:-\w, )?--?[a-z][a-z-]*)", line)
        if match:
            found += match.group(1).split(", ")
    return found


def complete(program, *words, env=None):
    """What bash offers after Tab on the last word."""
    script = (f"source {ROOT}/packaging/bash-completion; COMP_WORDS=(\"$@\"); "
              "COMP_CWORD=$(($#-1)); _agentfense; printf '%s\\n' \"${COMPREPLY[@]}\"")
    path = f"{BIN}:{os.environ['PATH']}"
    out = run("bash", "--norc", "-c", script, "bash", program, *words,
              env=dict(os.environ, PATH=path, **(env or {})))
    return out.split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_man_page_and_completion_have_every_command_and_option(program, tmp_path):
    run("/usr/bin/python3", ROOT / "docs/man/generate.py", BIN, tmp_path)
    (page,) = tmp_path.glob(program + ".[18]")
    done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True,
                          timeout=60, check=False, env=dict(os.environ, MANWIDTH="200", LC_ALL="C"))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text = re.sub(".\b", "", done.stdout)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"):
        assert f"\n{section}\n" in text
    commands = commands_of(program)
    assert sorted(complete(program, "")) == sorted(commands)
    for words in [(), *((c,) for c in commands)]:
        options = options_of(program, *words)
        assert options
        assert set(options) <= set(complete(program, *words, "-")), words
        for option in options:
            assert option in text, (words, option)


def test_the_page_of_the_configuration_has_every_key(tmp_path):
    run("/usr/bin/python3", ROOT / "docs/man/generate.py", BIN, tmp_path)
    text = run("man", "-l", tmp_path / "agentfensed.yaml.5", env=dict(os.environ, MANWIDTH="200"))
    keys = re.findall(r"^ *(?:# )?([a-z_]+):", (ROOT / "docs/agentfensed.yaml").read_text(), re.M)
    assert len(keys) > 40
    for key in keys:
        assert key + ":" in text


def test_completion_offers_the_ids_of_sandboxes_and_values(daemon, client):
    box = client.sandbox(client.codebase({"a": "a"}))
    offered = complete("agentfense", "--socket", daemon.socket, "exec", box[:6])
    assert offered == [box]
    assert complete("agentfense", "create", "--commit-policy", "on-") == ["on-exec", "on-destroy"]
    assert "agent-safe" in complete("agentfense", "run", "--preset", "a")
    assert complete("agentfense", "run", "x", "--apply", "--ke") == ["--keep"]
    client.destroy(box)


def test_completion_offers_the_ids_of_processes(daemon, client):
    box = client.sandbox(client.codebase({"a": "a"}))
    process = run(BIN / "agentfense", "--socket", daemon.socket, "exec", "-d", box, "--", "sleep",
                  "1000").strip()
    assert process in complete("agentfense", "--socket", daemon.socket, "logs", "proc_")
    client.destroy(box)
