"""Limits of requests and bytes a second: kept, changed and lifted at once, and nobody else's.

Times are bounded from below where a limit must hold, for a slow machine only makes them longer.
Where something must not take long, the other side of the comparison is the limit itself: many
times longer than a loaded machine takes.
"""

import contextlib
import os
import pathlib
import signal
import threading
import time

import grpc
import pytest

from harness import FULL, Daemon, afpb, eventually, expect, monpb, pb, rule, sbpb
from processes import own_uids, processes_with_uid

KIB = 1 << 10
MIB = 1 << 20
LEAST = 64 * KIB  # bytes a second
SLOW = 1  # request a second: what is held is held for long


@pytest.fixture(scope="module", params=["auto", "dev_fuse"])
def daemon(request, tmp_path_factory):
    """A daemon on either transport; what runs as a uid of its sandboxes is killed by tests."""
    uids = own_uids()[2]
    made = Daemon(tmp_path_factory.mktemp("af"), "--transport", request.param, *uids)
    made.start()
    yield made
    made.cleanup()


@pytest.fixture
def make(client):
    """Makes started sandboxes over one codebase and destroys them after the test."""
    codebase = client.codebase({f"small/{i}": "s" * KIB for i in range(100)} | {"f": "content\n"})
    made = []

    def start(iops=0, bandwidth=0, **fields):
        options = sbpb.SandboxOptions(
            commit_policy=sbpb.COMMIT_POLICY_MANUAL,
            io_limit=sbpb.IoLimit(iops=iops, bandwidth=bandwidth),
        )
        sandbox = pb.CreateSandboxRequest(
            codebase_id=codebase, permissions=[rule(*r) for r in FULL], **fields
        )
        request = sbpb.CreateRequest(sandbox=sandbox, options=options, start=True)
        made.append(client.views.Create(request).sandbox.id)
        return made[-1]

    yield start
    client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=made))


def limit(client, sandbox, iops=0, bandwidth=0):
    wanted = sbpb.IoLimit(iops=iops, bandwidth=bandwidth)
    return client.views.SetIoLimit(sbpb.SetIoLimitRequest(sandbox_id=sandbox, io_limit=wanted))


def metrics(client, sandbox=""):
    """Those without labels."""
    reply = client.monitor.GetStats(monpb.GetStatsRequest(sandbox_id=sandbox))
    return {m.name: m.value for m in reply.metrics if not m.labels}


def held_now(client):
    return metrics(client)["agentfense_fuse_held_now"]


def took(client, sandbox, command):
    """Seconds that a command which must succeed takes."""
    began = time.monotonic()
    client.out(sandbox, command)
    return time.monotonic() - began


@contextlib.contextmanager
def running(client, sandbox, command):
    """A command in the background; what it ended with, or the error, is in the list."""
    results = []

    def call():
        try:
            results.append(client.exec(sandbox, command, timeout=600))
        except grpc.RpcError as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield thread, results
    finally:
        thread.join(60)
        assert not thread.is_alive(), "the command hangs"


# ---- what a limit is


def test_a_limit_is_said_at_create_and_changed_alone(client, make):
    sandbox = make(iops=100, bandwidth=MIB)
    info = client.views.Get(sbpb.GetRequest(sandbox_id=sandbox))
    assert (info.options.io_limit.iops, info.options.io_limit.bandwidth) == (100, MIB)
    view = next(v for v in client.inspect.ListViews(afpb.ListViewsRequest()).views
                if v.sandbox_id == sandbox)
    assert (view.iops, view.bandwidth) == (100, MIB)
    info = limit(client, sandbox, bandwidth=2 * MIB)
    assert (info.options.io_limit.iops, info.options.io_limit.bandwidth) == (0, 2 * MIB)
    figures = metrics(client, sandbox)
    assert figures["agentfense_view_iops_limit"] == 0
    assert figures["agentfense_view_bandwidth_limit_bytes"] == 2 * MIB


def test_a_limit_that_makes_no_sense_is_invalid(client, make):
    sandbox = make()
    for wrong in ({"iops": 10**9 + 1}, {"bandwidth": LEAST - 1}, {"bandwidth": 1 << 34}):
        expect(grpc.StatusCode.INVALID_ARGUMENT, limit, client, sandbox, **wrong)
        expect(grpc.StatusCode.INVALID_ARGUMENT, make, **wrong)
    missing = sbpb.SetIoLimitRequest(sandbox_id="sb_" + "0" * 26)
    expect(grpc.StatusCode.NOT_FOUND, client.views.SetIoLimit, missing)


def test_a_batch_has_limits_of_its_items(client):
    codebase = client.codebase({"f": "x"})
    items = [
        sbpb.CreateRequest(
            sandbox=pb.CreateSandboxRequest(codebase_id=codebase),
            options=sbpb.SandboxOptions(io_limit=sbpb.IoLimit(iops=n)),
        )
        for n in (7, 10**9 + 1, 0)
    ]
    reply = client.views.BatchCreate(sbpb.BatchCreateRequest(items=items))
    codes = [item.status.code for item in reply.items]
    assert codes == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
    got = client.views.Get(sbpb.GetRequest(sandbox_id=reply.items[0].sandbox.id))
    assert got.options.io_limit.iops == 7


def test_maxima_hold_for_all_and_more_is_refused(new_daemon):
    daemon = new_daemon("--iops-max", "50", "--bandwidth-max", "1M").start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase, FULL, manual=True)

    def in_force():
        view, = client.inspect.ListViews(afpb.ListViewsRequest()).views
        return view.iops, view.bandwidth

    assert in_force() == (50, MIB)
    assert took(client, sandbox, "for i in $(seq 30); do > f$i; done") > 0.8
    text = expect(grpc.StatusCode.INVALID_ARGUMENT, limit, client, sandbox, iops=51)
    assert "allows" in text
    limit(client, sandbox, iops=20)
    assert in_force() == (20, MIB)
    limit(client, sandbox)
    assert in_force() == (50, MIB)


def test_a_limit_outlives_a_stop_and_a_crash(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, manual=True)
    limit(client, sandbox, iops=20)
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    daemon.kill()
    client = daemon.start().client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert took(client, sandbox, "for i in $(seq 10); do > f$i; done") > 0.9


# ---- it holds, and for nobody else


def test_writing_takes_as_long_as_the_bandwidth_says(client, make):
    # Few requests, for what a busy machine needs for each is not time that it was held.
    slow, free = make(bandwidth=256 * KIB), make()
    command = "dd if=/dev/zero of=out bs=16k count=64 2>&1"  # 1 MiB
    with running(client, slow, command) as (thread, results):
        eventually(lambda: held_now(client) > 0)
        # Nobody else is held back meanwhile: nothing of it waits for a limit.
        client.out(free, command)
        assert metrics(client, free)["agentfense_view_held_total"] == 0
        thread.join(60)
        assert results[0].exit_code == 0, results
    assert results[0].duration.ToNanoseconds() / 1e9 > 1024 / 256 - 0.2
    figures = metrics(client, slow)
    assert figures["agentfense_view_held_total"] > 0
    assert figures["agentfense_view_held_seconds_total"] > 2


def test_reading_own_files_takes_as_long_as_the_bandwidth_says(client, make):
    sandbox = make()
    client.out(sandbox, "dd if=/dev/zero of=own bs=1M count=12")
    limit(client, sandbox, bandwidth=4 * MIB)
    drop = "import os;f=os.open('own',0);os.posix_fadvise(f,0,0,os.POSIX_FADV_DONTNEED)"
    client.out(sandbox, f'python3 -c "{drop}"')
    assert took(client, sandbox, "cat own > /dev/null") > 12 / 4 - 0.5
    # From the page cache it costs nothing.
    before = metrics(client, sandbox)["agentfense_view_held_total"]
    client.out(sandbox, "cat own > /dev/null")
    assert metrics(client, sandbox)["agentfense_view_held_total"] - before < 8


def test_requests_take_as_long_as_the_iops_say(client, make):
    sandbox = make(iops=50)
    command = "import os\nfor i in range(50): os.mkdir(str(i))"
    # A LOOKUP and a MKDIR each.
    assert took(client, sandbox, f'python3 -c "{command}"') > 100 / 50 - 0.2


def test_many_threads_get_no_more_than_one(client, make):
    sandbox = make(iops=100)
    command = "for i in $(seq 20); do (mkdir d$i; rmdir d$i; mkdir d$i; rmdir d$i) & done; wait"
    assert took(client, sandbox, command) > 100 / 100 - 0.2


# ---- changes at once


def test_raising_a_limit_lets_go_what_is_held(client, make):
    sandbox = make(iops=SLOW)
    with running(client, sandbox, "for i in $(seq 200); do > f$i; done; echo done") as (_, results):
        eventually(lambda: held_now(client) > 0)
        limit(client, sandbox, iops=10000)
        eventually(lambda: results)
    assert results[0].stdout == "done\n"


def test_removing_a_limit_lets_go_what_is_held(client, make):
    sandbox = make(iops=SLOW)
    with running(client, sandbox, "for i in $(seq 200); do > f$i; done; echo done") as (_, results):
        eventually(lambda: held_now(client) > 0)
        limit(client, sandbox)
        eventually(lambda: results)
    assert results[0].stdout == "done\n"


def test_a_limit_comes_to_a_sandbox_that_runs(client, make):
    sandbox = make()
    assert took(client, sandbox, "for i in $(seq 20); do mkdir a$i; done") < 30
    limit(client, sandbox, iops=20)
    assert took(client, sandbox, "for i in $(seq 10); do mkdir b$i; done") > 20 / 20 - 0.2


# ---- who waits can be ended


def held_back(client, sandbox, command):
    """Starts it in the sandbox, with a limit that lets nothing through for long."""
    limit(client, sandbox, iops=SLOW, bandwidth=LEAST)
    return running(client, sandbox, command)


def python(program, how="exec"):
    """A command that runs a Python program which has no double quotes."""
    return f'{how} python3 -S -c "{program}"'


def waiting(uid):
    """Processes of the sandbox that wait for a request, or for a page that one is to bring."""
    found = []
    for pid in processes_with_uid(uid, uid + 1):
        with contextlib.suppress(OSError):
            where = pathlib.Path(f"/proc/{pid}/wchan").read_text()
            if where == "request_wait_answer" or where.startswith("folio_wait_bit"):
                found.append(pid)
    return found


@pytest.mark.parametrize("command, code", [
    ("for i in $(seq 1000); do mkdir d$i || exit 9; done", 9),
    ("exec dd if=/dev/zero of=out bs=1M count=1000", 137),
    ("exec cat own", 137),
])
def test_a_killed_process_goes_at_once(client, make, command, code):
    sandbox = make()
    client.out(sandbox, "truncate -s 1G own")
    uid = client.uid_of(sandbox)
    with held_back(client, sandbox, command) as (_, results):
        eventually(lambda: held_now(client) > 0 and waiting(uid))
        # Who is served between two looks is not waiting then.
        eventually(lambda: [os.kill(pid, signal.SIGKILL) for pid in waiting(uid)])
        eventually(lambda: results)
        assert results[0].exit_code == code, results[0]
    eventually(lambda: held_now(client) == 0)


def test_a_killed_process_does_not_wait_for_the_turn_of_its_request(client, make):
    """Which would come in four minutes: the one before it is paid for first."""
    sandbox = make()
    client.out(sandbox, "truncate -s 16M own; mkdir d")
    uid = client.uid_of(sandbox)
    limit(client, sandbox, bandwidth=LEAST)
    program = (
        "import os\na=os.open('own',os.O_RDONLY)\nb=os.open('out',os.O_WRONLY|os.O_CREAT)\n"
        "print(os.copy_file_range(a,b,16<<20),flush=True)\nos.mkdir('d/made')"  # waits for 256 s
    )
    with running(client, sandbox, python(program)) as (_, results):
        eventually(lambda: held_now(client) > 0 and waiting(uid))
        for pid in waiting(uid):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: results)
        assert results[0].exit_code == 137, results[0]
        assert results[0].stdout == f"{16 * MIB}\n"
    eventually(lambda: held_now(client) == 0)
    limit(client, sandbox)
    assert client.out(sandbox, "ls d") == ""  # it was not run behind its back


def test_a_process_that_had_another_signal_before_can_be_killed(client, make):
    """The kernel tells of the first signal only."""
    sandbox = make()
    uid = client.uid_of(sandbox)
    program = "import os, signal\nsignal.signal(10, lambda *a: None)\nos.makedirs('a/b/c/d/e/f/g')"

    def catches(pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(status.split("SigCgt:")[1].split()[0], 16) & 1 << 9

    with held_back(client, sandbox, python(program)) as (_, results):
        eventually(lambda: any(catches(pid) for pid in waiting(uid)))
        for pid in waiting(uid):
            os.kill(pid, signal.SIGUSR1)
            eventually(lambda: pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] == "D")
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: results)
        assert results[0].exit_code == 137, results[0]


def test_a_command_that_is_held_can_be_cancelled_by_its_timeout(client, make):
    sandbox = make(iops=SLOW)
    command = "for i in $(seq 1000); do mkdir d$i; done"
    began = time.monotonic()
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, command, timeout=1)
    assert time.monotonic() - began < 20  # at one request a second it would be a quarter of an hour


def test_destroying_a_sandbox_waits_for_nothing_that_is_held(client, make):
    sandbox = make()
    client.out(sandbox, "mkdir $(seq 40)")  # in one directory the kernel lets one ask at a time
    command = "for i in $(seq 40); do (for j in $(seq 1000); do mkdir $i/$j; done) & done; wait"
    with held_back(client, sandbox, command):
        eventually(lambda: held_now(client) >= 20)
        began = time.monotonic()
        client.destroy(sandbox)
        assert time.monotonic() - began < 20  # at one request a second it would be more
    eventually(lambda: held_now(client) == 0)


def test_the_daemon_stops_while_requests_are_held(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, manual=True)
    with held_back(client, sandbox, "for i in $(seq 1000); do mkdir d$i; done"):
        eventually(lambda: held_now(client) > 0)
        assert daemon.stop() == 0


# ---- others are not held back


@pytest.fixture
def neighbour(daemon, client, make):
    """A file of another sandbox, read through the daemon each time, on the CPU that it is told."""
    view = daemon.mount / make()

    def read(cpu):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            began = time.monotonic()
            for i in range(100):
                fd = os.open(view / "small" / str(i), os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, KIB, 0) == b"s" * KIB
                os.close(fd)
            return time.monotonic() - began
        finally:
            os.sched_setaffinity(0, before)

    return read


def test_held_requests_leave_a_ring_to_others_of_its_cpu(client, make, neighbour):
    """More threads are held on one CPU than fair service leaves entries for."""
    cpu = min(os.sched_getaffinity(0))
    sandbox = make()
    client.out(sandbox, "mkdir $(seq 200)")
    program = (
        "import os,threading\n"
        "def work(i):\n for j in range(1000): os.mkdir(str(i)+'/'+str(j))\n"
        "for i in range(1,201): threading.Thread(target=work,args=(i,)).start()"
    )
    with held_back(client, sandbox, python(program, f"exec taskset -c {cpu}")):
        try:
            eventually(lambda: held_now(client) >= 150, 60)
            assert neighbour(cpu) < 20  # at one request a second it would be minutes
        finally:
            client.destroy(sandbox)


def test_held_reads_leave_room_for_the_reads_of_others(client, make, neighbour):
    """READs ahead are counted by the kernel for all views together: 64 at first."""
    sandbox = make()
    client.out(sandbox, "truncate -s 2G own")
    program = (
        "import os,signal\nf=os.open('own',0)\n"
        "for i in range(400): os.posix_fadvise(f,i<<22,1<<20,os.POSIX_FADV_WILLNEED)\n"
        "print('asked',flush=True)\nsignal.pause()"
    )
    with held_back(client, sandbox, python(program)):
        try:
            eventually(lambda: held_now(client) >= 100, 60)
            for cpu in os.sched_getaffinity(0):
                assert neighbour(cpu) < 20
        finally:
            client.destroy(sandbox)


def test_a_change_of_rules_is_told_while_a_directory_is_held(client, make):
    """The kernel is told of changes by one thread, which waits for a directory that is in use."""
    sandbox = make()
    client.out(sandbox, "truncate -s 4M own; mkdir d; echo > d/known; cat d/known")
    limit(client, sandbox, bandwidth=LEAST)
    program = (
        "import os\na=os.open('own',os.O_RDONLY)\nb=os.open('out',os.O_WRONLY|os.O_CREAT)\n"
        "os.copy_file_range(a,b,3<<20)\nos.mkdir('d/made')"  # waits for 48 s
    )
    with running(client, sandbox, python(program)) as (_, results):
        eventually(lambda: held_now(client) > 0 and waiting(client.uid_of(sandbox)))
        began = time.monotonic()
        client.set_rules(sandbox, FULL + [("/d/known", "none", 9)])
        assert time.monotonic() - began < 20
        limit(client, sandbox)  # the request after the one that was let go waits again
        eventually(lambda: results)
        assert results[0].exit_code == 0


def test_what_root_does_in_a_limited_view_is_not_held(daemon, client, make):
    sandbox = make(iops=SLOW)
    began = time.monotonic()
    for i in range(20):
        os.mkdir(daemon.mount / sandbox / f"r{i}")
    assert time.monotonic() - began < 15


def test_pages_of_a_shared_file_are_not_kept_from_others(client):
    """Under the policy kernel two views have one page cache of an unmodified file."""
    codebase = client.codebase({"big": b"b" * (8 * MIB)})
    limited = client.sandbox(codebase, [("**/*", "read", 0)], manual=True)
    limit(client, limited, bandwidth=LEAST)
    other = client.sandbox(codebase, [("**/*", "read", 0)], manual=True)
    with running(client, limited, "cat big > /dev/null"):
        eventually(lambda: metrics(client, limited).get("agentfense_view_held_total", 0) > 0)
        assert took(client, other, "cat big > /dev/null") < 20
        limit(client, limited)
    client.destroy(limited)
    client.destroy(other)


# ---- the policy server


@pytest.fixture
def server_client(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTFENSE_OPEN_POLICY", "server")
    daemon = Daemon(tmp_path).start()
    client = daemon.client()
    yield client
    client.close()
    daemon.cleanup()


def test_a_limited_view_is_not_passed_through(server_client):
    """The kernel would read at full speed, and nobody would count it."""
    client = server_client
    codebase = client.codebase({"big": b"b" * (6 * MIB)})
    sandbox = client.sandbox(codebase, [("**/*", "read", 0)], manual=True)
    limit(client, sandbox, bandwidth=2 * MIB)
    assert took(client, sandbox, "cat big > /dev/null") > 6 / 2 - 0.8
