"""Starts from the pool, and lazy starts."""

import os

import grpc
import pytest

from harness import FULL, eventually, filepb, pb
from processes import own_uids, processes_with_uid

Code = grpc.StatusCode
# What a command may hear whose sandbox ends under it.
ENDED = (Code.CANCELLED, Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.UNAVAILABLE)


def test_files_of_a_sandbox_are_its_own_whichever_box_of_the_pool_it_gets(new_daemon):
    daemon = new_daemon("--exec-pool", "3").start()
    client = daemon.client()
    codebase = client.codebase({"base": "b"})
    sandbox = client.sandbox(codebase, FULL)
    client.out(sandbox, "echo 1 > made; chmod 600 made")
    for _ in range(5):  # each start has another uid
        client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
        client.sandbox(codebase, FULL)  # takes a member in between
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
        assert client.out(sandbox, "cat made; stat -c %u made base") == "1\n1000\n1000\n"
        client.out(sandbox, "echo 1 > made; echo more >> base")


@pytest.mark.parametrize("pool", ["0", "1", "8"])
def test_more_starts_than_the_pool_holds_all_work(new_daemon, pool):
    daemon = new_daemon("--exec-pool", pool).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    made = [client.sandbox(codebase, FULL, start=False) for _ in range(12)]
    calls = [
        client.sandboxes.StartSandbox.future(pb.StartSandboxRequest(sandbox_id=s)) for s in made
    ]
    for call in calls:
        assert call.result().status == pb.SANDBOX_STATUS_RUNNING
    names = [client.out(s, f"echo {s} > mine; cat mine").strip() for s in made]
    assert names == made
    for sandbox in made:
        client.destroy(sandbox)


def test_the_pool_ends_with_the_daemon(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-pool", "3", *options).start()
    eventually(lambda: len(processes_with_uid(low, high)) >= 3)
    assert daemon.stop() == 0
    assert processes_with_uid(low, high) == []


def test_a_lazy_sandbox_has_no_process_until_its_first_command(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-lazy", "--exec-pool", "0", *options).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    made = [client.sandbox(codebase, FULL) for _ in range(20)]
    assert processes_with_uid(low, high) == []
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=made[0]))
    assert got.status == pb.SANDBOX_STATUS_RUNNING
    # Several first commands at once: one box.
    request = pb.ExecRequest(sandbox_id=made[0], command="readlink /proc/self/ns/pid; cat f")
    results = [call.result() for call in [client.sandboxes.Exec.future(request) for _ in range(8)]]
    assert len({r.stdout for r in results}) == 1 and results[0].stdout.endswith("x")
    # And a session as the first one.
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=made[1]))
    done = client.sandboxes.SessionExec(
        pb.SessionExecRequest(session_id=session.id, command="echo $((6*7))")
    )
    assert done.stdout == "42\n"
    for sandbox in made[:10]:
        client.destroy(sandbox)
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=made[10]))
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made[10]))
    assert client.out(made[10], "cat f") == "x"
    assert daemon.stop() == 0
    assert processes_with_uid(low, high) == []


def test_a_lazy_sandbox_gets_its_box_from_the_pool_when_nobody_has_seen_its_files(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-lazy", "--exec-pool", "2", *options).start()
    client = daemon.client()
    eventually(lambda: len(processes_with_uid(low, high)) == 2)
    waiting = {os.stat(f"/proc/{pid}").st_uid for pid in processes_with_uid(low, high)}
    codebase = client.codebase({"f": "x"})
    pooled, seen = client.sandbox(codebase, FULL), client.sandbox(codebase, FULL)
    assert client.uid_of(pooled) not in waiting
    assert client.out(pooled, "cat f; echo 1 > made; stat -c %u made f") == "x1000\n1000\n"
    assert client.uid_of(pooled) in waiting
    # Whoever has looked at its files goes on seeing them where they are.
    before = client.uid_of(seen)
    assert os.listdir(daemon.mount / seen) == ["f"]
    assert client.out(seen, "cat f; stat -c %u f") == "x1000\n"
    assert client.uid_of(seen) == before
    client.destroy(pooled)
    client.destroy(seen)
    assert daemon.stop() == 0
    assert processes_with_uid(low, high) == []


def test_files_can_be_used_while_a_lazy_sandbox_gets_its_box(new_daemon):
    daemon = new_daemon("--exec-lazy", "--exec-pool", "8").start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    for _ in range(15):
        made = [client.sandbox(codebase, FULL) for _ in range(4)]
        calls = []
        for sandbox in made:
            request = filepb.FileListRequest(sandbox_id=sandbox)
            calls.append(client.sandboxes.Exec.future(pb.ExecRequest(
                sandbox_id=sandbox, command="cat f; echo > made")))
            calls += [client.sandboxes.Exec.future(pb.ExecRequest(
                sandbox_id=sandbox, command="cat f"))]
            assert [entry.path for entry in client.files.List(request)][0] == b"f"
        assert [call.result().stdout for call in calls] == ["x"] * 8
        for sandbox in made:
            client.destroy(sandbox)


def test_a_lazy_sandbox_that_is_stopped_while_it_wakes_leaves_nothing(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-lazy", "--exec-pool", "4", *options).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    for i in range(30):
        sandbox = client.sandbox(codebase, FULL)
        call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command="cat f"))
        if i % 2:
            client.destroy(sandbox)
        else:
            client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
        assert call.exception() is None or call.code() in ENDED
    assert daemon.stop() == 0
    assert processes_with_uid(low, high) == []
