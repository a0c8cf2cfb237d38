"""Large files that commands change, one commit after another: what it costs the disk."""

import os
import re
import subprocess

import pytest

from harness import OPEN_POLICY

GB = 1 << 30
STEP = 100_000
STEPS = 20


def allocated(daemon):
    """Bytes that the state directory's content takes on the disk."""
    os.sync()
    total = 0
    for folder in ("new", "blobs"):
        for path in (daemon.state / folder).rglob("*"):
            try:
                total += path.lstat().st_blocks * 512 if path.is_file() else 0
            except FileNotFoundError:
                pass  # collected
    return total


def written(daemon):
    """Bytes that the daemon has caused to be written, copies within the kernel included."""
    with open(f"/proc/{daemon.process.pid}/io", encoding="ascii") as file:
        found = dict(re.findall(r"(\w+): (\d+)", file.read()))
    return int(found["write_bytes"])


@pytest.mark.skipif(
    OPEN_POLICY == "server",
    reason=f"the first append after a commit copies (docs/COMMIT.md); AGENTFENSE_OPEN_POLICY is "
    f"{OPEN_POLICY!r}",
)
@pytest.mark.parametrize("kind", ["real", "sparse"])
def test_appending_to_a_gigabyte_after_each_commit_costs_what_is_appended(new_daemon, kind):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"f": "hi\n"})
    sandbox, reader = client.sandbox(codebase), client.sandbox(codebase)
    make = {"real": f"head -c {GB} /dev/zero > log",
            "sparse": f"truncate -s {GB} log; echo x >> log"}
    client.out(sandbox, make[kind], timeout=300)
    size = int(client.out(reader, "stat -c %s log"))  # committed
    before, wrote = allocated(daemon), written(daemon)
    for i in range(STEPS):
        letter = chr(ord("a") + i)
        client.out(sandbox, f"head -c {STEP} /dev/zero | tr '\\0' {letter} >> log")
        seen = client.out(reader, "stat -c %s log; tail -c 1 log; head -c 1 log | tr '\\0' 0")
        assert seen == f"{size + (i + 1) * STEP}\n{letter}0"
    assert allocated(daemon) - before < STEPS * (STEP + 4096) + (1 << 20)
    assert written(daemon) - wrote < 64 << 20  # pages of the database, mostly; a copy is a gigabyte
    tail = client.out(sandbox, f"tail -c {STEPS * STEP} log | sha256sum")
    assert tail == client.out(reader, f"tail -c {STEPS * STEP} log | sha256sum")
    client.close()
