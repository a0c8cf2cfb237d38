"""A small virtual machine with a kernel of its own, on this machine's files.

The kernel is Debian's (tools/build/guest.sh); its root is ours, shared by virtiofs, under an
overlay in its memory: so nothing is copied, and nothing that it does reaches us. Without processor
support for virtual machines QEMU translates, which is some ten times slower, else the same.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNEL = ROOT / "build/deps/guest"
QEMU = "qemu-system-x86_64"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
BUSYBOX = "/bin/busybox"
MEMORY_MIB = 1024
BEGUN = "guest: begun"
DONE = "guest: exit code "

# Process 1 of the initial RAM file system; @...@ is filled in.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
for module in @modules@; do $b insmod /modules/$module; done
$b mount -t virtiofs -o ro root /lower && $b mount -t tmpfs tmpfs /upper &&
    $b mkdir /upper/data /upper/work &&
    $b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root
exec $b switch_root /root /bin/sh -c @script@
"""

# What it becomes when the root is there.
START = """
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount --bind @root@ /mnt # which may lie below one of those
for dir in /dev/shm /tmp /run; do mount -t tmpfs tmpfs $dir; done
mkdir -p @root@ && mount --bind /mnt @root@
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
cd @root@
echo "@begun@"
( @command@ )
echo "@done@$?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def missing():
    """Why no guest can be started here, or ''."""
    if os.uname().machine != "x86_64":
        return "the guest's kernel is for x86_64"
    for name, path in (("qemu", shutil.which(QEMU)), ("virtiofsd", VIRTIOFSD), ("busybox", BUSYBOX),
                       ("its kernel", KERNEL / "vmlinuz")):
        if path is None or not os.path.exists(path):
            return f"{name} is not there: run 'make deps' with a package source"
    return ""


def has_kvm():
    """Whether the processor helps. A /dev/kvm alone does not say so: guests of a machine that is a
    guest itself may find one and yet never get past their first instructions."""
    flags = re.search(r"^flags\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return os.access("/dev/kvm", os.W_OK) and bool({"vmx", "svm"} & set(flags[1].split()))


def cpio_entry(name, mode, data=b""):
    """One entry of a `newc` archive, which is what the kernel unpacks."""
    name = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    entry = b"070701" + b"".join(b"%08x" % f for f in fields) + name
    entry += b"\0" * (-len(entry) % 4) + data
    return entry + b"\0" * (-len(entry) % 4)


def initial_ram(command):
    """The archive from which it starts."""
    script = START.replace("@root@", shlex.quote(str(ROOT))).replace("@command@", command)
    script = script.replace("@begun@", BEGUN).replace("@done@", DONE)
    modules = (KERNEL / "modules").read_text().split()
    init = INIT.replace("@modules@", " ".join(modules)).replace("@script@", shlex.quote(script))
    parts = [cpio_entry(name, 0o040755)
             for name in ("bin", "proc", "modules", "lower", "upper", "root")]
    parts += [cpio_entry("bin/busybox", 0o100755, pathlib.Path(BUSYBOX).read_bytes())]
    parts += [cpio_entry("modules/" + name, 0o100644, (KERNEL / name).read_bytes())
              for name in modules]
    parts += [cpio_entry("init", 0o100755, init.encode()), cpio_entry("TRAILER!!!", 0)]
    return b"".join(parts)


def machine(directory):
    """The command line of QEMU."""
    accelerator = ["-accel", "kvm", "-cpu", "host"] if has_kvm() else [
        "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"]
    return [QEMU, *accelerator, "-smp", "2", "-m", str(MEMORY_MIB),
            "-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on",
            "-numa", "node,memdev=mem", "-chardev", f"socket,id=root,path={directory}/root.sock",
            "-device", "vhost-user-fs-pci,chardev=root,tag=root",
            "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
            "-kernel", str(KERNEL / "vmlinuz"), "-initrd", f"{directory}/initial_ram",
            # Its own tests are all that it runs: nothing in it needs protection from anything else.
            "-append", "console=ttyS0 loglevel=1 panic=-1 edd=off mitigations=off lsm="]


def run(command, directory, limit_s):
    """Runs a shell command as root in a new guest, in the repository. Returns (exit code, console).

    The exit code is None when the guest did not get to its end in time.
    """
    directory = pathlib.Path(directory)
    (directory / "initial_ram").write_bytes(initial_ram(command))
    log = open(directory / "virtiofsd.log", "wb")
    share = subprocess.Popen(
        [VIRTIOFSD, f"--socket-path={directory}/root.sock", "-o", "source=/", "-o",
         "sandbox=chroot", "-o", "cache=always"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not (directory / "root.sock").exists():
            assert share.poll() is None and time.monotonic() < until, (
                (directory / "virtiofsd.log").read_text())
            time.sleep(0.01)
        with open(directory / "console", "wb") as console:
            try:
                subprocess.run(machine(directory), stdin=subprocess.DEVNULL, stdout=console,
                               stderr=subprocess.STDOUT, timeout=limit_s, check=False)
            except subprocess.TimeoutExpired:
                pass
    finally:
        share.kill()
        share.wait()
        log.close()
    text = (directory / "console").read_text(errors="replace").replace("\r\n", "\n")
    ended = re.search(f"^{DONE}(\\d+)", text, re.M)  # the kernel may go on in the same line
    return (int(ended[1]) if ended else None), text
