"""fsck: beside a running daemon, and on the state directory of a stopped one."""

import json
import os
import subprocess

import grpc
import pytest

from harness import BIN, expect, monpb, pb

PAGE = 4096  # of LMDB on this machine


def online(daemon, *args):
    """agentfense-fsctl fsck on the running daemon; returns the finished process."""
    argv = [str(BIN / "agentfense-fsctl"), "--socket", str(daemon.socket), *args, "fsck"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def blob_of(daemon):
    """The path of the only content file in the state directory."""
    found = [p for p in (daemon.state / "blobs").rglob("*") if p.is_file()]
    assert len(found) == 1, found
    return found[0]


def filled(new_daemon):
    """A daemon with a codebase with one large file, and a sandbox that changed something."""
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"big": b"x" * 100_000, "dir/small": b"s"})
    sandbox = client.sandbox(codebase)
    client.out(sandbox, "ln dir/small dir/more && mkdir d && echo hi > d/new && rm -r dir/small")
    return daemon, client, codebase, sandbox


def test_a_running_daemon_is_checked_beside_its_work(new_daemon):
    daemon, client, _, sandbox = filled(new_daemon)
    done = online(daemon)
    assert done.returncode == 0 and done.stdout.startswith("clean, "), (done.stdout, done.stderr)
    assert json.loads(online(daemon, "--json").stdout)["findings"] == []
    messages = list(client.monitor.Fsck(monpb.FsckRequest()))
    assert len(messages) == 1 and messages[0].done and messages[0].records > 10
    assert client.out(sandbox, "cat d/new") == "hi\n"


def test_a_daemon_at_work_is_never_called_damaged(new_daemon):
    """Files grow, shrink, come and go while the check reads one state of the store."""
    daemon, client, _, sandbox = filled(new_daemon)
    loop = (
        "for i in $(seq 300); do head -c 70000 /dev/zero > f$((i % 7)); "
        "truncate -s 3000 f$((i % 5)) 2>/dev/null; rm -f f$((i % 3)); done; echo done"
    )
    future = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command=loop))
    checks = 0
    while not future.done() or checks == 0:
        done = online(daemon)
        assert done.returncode == 0, (done.stdout, done.stderr)
        checks += 1
    assert future.result().stdout == "done\n"


def test_the_state_directory_of_a_running_daemon_is_left_alone(new_daemon):
    daemon = new_daemon().start()
    done = daemon.fsck("--repair")
    assert done.returncode == 8 and "is in use by process" in done.stderr, done.stderr
    assert daemon.fsck().returncode == 8


def test_a_content_file_that_lost_its_end_is_an_io_error_and_is_repaired(new_daemon):
    daemon, client, codebase, sandbox = filled(new_daemon)
    client.close()
    assert daemon.stop() == 0
    os.truncate(blob_of(daemon), 50_000)
    daemon.may_be_damaged = True
    done = daemon.fsck()
    assert done.returncode == 4 and "50000 are there" in done.stdout, done.stdout

    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    result = client.exec(sandbox, "cat big | wc -c; cat big > /dev/null")
    assert "Input/output error" in result.stderr, result
    expect(grpc.StatusCode.INTERNAL, client.download, codebase, "big")
    client.close()
    assert daemon.stop() == 0

    done = daemon.fsck("--repair")
    assert done.returncode == 1 and "(repaired)" in done.stdout, done.stdout
    daemon.may_be_damaged = False
    daemon.start()
    client = daemon.client()
    assert client.download(codebase, "big") == b"x" * 50_000
    client.close()


def test_a_damaged_database_page_is_refused_with_a_sentence(new_daemon):
    daemon, client, codebase, _ = filled(new_daemon)
    client.close()
    assert daemon.stop() == 0
    database = daemon.state / "store/data.mdb"
    pages = bytearray(database.read_bytes())
    for at in range(2 * PAGE, len(pages), PAGE):
        if codebase.encode() in pages[at:at + PAGE]:
            pages[at:at + PAGE] = bytes(PAGE)
    database.write_bytes(pages)
    daemon.may_be_damaged = True
    words = "is not the page that should be there; restore the state directory from a backup"
    for done in (daemon.fsck(), daemon.fsck("--repair")):
        assert done.returncode == 8 and words in done.stderr, (done.stdout, done.stderr)
    with pytest.raises(RuntimeError, match=words):
        daemon.start()


def test_a_fifo_in_the_place_of_content_never_hangs_a_reader(new_daemon):
    daemon, client, _, sandbox = filled(new_daemon)
    client.close()
    assert daemon.stop() == 0
    blob = blob_of(daemon)
    blob.unlink()
    os.mkfifo(blob)
    daemon.may_be_damaged = True
    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    result = client.exec(sandbox, "cat big; echo x >> big; cat d/new", timeout=20)
    assert result.stderr.count("Input/output error") == 2 and result.stdout == "hi\n", result
    client.close()
