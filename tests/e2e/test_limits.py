"""Resource limits, maxima of the configuration, and sandboxes per owner, over the API."""

import os
import pathlib
import subprocess

import grpc
import pytest

from harness import FULL, Daemon, afpb, eventually, expect, pb
from processes import Run, start, wait

MIB = 1 << 20
HOG = "tail /dev/zero"  # keeps the line that never ends


def controllers():
    """Controllers of this machine, v1 or v2."""
    with open("/proc/self/mountinfo") as file:
        text = file.read()
    found = {word for line in text.splitlines() if " - cgroup " in line
             for word in line.rsplit(" ", 1)[1].split(",")}
    for line in text.splitlines():
        if " - cgroup2 " in line:
            with open(os.path.join(line.split()[4], "cgroup.controllers")) as file:
                found |= set(file.read().split())
    return found


needs_cgroups = pytest.mark.skipif(
    not {"memory", "cpu", "pids"} <= controllers(),
    reason=f"this machine's control groups have only {sorted(controllers())}",
)


def limited(client, start=True, codebase=None, **limits):
    codebase = codebase or client.codebase({"f": "x"})
    return client.sandbox(codebase, FULL, start=start, resources=pb.ResourceLimits(**limits))


@needs_cgroups
@pytest.mark.parametrize("pool", ["0", "2"])
def test_out_of_memory_is_said_in_the_text_and_in_the_trailers(new_daemon, pool):
    client = new_daemon("--exec-pool", pool).start().client()
    sandbox = limited(client, memory_bytes=48 * MIB)
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))
    assert got.resources.memory_bytes == 48 * MIB
    request = pb.ExecRequest(sandbox_id=sandbox, command=HOG)
    result, call = client.sandboxes.Exec.with_call(request)
    assert result.exit_code == 137
    assert "memory limit" in result.stderr
    assert ("agentfense-out-of-memory", "1") in call.trailing_metadata()
    stream = client.sandboxes.ExecStream(request)
    list(stream)
    trailers = dict(stream.trailing_metadata())
    assert trailers["agentfense-exit-code"] == "137"
    assert trailers["agentfense-out-of-memory"] == "1"
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox))
    client.out(sandbox, f"cat > hog <<'END'\n{HOG}\nEND")
    inner = client.sandboxes.SessionExec(
        pb.SessionExecRequest(session_id=session.id, command="sh hog")
    )
    assert inner.exit_code == 137 and "memory limit" in inner.stderr
    run, call = client.execs.Run.with_call(afpb.RunRequest(sandbox_id=sandbox, argv=[b"false"]))
    assert run.exit_code == 1
    assert "agentfense-out-of-memory" not in dict(call.trailing_metadata())
    assert client.out(sandbox, "cat f") == "x"


@needs_cgroups
@pytest.mark.parametrize("line", [HOG + " | wc -c", f"({HOG}) & wait; echo done"])
def test_a_kill_of_a_child_is_said_whatever_the_exit_code(client, line):
    """What such a command printed is not the whole of it, though it ends with 0."""
    sandbox = limited(client, memory_bytes=48 * MIB)
    for call in (lambda r: client.sandboxes.Exec.with_call(r),
                 lambda r: client.sandboxes.SessionExec.with_call(pb.SessionExecRequest(
                     session_id=session.id, command=r.command))):
        session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox))
        result, ended = call(pb.ExecRequest(sandbox_id=sandbox, command=line))
        assert result.exit_code == 0
        assert "memory limit" in result.stderr
        assert ("agentfense-out-of-memory", "1") in ended.trailing_metadata()
    result, ended = client.sandboxes.Exec.with_call(
        pb.ExecRequest(sandbox_id=sandbox, command="cat f"))
    assert (result.stdout, result.stderr) == ("x", "")
    assert "agentfense-out-of-memory" not in dict(ended.trailing_metadata())
    client.destroy(sandbox)


@needs_cgroups
def test_what_lasts_is_not_told_of_a_kill_that_it_has_survived(client):
    sandbox = limited(client, memory_bytes=48 * MIB)
    for code in (0, 3):
        process = start(client, sandbox, f"{HOG}; exit {code}")
        assert wait(client, process).exit.out_of_memory == (code != 0)
    run = Run(client, sandbox, f"{HOG} | wc -c")
    assert run.finish() == (0, 0) and run.exit.out_of_memory
    client.destroy(sandbox)


FULL_SECONDS = 10


@needs_cgroups
def test_a_sandbox_whose_files_fill_its_memory_ends_for_want_of_memory(new_daemon):
    """Files in /tmp and /dev/shm are nobody's: process after process is ended, at last the init.

    Every end says so, but for that of a command which the kernel, without memory to run it, neither
    kills nor lets go on (seen on v2, with a slow processor): its timeout is what ends that.
    """
    client = new_daemon("--exec-pool", "0").start().client()
    codebase = client.codebase({"f": "x"})
    fill = "head -c 16M /dev/zero > /dev/shm/x; head -c 16M /dev/zero > /tmp/x"
    for _ in range(5):
        sandbox = limited(client, codebase=codebase, memory_bytes=32 * MIB)
        for _ in range(60):  # a dozen are enough, mostly
            try:
                words = client.exec(sandbox, f"{fill}; {HOG}", timeout=FULL_SECONDS).stderr
            except grpc.RpcError as error:
                words = error.details()
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    assert "were killed after" in words
                    break
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            assert "memory limit" in words
            if "was ended" in words:
                break
        else:
            raise AssertionError("never ended")
        client.destroy(sandbox)


@needs_cgroups
def test_a_sandbox_that_is_full_of_files_says_what_empties_it(new_daemon):
    """It runs on, and whatever takes memory in it is killed."""
    client = new_daemon("--exec-pool", "0").start().client()
    sandbox = limited(client, memory_bytes=64 * MIB)
    fill = "head -c 30M /dev/zero > /dev/shm/x; head -c 24M /dev/zero > /tmp/x"
    client.exec(sandbox, fill)
    hog = "python3 -c 'x = b\"x\" * (40 << 20)'"
    try:
        words = client.exec(sandbox, hog, timeout=FULL_SECONDS).stderr
    except grpc.RpcError as error:  # the kernel's choice is not always the hog
        words = error.details()
    assert "memory limit" in words and "/dev/shm" in words and "stop" in words, words
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, f"{hog}; ls /tmp /dev/shm -A | tr -d '\\n'; cat f") == (
        "/dev/shm:/tmp:x")
    client.destroy(sandbox)


@needs_cgroups
def test_a_sandbox_that_was_ended_for_want_of_memory_starts_again_at_once(new_daemon):
    client = new_daemon("--exec-pool", "0").start().client()
    codebase = client.codebase({"f": "x"})
    fill = "head -c 16M /dev/zero > /dev/shm/x; head -c 16M /dev/zero > /tmp/x"
    sandbox = limited(client, codebase=codebase, memory_bytes=32 * MIB)
    ended = 0
    for _ in range(60):
        try:
            client.exec(sandbox, f"{fill}; {HOG}", timeout=FULL_SECONDS)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED,
                                    grpc.StatusCode.DEADLINE_EXCEEDED), error
            if "start it again" in error.details():
                ended += 1
                client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
                assert client.out(sandbox, "cat f; ls /tmp") == "x"
        if ended == 3:
            break
    assert ended > 0
    client.destroy(sandbox)


@needs_cgroups
def test_maxima_hold_for_all_and_more_is_refused(new_daemon):
    options = ["--exec-memory-max", "64M", "--exec-pids-max", "40", "--exec-cpu-quota-max", "50000"]
    client = new_daemon(*options).start().client()
    codebase = client.codebase({"f": "x"})
    for wrong in ({"memory_bytes": 65 * MIB}, {"pids_limit": 41}, {"cpu_quota": 50001}):
        text = expect(grpc.StatusCode.INVALID_ARGUMENT, limited, client, codebase=codebase, **wrong)
        assert next(iter(wrong)) in text and "allows" in text
    for asked in ({}, {"memory_bytes": 32 * MIB}):
        sandbox = limited(client, codebase=codebase, **asked)  # from the pool, and without it
        assert client.exec(sandbox, HOG).exit_code == 137
        assert int(client.out(sandbox, "ulimit -u")) <= 40


def test_limits_that_make_no_sense_are_invalid(client):
    codebase = client.codebase({"f": "x"})
    for wrong in ({"memory_bytes": -1}, {"memory_bytes": 7}, {"cpu_quota": 5}, {"cpu_shares": 1},
                  {"pids_limit": 1}, {"pids_limit": -9}):
        expect(grpc.StatusCode.INVALID_ARGUMENT, limited, client, codebase=codebase, **wrong)


def test_a_limit_that_cannot_be_enforced_refuses_the_sandbox(new_daemon):
    client = new_daemon("--exec-cgroup", "/nowhere/at/all").start().client()
    # On v1 it shows when the group is to be made, at the start.
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, limited, client, memory_bytes=48 * MIB)
    assert "/nowhere/at/all" in text or not controllers()
    free = client.sandbox(client.codebase({"f": "x"}, name="free"), FULL)
    assert client.out(free, "cat f") == "x"


class GroupedDaemon(Daemon):
    """A daemon that is started in a control group of its own."""

    group = ""

    def command(self):
        enter = f'echo $$ > {self.group}/cgroup.procs && exec "$@"'
        return ["/bin/sh", "-c", enter, "sh", *super().command()]


def v2_root():
    """Where a v2 hierarchy is that has what limits need; None: there is none."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file if " - cgroup2 " in line]
    for point in points:
        with open(os.path.join(point, "cgroup.controllers")) as file:
            if {"memory", "cpu", "pids"} <= set(file.read().split()):
                return point
    return None


@pytest.fixture
def v2_group():
    """A v2 group with controllers, for a daemon; removed with what a failed test leaves in it."""
    root = v2_root()
    if not root:
        pytest.skip("no v2 hierarchy here has memory, cpu and pids (tests/guest runs this in one)")
    with open(f"{root}/cgroup.subtree_control", "w") as file:
        file.write("+memory +cpu +pids")
    group = pathlib.Path(root, f"agentfense-test-{os.getpid()}")
    group.mkdir()
    yield group
    for made in sorted(group.glob("**/"), reverse=True):
        made.rmdir()


def processes(group):
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def test_on_v2_the_daemon_alone_moves_into_a_leaf_of_its_group(tmp_path, v2_group):
    daemon = GroupedDaemon(tmp_path)
    daemon.group = v2_group
    client = daemon.start().client()
    try:
        # Before there is any limit: what it starts then is below the leaf as well.
        assert processes(v2_group) == []
        assert daemon.process.pid in processes(v2_group / "daemon")
        free = client.sandbox(client.codebase({"f": "x"}, name="free"), FULL)
        assert client.out(free, "cat f") == "x"
        sandbox = limited(client, memory_bytes=48 * MIB, pids_limit=20, cpu_quota=50000,
                          cpu_shares=512)
        assert processes(v2_group) == []
        (box,) = v2_group.glob(f"agentfense-*/{sandbox}*")
        assert (box / "memory.max").read_text() == f"{48 * MIB}\n"
        assert (box / "pids.max").read_text() == "20\n"
        assert (box / "cpu.max").read_text() == "50000 100000\n"
        assert client.exec(sandbox, HOG).exit_code == 137
        assert "oom_kill 1\n" in (box / "memory.events").read_text()
        client.destroy(sandbox)
        eventually(lambda: not box.exists())
    finally:
        client.close()
        daemon.cleanup()
    assert [d.name for d in v2_group.iterdir() if d.is_dir()] == ["daemon"]


def test_on_v2_a_group_with_other_processes_refuses_limits_and_says_what_to_do(tmp_path, v2_group):
    other = subprocess.Popen(["/bin/sh", "-c", f"echo $$ > {v2_group}/cgroup.procs; exec cat"],
                             stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    eventually(lambda: processes(v2_group) == [other.pid])
    daemon = GroupedDaemon(tmp_path)
    daemon.group = v2_group
    client = daemon.start().client()
    try:
        text = expect(grpc.StatusCode.FAILED_PRECONDITION, limited, client, memory_bytes=48 * MIB)
        assert "Delegate=yes" in text and str(v2_group) in text
        assert {other.pid, daemon.process.pid} <= set(processes(v2_group))
        assert not [d for d in v2_group.iterdir() if d.is_dir()]
        free = client.sandbox(client.codebase({"f": "x"}, name="free"), FULL)
        assert client.out(free, "cat f") == "x"
    finally:
        client.close()
        daemon.cleanup()
        other.stdin.close()
        other.wait()


def test_O1_sandboxes_per_owner_are_bounded(new_daemon):
    client = new_daemon("--sandboxes-per-owner-max", "3").start().client()
    first = client.codebase({"f": "x"}, owner="one")
    second = client.codebase({"f": "x"}, name="b", owner="one")
    other = client.codebase({"f": "x"}, owner="other")
    made = [client.sandbox(c, FULL, start=False) for c in (first, second, first)]
    text = expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.sandbox, second, FULL, start=False)
    assert "'one'" in text and "3" in text
    client.sandbox(other, FULL, start=False)
    client.destroy(made[1])
    client.sandbox(second, FULL)
    expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.sandbox, first, FULL)


def test_O1_the_longest_timeout_is_enforced(new_daemon):
    client = new_daemon("--exec-timeout-max", "2s", "--exec-timeout-default", "1s").start().client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL)
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.exec, sandbox, "true", timeout=3)
    silent = pb.ExecRequest(sandbox_id=sandbox, command="sleep 60")  # the server's own timeout
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.sandboxes.Exec, silent)
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, "sleep 60", timeout=2)
