"""Disks that are full, slow, or huge: the right answer, the store whole, and nobody else waits."""

import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import grpc
import pytest

from harness import FULL, ROOT, Daemon, afpb, eventually, pb
from processes import alive_with, unique


def mounted_image(directory, mkfs, size):
    """A file system of its own in an image file, mounted at directory/disk."""
    image, disk = directory / "image", directory / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([*mkfs, str(image)], check=True, capture_output=True)
    made = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True,
                          text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"cannot mount an image here: {made.stderr.strip()}")
    return disk


@pytest.fixture
def on_image(tmp_path):
    """Makes a daemon whose state directory is on a file system image."""
    made = []

    def make(mkfs, size):
        disk = mounted_image(tmp_path, mkfs, size)
        made.append((None, disk))
        daemon = Daemon(tmp_path)
        daemon.state = disk / "state"
        made[-1] = (daemon, disk)
        return daemon

    yield make
    for daemon, disk in made:
        if daemon:
            daemon.cleanup()
        subprocess.run(["umount", str(disk)], check=True)


EXT4 = ("mkfs.ext4", "-q", "-F")
XFS = ("mkfs.xfs", "-q", "-m", "reflink=1")


def test_a_full_disk_is_enospc_and_deleting_makes_room(on_image):
    """On a small ext4: writes end with ENOSPC, old files stay whole, unlink works, kill -9 too."""
    daemon = on_image(EXT4, 64 << 20).start()
    client = daemon.client()
    base = bytes(range(256)) * 2000
    sandbox = client.sandbox(client.codebase({"base": base}), manual=True)
    full = client.exec(sandbox, "for i in $(seq 200); do head -c 1000000 /dev/zero > f$i || break; "
                       "done; echo x >> base; mkdir d; echo tried")
    assert "No space left on device" in full.stderr and full.stdout == "tried\n", full
    check = "head -c 512000 base | sha256sum | cut -c1-8"
    before = client.out(sandbox, check)
    daemon.kill()  # and fsck
    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, check) == before
    client.out(sandbox, "rm -f f*")

    def works():
        wrote = client.exec(sandbox, "head -c 1000000 /dev/zero > again && echo y >> base")
        return wrote.exit_code == 0

    eventually(works)
    assert client.out(sandbox, check) == before
    client.close()


def test_room_that_cannot_be_reserved_is_not_kept(on_image):
    """ext4 keeps what a failing fallocate got; here nobody would see whose it is, nor any quota."""
    daemon = on_image(EXT4, 128 << 20).start()
    client = daemon.client()
    codebase = client.codebase({"base": b"base"})
    sandbox, other = (client.sandbox(codebase, manual=True) for _ in range(2))
    client.out(sandbox, "head -c 100000 /dev/zero > f")
    reserve = "import os; os.posix_fallocate(os.open('f', os.O_RDWR), 0, 10 << 30)"
    full = client.exec(sandbox, f'python3 -c "{reserve}"')
    assert "No space left on device" in full.stderr, full
    assert client.out(sandbox, "stat -c %s f; tr -d '\\0' < f | wc -c") == "100000\n0\n"
    client.out(other, "head -c 20000000 /dev/zero > g")
    client.close()


def shares_extents(daemon, size):
    """Whether the first append to a base file of `size` bytes leaves one copy of its bytes."""
    client = daemon.client()
    codebase = client.codebase({"base": os.urandom(size)})
    sandbox = client.sandbox(codebase, manual=True)  # a commit would have the first blob collected
    client.out(sandbox, "echo more >> base; tail -c 5 base")
    assert client.out(sandbox, "stat -c %s base") == f"{size + 5}\n"
    os.sync()

    def large():  # one that moves from new/ to blobs/ meanwhile is missed
        return [p for p in daemon.state.glob("[bn]*/**/*")
                if p.exists() and p.is_file() and p.stat().st_size >= size]

    eventually(lambda: len(large()) == 2)
    blobs = large()
    shown = [subprocess.run(["filefrag", "-v", str(p)], check=True, capture_output=True,
                            text=True).stdout for p in blobs]
    client.close()
    return all("shared" in text for text in shown)


@pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="mkfs.xfs is not installed")
def test_copy_up_shares_extents_where_the_disk_can(on_image):
    assert shares_extents(on_image(XFS, 512 << 20).start(), 8 << 20)


def test_copy_up_copies_where_extents_cannot_be_shared(on_image):
    assert not shares_extents(on_image(EXT4, 256 << 20).start(), 8 << 20)


HANG_MS = 100_000  # at most; the tests let go of the disk


@pytest.fixture(scope="module")
def slow_disk(tmp_path_factory):
    """The shared object of tests/faults/slow_disk.c."""
    made = tmp_path_factory.mktemp("slow") / "slow_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(made),
                    str(ROOT / "tests/faults/slow_disk.c"), "-ldl"], check=True)
    return made


@pytest.fixture
def slow_daemon(new_daemon, slow_disk, tmp_path):
    """A daemon, and the path of the file that makes its disk hang for as long as it exists."""
    switch = tmp_path / "slow"
    env = dict(os.environ, LD_PRELOAD=str(slow_disk), SLOW_DISK_DIR=str(tmp_path / "state"),
               SLOW_DISK_MS=str(HANG_MS), SLOW_DISK_SWITCH=str(switch))
    bin_dir = pathlib.Path(new_daemon().command()[0]).parent
    if "asan" in str(bin_dir) or "tsan" in str(bin_dir):
        env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    daemon = new_daemon(env=env)
    yield daemon.start(), switch
    switch.unlink(missing_ok=True)


# With the operation, what of it waits for the disk; syncs at the same time are one.
SLOW_OPERATIONS = {
    "first write to a small base file": ("echo x >> small", b"rc", 4),
    "first write to a large base file": ("echo x >> large", b"rc", 4),
    "truncation of a base file": ("truncate -s 100000 large", b"rc", 4),
    "fsync": ("dd if=/dev/zero of=own bs=70000 count=1 conv=fsync 2>/dev/null", b"s", 1),
    "copy of a range": ("cp large copy", b"rc", 4),
}


@pytest.mark.parametrize("operation, waits, times", SLOW_OPERATIONS.values(),
                         ids=SLOW_OPERATIONS.keys())
def test_O3_a_slow_disk_under_one_sandbox_holds_up_no_other(slow_daemon, operation, waits, times):
    """As many operations that wait for the disk as there are workers; the other sandbox works."""
    daemon, switch = slow_daemon
    client = daemon.client()
    codebase = client.codebase({"small": b"s" * 60_000, "large": b"l" * 2_000_000, "f": "hi\n"})
    slow = [client.sandbox(codebase) for _ in range(4)]
    other = client.sandbox(codebase)
    client.out(other, "cat f small > /dev/null")
    switch.touch()
    with concurrent.futures.ThreadPoolExecutor(len(slow)) as pool:
        running = [pool.submit(client.exec, s, operation, 150) for s in slow]
        try:
            eventually(lambda: sum(switch.read_bytes().count(w) for w in waits) >= times, 60)
            for n in range(8):
                client.out(other, f"cat f > /dev/null; ls > /dev/null; echo {n} > n; mv n m; rm m")
            assert not any(r.done() for r in running)
            assert b"e" not in switch.read_bytes(), "one has ended meanwhile"
        finally:
            switch.unlink()
        assert all(r.result().exit_code == 0 for r in running), [r.result() for r in running]
    client.close()


def has_thread(pid, name, text):
    """Whether a file of one of the process's threads in /proc holds the text."""
    found = False
    for path in pathlib.Path(f"/proc/{pid}/task").glob(f"*/{name}"):
        try:
            found = found or text in path.read_text()
        except OSError:  # gone
            pass
    return found


def test_a_killed_daemon_that_waits_for_its_own_mount_is_replaced(slow_daemon):
    """An fsync holds its directory's lock while the disk is slow; a thread of the daemon that takes
    back a name there waits for the lock. Killed, such a process cannot end by itself."""
    daemon, switch = slow_daemon
    client = daemon.client()
    name = unique("dir")
    files = {f"{name}/secret": "x", f"{name}/other": "o"}
    sandbox = client.sandbox(client.codebase(files), manual=True)
    client.out(sandbox, f"cat {name}/*; echo 1 > {name}/new")
    switch.touch()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        try:
            syncing = pool.submit(client.exec, sandbox, f"exec sync {name}", 100)
            eventually(lambda: any(has_thread(pid, "wchan", "request_wait_answer")
                                   for pid in alive_with(name)))
            hidden = FULL + [("**/secret", "none", 5)]
            changing = pool.submit(client.set_rules, sandbox, hidden)
            eventually(lambda: has_thread(daemon.process.pid, "status", "State:\tD"))
            killed, daemon.process = daemon.process, None
            killed.kill()
            eventually(lambda: has_thread(killed.pid, "status", "State:\tZ"))
        finally:
            switch.unlink()
        daemon.start()
        assert killed.wait(30) == -signal.SIGKILL
        killed.stdout.close()
        for call in (syncing, changing):
            with pytest.raises(grpc.RpcError):
                call.result()
    client.close()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, f"cd {name} && ls && cat new other") == "new\nother\n1\no"
    client.close()


def import_huge(client, codebase, names, middle):
    """Files of 10 GB that are holes but for `middle` at 5 GB."""
    messages = [afpb.ImportRequest(codebase_id=codebase)]
    for name in names:
        entry = afpb.ImportEntry(path=name.encode(), kind=afpb.FILE_KIND_REGULAR, mode=0o644)
        messages.append(afpb.ImportRequest(entry=entry))
        messages.append(afpb.ImportRequest(hole=5 << 30))
        messages += [afpb.ImportRequest(data=middle[at:at + 65536])
                     for at in range(0, len(middle), 65536)]
        messages.append(afpb.ImportRequest(hole=(5 << 30) - len(middle)))
    client.trees.Import(iter(messages))


WORKERS = 4  # on /dev/fuse there are at most so many, on io_uring one for each processor


def test_O3_the_workers_of_appends_to_10_gb_files_serve_others_while_the_copies_hang(slow_daemon):
    """One sandbox appends to more 10 GB files than there are workers, on every processor; no copy
    ends before another sandbox has worked on every processor, too."""
    daemon, switch = slow_daemon
    client = daemon.client()
    codebase = client.codebase({"f": "hi\n"})
    processors = sorted(os.sched_getaffinity(0))[:WORKERS]
    names = [f"huge{i}" for i in range(WORKERS + 1)]
    middle = os.urandom(3 << 20)
    import_huge(client, codebase, names, middle)
    first, sandbox, other = (client.sandbox(codebase, manual=True) for _ in range(3))
    # Who appends first needs no copy (docs/COMMIT.md); whoever comes after him does.
    client.out(first, "for f in huge*; do echo less >> $f; done")
    client.out(other, "cat f > /dev/null")
    appends = [f"taskset -c {processors[i % len(processors)]} sh -c 'echo more >> {name}' &"
               for i, name in enumerate(names)]
    switch.touch()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.exec, sandbox, "\n".join([*appends, "wait"]), 150)
        try:
            eventually(lambda: switch.read_bytes().count(b"c") == len(names), 60)
            for at in processors * 3:
                client.out(other, f"taskset -c {at} sh -c 'cat f > /dev/null; ls > /dev/null; "
                                  f"echo x > n{at}; mv n{at} m{at}; rm m{at}'")
            assert switch.read_bytes().count(b"c") == len(names) and not running.done()
            assert b"e" not in switch.read_bytes(), "a copy has ended meanwhile"
        finally:
            switch.unlink()
        assert running.result().exit_code == 0, running.result()
    for name in names:
        assert client.out(sandbox, f"stat -c %s {name}; tail -c 5 {name}") == \
            f"{(10 << 30) + 5}\nmore\n"
    digest = hashlib.sha256(middle).hexdigest()
    shown = client.out(sandbox, f"dd if={names[0]} bs=1M skip=5120 count=3 2>/dev/null | sha256sum")
    assert shown.split()[0] == digest
    client.close()


def test_a_10_gb_sparse_base_file_opened_for_append_blocks_nobody(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"f": "hi\n"})
    import_huge(client, codebase, ["huge"], b"middle")
    sandbox, other = client.sandbox(codebase), client.sandbox(codebase)
    client.out(other, "cat f")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.exec, sandbox, "echo more >> huge; stat -c %s huge")
        longest = 0.0
        while not running.done():
            at = time.monotonic()
            client.out(other, "cat f > /dev/null; echo x > n; rm n")
            longest = max(longest, time.monotonic() - at)
    assert running.result().stdout == f"{(10 << 30) + 5}\n"
    used = subprocess.run(["du", "-s", "--block-size=1", str(daemon.state)], check=True,
                          capture_output=True, text=True).stdout
    assert int(used.split()[0]) < 64 << 20, "the copy is not sparse"
    assert longest < 2
    assert client.out(sandbox, "tail -c 5 huge; dd if=huge bs=1M skip=5120 count=1 2>/dev/null | "
                      "head -c 6") == "more\nmiddle"
    client.close()


# ---- a disk that fails under the file system: errors of the block device, not of a shim


class FailingDisk:
    """An ext4 on a loop device whose backing file lies, sparse, on a small tmpfs.

    Filling the tmpfs makes the device fail with I/O errors at blocks that were never written;
    making room repairs it.
    """

    SIZE = 192 << 20
    ROOM = 64 << 20
    INODES = 1024

    def __init__(self, directory):
        self.below, self.disk = directory / "below", directory / "failing"
        self.below.mkdir()
        self.disk.mkdir()
        self.filler = self.below / "filler"
        self.run("mount", "-t", "tmpfs", "-o", f"size={self.ROOM}", "tmpfs", str(self.below))
        image = self.below / "image"
        with open(image, "wb") as file:
            file.truncate(self.SIZE)
        # Without a journal, whose loss would make the file system read-only.
        options = ["-O", "^has_journal,^metadata_csum,^uninit_bg", "-N", str(self.INODES)]
        self.run("mkfs.ext4", "-q", "-F", *options, str(image))
        made = subprocess.run(["mount", "-o", "loop,errors=continue", str(image), str(self.disk)],
                              capture_output=True, text=True, check=False)
        if made.returncode != 0:
            self.close()
            pytest.skip(f"cannot mount an image here: {made.stderr.strip()}")
        # The inode tables are written once, so that their blocks are there.
        files = [self.disk / f"inode{i}" for i in range(self.INODES - 100)]
        for file in files:
            file.touch()
        self.run("sync", "-f", str(self.disk))
        for file in files:
            file.unlink()
        self.run("sync", "-f", str(self.disk))

    @staticmethod
    def run(*argv):
        subprocess.run(argv, check=True, capture_output=True)

    def fail(self):
        """From here on new blocks are I/O errors."""
        with open(self.filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def repair(self):
        self.filler.unlink()

    def close(self):
        subprocess.run(["umount", str(self.disk)], check=False, capture_output=True)
        # The loop device lets go of its file a little later.
        eventually(lambda: subprocess.run(["umount", str(self.below)], capture_output=True,
                                          check=False).returncode == 0)


@pytest.fixture
def failing(tmp_path):
    disk = FailingDisk(tmp_path)
    daemon = Daemon(tmp_path)
    daemon.state = disk.disk / "state"
    yield daemon, disk
    daemon.cleanup()
    disk.close()


def test_an_io_error_of_the_disk_is_eio_and_what_was_synced_before_is_whole(failing):
    daemon, disk = failing
    client = daemon.start().client()
    base = os.urandom(400_000)
    codebase = client.codebase({"base": base, "small": b"small\n"})
    sandbox = client.sandbox(codebase, manual=True)
    client.out(sandbox, "echo kept > kept; cp base copy; sync kept copy")
    disk.fail()
    # Page cache takes the bytes; the sync says what became of them, in the device's own words.
    broken = client.exec(sandbox, "head -c 30000000 /dev/urandom > big; sync big; echo tried")
    words = ("Input/output error", "No space left on device")
    assert broken.stdout == "tried\n" and any(w in broken.stderr for w in words), broken

    # Once a sync point has failed the store is not written to any more, and says so; it is read.
    def is_refused():
        return "Input/output error" in client.exec(sandbox, "echo x > other").stderr

    eventually(is_refused)
    look, whole = "cat kept small; cmp base copy && echo same", "kept\nsmall\nsame\n"
    assert client.out(sandbox, look) == whole
    disk.repair()
    daemon.kill()  # and fsck
    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, look + "; echo again > other") == whole
    assert client.download(codebase, "base") == base
    client.out(sandbox, "rm -f big; cat other")
    client.close()
    assert daemon.stop() == 0  # and fsck
