"""Nothing is left behind: after a thousand sandboxes, after faults, after kill -9."""

import os
import pathlib
import resource
import shutil

import grpc
import pytest

from harness import FULL, afpb, eventually, expect, pb
from processes import children, kill, own_uids, processes_with_uid, start
from test_limits import needs_cgroups, v2_root

CYCLES = 1000
MIB = 1 << 20


class Counter:
    """What there is of a daemon, apart from its pool."""

    def __init__(self, daemon, low, high):
        self.daemon, self.low, self.high = daemon, low, high

    def processes(self):
        return processes_with_uid(self.low, self.high)

    def __call__(self):
        pid = self.daemon.process.pid
        proc = pathlib.Path(f"/proc/{pid}")
        return {
            "processes": len(self.processes()),
            "children": children(pid),
            "fds": len(os.listdir(proc / "fd")),
            "threads": len(os.listdir(proc / "task")),
            # Of this daemon: others of the machine come and go.
            "mounts": (proc / "mountinfo").read_text().count(str(self.daemon.dir)),
            "groups": len(list(self.own_groups())),
            "run": sorted(os.listdir(self.daemon.state / "run")),
        }

    def steady(self, members=0):
        """What there is when only the pool's members are left and nothing is on its way."""
        seen = []

        def quiet():
            seen.append(self())
            last = seen[-5:]
            return last.count(seen[-1]) == 5 and seen[-1]["processes"] == members

        eventually(quiet)
        return seen[-1]

    def own_groups(self):
        """The groups of this daemon's sandboxes; its own one stays."""
        note = self.daemon.state / "run/exec.cgroups"
        for line in note.read_text().split() if note.exists() else []:
            yield from (d for d in pathlib.Path(line).glob("*") if d.is_dir())


def started(new_daemon, *options):
    low, high, uids = own_uids()
    daemon = new_daemon(*uids, *options).start()
    return daemon, daemon.client(), Counter(daemon, low, high)


def cycle(client, codebase, **fields):
    sandbox = client.sandbox(codebase, FULL, **fields)
    assert client.out(sandbox, "cat f; echo x > made") == "x"
    client.destroy(sandbox)


@pytest.mark.parametrize("pool", ["0", "3"])
def test_a_thousand_sandboxes_leave_nothing_behind(new_daemon, pool):
    daemon, client, count = started(new_daemon, "--exec-pool", pool)
    codebase = client.codebase({"f": "x"})
    members = int(pool)
    for _ in range(10):
        cycle(client, codebase)
    before = count.steady(members)
    for _ in range(CYCLES):
        cycle(client, codebase)
    eventually(lambda: count() == before)
    assert daemon.stop() == 0


@needs_cgroups
def test_limited_sandboxes_leave_no_control_group(new_daemon):
    daemon, client, count = started(new_daemon, "--exec-pool", "0")
    codebase = client.codebase({"f": "x"})
    limits = pb.ResourceLimits(memory_bytes=64 * MIB, cpu_shares=512, pids_limit=50)
    cycle(client, codebase, resources=limits)
    before = count.steady()
    for _ in range(30):
        cycle(client, codebase, resources=limits)
    eventually(lambda: count() == before)
    note = (daemon.state / "run/exec.cgroups").read_text().split()
    assert note and daemon.stop() == 0
    assert not [g for g in note if os.path.exists(g)]


@needs_cgroups
def test_what_a_killed_daemon_left_is_found_by_the_next(new_daemon):
    daemon, client, count = started(new_daemon, "--exec-pool", "2")
    codebase = client.codebase({"f": "x"})
    limits = pb.ResourceLimits(memory_bytes=64 * MIB, pids_limit=50)
    made = [client.sandbox(codebase, FULL, resources=limits) for _ in range(3)]
    made += [client.sandbox(codebase, FULL) for _ in range(3)]
    for sandbox in made:
        client.out(sandbox, "(setsid sleep 1000 &) ; echo kept > made")
    note = (daemon.state / "run/exec.cgroups").read_text().split()
    assert [g for g in note if os.path.exists(g)]
    daemon.kill()
    daemon.start()
    assert not [g for g in note if os.path.exists(g)]
    eventually(lambda: count()["processes"] == 2)  # the new pool's
    client = daemon.client()
    for sandbox in made:
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
        assert client.out(sandbox, "cat made; grep -l sleep /proc/[0-9]*/comm || true") == "kept\n"
        client.destroy(sandbox)
    assert daemon.stop() == 0
    assert count.processes() == []


def test_bwrap_that_vanishes_is_said_and_heals(new_daemon, tmp_path):
    bwrap = tmp_path / "bwrap"
    shutil.copy(shutil.which("bwrap"), bwrap)
    os.chmod(tmp_path, 0o755)
    daemon, client, count = started(new_daemon, "--exec-bwrap", str(bwrap), "--exec-pool", "0")
    codebase = client.codebase({"f": "x"})
    cycle(client, codebase)
    before = count.steady()
    bwrap.rename(tmp_path / "away")
    sandbox = client.sandbox(codebase, FULL, start=False)
    request = pb.StartSandboxRequest(sandbox_id=sandbox)
    for _ in range(20):
        text = expect(grpc.StatusCode.FAILED_PRECONDITION, client.sandboxes.StartSandbox, request)
        assert str(bwrap) in text and "install" in text
    eventually(lambda: count() == before)
    (tmp_path / "away").rename(bwrap)
    client.sandboxes.StartSandbox(request)
    assert client.out(sandbox, "cat f") == "x"


def test_out_of_descriptors_is_said_and_heals(new_daemon):
    daemon, client, count = started(new_daemon, "--exec-pool", "0")
    codebase = client.codebase({"f": "x"})
    warm = client.sandbox(codebase, FULL)
    client.out(warm, "true")
    before = count()
    pid = daemon.process.pid
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before["fds"] + 2, old[1]))
    sandbox = client.sandbox(codebase, FULL, start=False)
    request = pb.StartSandboxRequest(sandbox_id=sandbox)
    for _ in range(20):
        expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.sandboxes.StartSandbox, request)
        expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.exec, warm, "true")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    assert client.out(warm, "echo healed") == "healed\n"
    eventually(lambda: count() == before)
    client.sandboxes.StartSandbox(request)
    assert client.out(sandbox, "cat f") == "x"



def is_refused(client, sandbox):
    """Whether the sandbox has no process left for a command; any other failure is one."""
    try:
        client.exec(sandbox, "true")
        return False
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        return True


@needs_cgroups
def test_a_fork_that_fails_in_the_sandbox_is_said_and_heals(new_daemon):
    daemon, client, count = started(new_daemon, "--exec-pool", "0")
    codebase = client.codebase({"f": "x"})
    limits = pb.ResourceLimits(pids_limit=20)
    cycle(client, codebase, resources=limits)
    before = count.steady()
    sandbox = client.sandbox(codebase, FULL, resources=limits)
    process = start(client, sandbox, "while :; do sleep 1000 & done 2>/dev/null")
    eventually(lambda: is_refused(client, sandbox))
    for _ in range(20):
        text = expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.exec, sandbox, "true")
        assert "process limit" in text
        run = afpb.RunRequest(sandbox_id=sandbox, argv=[b"true"])
        assert expect(grpc.StatusCode.RESOURCE_EXHAUSTED, client.execs.Run, run) == text
        assert expect(grpc.StatusCode.RESOURCE_EXHAUSTED, start, client, sandbox, "true") == text
    kill(client, process, 9, everything=True)
    eventually(lambda: not is_refused(client, sandbox))
    assert client.out(sandbox, "cat f") == "x"
    client.destroy(sandbox)
    eventually(lambda: count() == before)


@pytest.fixture
def pids_group(tmp_path):
    """A control group that can bound processes, for a daemon."""
    found = None
    with open("/proc/self/mountinfo") as file:
        for line in file:
            v1 = " - cgroup " in line and "pids" in line.strip().rsplit(" ", 1)[1].split(",")
            found = line.split()[4] if v1 else found
    root = found or v2_root()
    if not root:
        pytest.skip("no control group hierarchy here bounds processes")
    group = pathlib.Path(root, f"agentfense-test-{os.getpid()}")
    group.mkdir()
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_fork_that_fails_in_the_daemon_is_said_and_heals(pids_group, new_daemon):
    daemon, client, count = started(new_daemon, "--exec-pool", "0")
    codebase = client.codebase({"f": "x"})
    warm = client.sandbox(codebase, FULL)
    client.out(warm, "true")
    cycle(client, codebase)
    before = count.steady(len(count.processes()))
    (pids_group / "cgroup.procs").write_text(str(daemon.process.pid))
    current = (pids_group / "pids.current").read_text()
    (pids_group / "pids.max").write_text(current)
    sandbox = client.sandbox(codebase, FULL, start=False)
    request = pb.StartSandboxRequest(sandbox_id=sandbox)
    for _ in range(20):
        text = expect(
            grpc.StatusCode.RESOURCE_EXHAUSTED, client.sandboxes.StartSandbox, request)
        assert "processes" in text
        assert client.out(warm, "cat f") == "x"  # its init is not below the daemon's bound
    eventually(lambda: count() == before)
    (pids_group / "pids.max").write_text("max")
    client.sandboxes.StartSandbox(request)
    assert client.out(sandbox, "cat f") == "x"
    client.close()
    assert daemon.stop() == 0
