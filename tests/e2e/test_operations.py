"""What operators count on: no start waits for another's, uploads cost what they weigh, ids."""

import os
import pathlib
import subprocess
import threading

import pytest

from harness import BIN, FULL, ROOT, afpb, eventually, pb
from processes import start as start_process

MIB = 1 << 20


@pytest.fixture
def gated(new_daemon, tmp_path):
    """A daemon whose bubblewrap waits while `shut` is there, until `open` is; and the two."""
    for part in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        part.chmod(0o755)
    bwrap = tmp_path / "bwrap"
    subprocess.run(["gcc", "-O1", "-o", str(bwrap), str(ROOT / "tests/faults/gated_bwrap.c")],
                   check=True)
    daemon = new_daemon("--exec-bwrap", str(bwrap), "--exec-pool", "0").start()
    yield daemon.client(), tmp_path / "shut", tmp_path / "open"
    (tmp_path / "open").touch()


def running_program(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def all_pids():
    return [pid for pid in os.listdir("/proc") if pid.isdigit()]


def test_O3_a_start_that_hangs_slows_no_other(gated):
    client, shut, opened = gated
    codebase = client.codebase({"f": "x"})
    running = client.sandbox(codebase, FULL)
    stuck = [client.sandbox(codebase, FULL, start=False) for _ in range(3)]
    bwrap = str(shut.with_name("bwrap"))
    for _ in range(5):
        shut.touch()
        calls = [client.sandboxes.StartSandbox.future(pb.StartSandboxRequest(sandbox_id=s))
                 for s in stuck]
        eventually(lambda: sum(running_program(pid) == bwrap for pid in all_pids()) == len(stuck))
        shut.unlink()  # for those that come later
        assert client.out(running, "cat f") == "x"
        later = client.sandbox(codebase, FULL)
        assert client.out(later, "cat f") == "x"
        client.destroy(later)
        ended = [call.done() for call in calls]
        opened.touch()
        errors = [call.exception() for call in calls]
        opened.unlink()
        if not any(ended):
            break
        # A start is given up after 10 s, and a loaded machine may take as long for the rest.
        for sandbox, error in zip(stuck, errors):
            if error is None:
                client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    assert not any(ended)
    assert errors == [None] * len(stuck)
    for sandbox in stuck:
        assert client.out(sandbox, "cat f") == "x"


def bytes_on_disk(directory):
    """What the files below a directory use, those without a name too."""
    return sum(p.stat().st_blocks * 512 for p in directory.rglob("*") if p.is_file())


def peak_memory(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def test_O4_an_upload_streams_to_disk(daemon, client):
    """What has been sent is on the disk long before the end, and not in memory."""
    size, chunk = 256 * MIB, 256 * 1024
    codebase = client.codebase()
    before, peak = bytes_on_disk(daemon.state), peak_memory(daemon.process.pid)
    go_on = threading.Event()

    def messages():
        meta = pb.UploadChunk.Metadata(codebase_id=codebase, file_path="big", total_size=size)
        yield pb.UploadChunk(metadata=meta)
        for at in range(0, size, chunk):
            if at == size // 2:
                go_on.wait(60)
            yield pb.UploadChunk(data=(b"%016d" % at) * (chunk // 16))

    call = client.codebases.UploadFiles.future(messages())
    # gRPC and the sockets between hold some of it.
    eventually(lambda: bytes_on_disk(daemon.state) - before > size // 2 - 16 * MIB)
    assert not call.done()
    go_on.set()
    assert call.result(120).size == size
    sanitised = "asan" in str(BIN) or "tsan" in str(BIN)  # these keep what was freed
    grown = peak_memory(daemon.process.pid) - peak
    assert sanitised or grown < 64 * MIB, f"{grown // MIB} MiB of memory for {size // MIB} MiB"


def cpu_ns(pid):
    """CPU time of all threads: what the daemon did, whatever else the machine does."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def uploads_cost(daemon, client, codebase, count=100):
    """CPU time of one upload of a small file: the least of five rounds."""
    rounds = []
    for turn in range(5):
        before = cpu_ns(daemon.process.pid)
        for i in range(count):
            client.upload(codebase, f"new/{turn}-{i}", b"x" * 100)
        rounds.append((cpu_ns(daemon.process.pid) - before) / count)
    return min(rounds)


def test_O4_a_file_costs_its_own_size_and_not_a_walk_of_the_tree(daemon, client):
    small, large = client.codebase({"f": "x"}), client.codebase({"f": "x"})

    def entries():
        yield afpb.ImportRequest(codebase_id=large)
        for i in range(30_000):
            yield afpb.ImportRequest(entry=afpb.ImportEntry(
                path=b"d%d/f%d" % (i % 30, i), kind=afpb.FILE_KIND_REGULAR, mode=0o644))
            yield afpb.ImportRequest(data=b"x")

    directories = [afpb.ImportRequest(entry=afpb.ImportEntry(
        path=b"d%d" % i, kind=afpb.FILE_KIND_DIRECTORY, mode=0o755)) for i in range(30)]
    stream = entries()
    client.trees.Import(iter([next(stream), *directories, *stream]))
    got = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=large))
    assert got.file_count == 30_001
    alone, beside = (uploads_cost(daemon, client, c) for c in (small, large))
    assert beside < 3 * alone, f"{alone / 1000:.0f} us in a small tree, {beside / 1000:.0f} us"


def test_O5_ids_cannot_be_guessed(client):
    """Every character is random: no counter, no time, no process in any place of any kind of id."""
    count = 100
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase, FULL)
    kinds = {
        "codebase": [client.codebase(name=f"c{i}") for i in range(count)],
        "sandbox": [client.sandbox(codebase, FULL, start=False) for _ in range(count)],
        "session": [], "process": [],
    }
    for _ in range(count):
        request = pb.CreateSessionRequest(sandbox_id=sandbox)
        kinds["session"].append(client.sandboxes.CreateSession(request).id)
        client.sandboxes.DestroySession(
            pb.DestroySessionRequest(session_id=kinds["session"][-1]))
        kinds["process"].append(start_process(client, sandbox, "true"))
    for kind, ids in kinds.items():
        tails = [made.split("_")[1] for made in ids]
        places = list(zip(*tails))
        assert len(places) * 5 >= 128, f"{kind}: fewer than 128 bits"
        for place, letters in enumerate(places):
            # 100 draws of 32 letters show some 30 of them; 15 do not happen in 10^20 years.
            assert len(set(letters)) >= 15, (kind, place, letters)
        assert len(set(tails)) == count
    for made in kinds["sandbox"]:
        client.destroy(made)
