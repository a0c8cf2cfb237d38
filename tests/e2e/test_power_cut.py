"""Power cuts on real file systems: the disk stops taking writes at once, by the file system's own
shutdown, and what had not reached it by then is gone."""

import fcntl
import os
import shutil
import struct
import subprocess
import uuid

import pytest

from harness import eventually, pb
from test_faults import EXT4, XFS, on_image  # noqa: F401, a fixture

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, and XFS_IOC_GOINGDOWN
NO_LOG_FLUSH = struct.pack("I", 2)
NO_XFS = pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="mkfs.xfs is not installed")
SYSTEMS = [pytest.param((EXT4, 128 << 20), id="ext4"),
           pytest.param((XFS, 512 << 20), id="xfs", marks=NO_XFS)]


@pytest.fixture(params=SYSTEMS)
def daemon(request, on_image):  # noqa: F811
    made = on_image(*request.param)
    made.env = dict(os.environ)
    return made.start()


def cut_power(daemon):
    """Everything that the disk did not have is lost; the machine boots, and the daemon starts."""
    disk, image = daemon.state.parent, daemon.state.parent.parent / "image"
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, NO_LOG_FLUSH)
    finally:
        os.close(fd)
    daemon.kill(check=False)
    if os.path.ismount(daemon.mount):
        subprocess.run(["umount", "-l", str(daemon.mount)], check=True)

    def is_unmounted():  # the sandboxes' processes have it in their namespaces until they end
        subprocess.run(["umount", str(disk)], check=False, capture_output=True)
        return not subprocess.run(["losetup", "-j", str(image)], check=True,
                                  capture_output=True).stdout

    eventually(is_unmounted)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    daemon.env["AGENTFENSE_TEST_BOOT_ID"] = str(uuid.uuid4())
    daemon.check_state()
    return daemon.start().client()


GROW = "head -c 900000 /dev/zero | tr '\\0' g >> large && mv large grown"


def grown(client, sandbox):
    """What the file that GROW appends to has: its bytes, all that are no `g` counted."""
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    return client.out(sandbox, "cat grown | wc -c; tr -d g < grown | wc -c").split()


def with_a_large_file(daemon):
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(), manual=True)
    client.out(sandbox, "head -c 100000 /dev/zero | tr '\\0' o > large; sync large")
    return client, sandbox


def test_D6_what_grew_before_a_synced_change_is_there_with_it(daemon):
    """An fsync makes one state of all files durable: their records, and the bytes that they say."""
    client, sandbox = with_a_large_file(daemon)
    client.out(sandbox, GROW + "; echo x > other; sync other")
    client.close()
    client = cut_power(daemon)
    assert grown(client, sandbox) == ["1000000", "100000"]
    client.close()


def test_D6_what_a_killed_daemon_wrote_outlives_a_power_cut_after_the_next_start(daemon):
    """The first sync point of a start makes the killed run's records durable, with their bytes."""
    client, sandbox = with_a_large_file(daemon)
    client.out(sandbox, GROW)
    client.close()
    daemon.kill()
    daemon.start()
    client = cut_power(daemon)
    assert grown(client, sandbox) == ["1000000", "100000"]
    client.close()
