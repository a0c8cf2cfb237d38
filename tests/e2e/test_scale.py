"""Many sandboxes on one mount."""

import concurrent.futures
import os
import pathlib

from harness import AGENT_SAFE, FULL, pb
from processes import children


def threads(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_400_sandboxes_and_50_running_at_once_on_one_mount(client, daemon):
    codebase = client.codebase({f"src/f{i}": f"file {i}\n" for i in range(50)})
    before_threads, before_fds = threads(daemon.process.pid), fds(daemon.process.pid)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:

        def make(_):
            return client.sandbox(codebase, AGENT_SAFE, start=False, manual=True)

        ids = list(pool.map(make, range(400)))
        assert len(set(ids)) == 400
        # Idle sandboxes cost no thread and no descriptor.
        assert threads(daemon.process.pid) <= before_threads + 2
        assert fds(daemon.process.pid) <= before_fds + 10
        running = ids[:50]
        start = client.sandboxes.StartSandbox
        list(pool.map(lambda s: start(pb.StartSandboxRequest(sandbox_id=s)), running))
        assert sorted(p for p in os.listdir(daemon.mount) if p.startswith("sb_")) == sorted(running)

        def work(sandbox):
            client.out(sandbox, f"mkdir output; echo {sandbox} > output/me; cat src/* > output/all")
            return client.out(sandbox, "cat output/me; ls output; wc -l < output/all")

        for sandbox, out in zip(running, pool.map(work, running)):
            assert out.split() == [sandbox, "all", "me", "50"]
        mounts = [
            line
            for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
            if str(daemon.mount) in line
        ]
        assert len(mounts) == 1
        list(pool.map(client.destroy, ids))
    left = client.sandboxes.ListSandboxes(pb.ListSandboxesRequest(codebase_id=codebase)).sandboxes
    assert not left
    assert not [p for p in os.listdir(daemon.mount) if p.startswith("sb_")]


def test_nothing_is_left_behind_by_cycles(client, daemon):
    codebase = client.codebase({"f": "x"})

    def cycle(_=None):
        sandbox = client.sandbox(codebase, FULL)
        client.out(sandbox, "echo x > y; cat f")
        client.destroy(sandbox)

    def counts():
        pid = daemon.process.pid
        return fds(pid), threads(pid), children(pid)

    cycle()
    before = counts()
    for _ in range(30):
        cycle()
    after = counts()
    assert after[0] <= before[0] + 5 and after[1] <= before[1] + 2 and after[2] <= before[2]
