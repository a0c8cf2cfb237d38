"""The Docker runtime: the same commands, views and promises as in bubblewrap."""

import os
import signal
import subprocess
import time

import grpc
import pytest
from dockerd import IMAGE, Dockerd, needs_dockerd, options

from harness import AGENT_SAFE, FULL, ROOT, afpb, eventually, expect, pb
from processes import alive_with, attach, start, unique, wait, write

pytestmark = needs_dockerd
MIB = 1 << 20
DOCKER = pb.RUNTIME_TYPE_DOCKER


@pytest.fixture
def docker_daemon(new_daemon, dockerd):
    def make(*more):
        return new_daemon(*options(dockerd.socket, *more)).start()

    return make


@pytest.fixture
def client(docker_daemon):
    return docker_daemon().client()


def box(client, files=None, rules=FULL, **fields):
    return client.sandbox(client.codebase(files or {"f": "x"}), rules, runtime=DOCKER, **fields)


def test_D2_docker_has_the_same_copy_on_write_view_as_bwrap(client):
    files = {"src/a": "base", "secrets/key": "s", ".env": "e", "d/one": "1"}
    script = (
        "ls -A; ls -A d; cat src/a; cat .env secrets/key 2>/dev/null; mkdir -p output;"
        "echo y > output/y; cat output/y; touch src/b 2>/dev/null || echo refused; pwd;"
        "mv d e 2>/dev/null || echo stays; stat -c %a src/a output/y"
    )
    # A codebase each: what a command leaves is committed.
    bwrap = client.sandbox(client.codebase(files), AGENT_SAFE)
    docker = client.sandbox(client.codebase(files), AGENT_SAFE, runtime=DOCKER)
    one, other = (client.exec(s, script) for s in (bwrap, docker))
    assert one.stdout == other.stdout and one.exit_code == other.exit_code
    assert "refused" in one.stdout and "base" in one.stdout
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=docker))
    assert got.runtime == DOCKER and got.image == IMAGE
    # A second start sees what the first one made.
    for sandbox in (bwrap, docker):
        client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
        assert client.out(sandbox, "cat output/y") == "y\n"


def test_X4_stdin_workdir_env_limits_and_stderr_are_alike(client):
    codebase = client.codebase({"sub/f": "x"})
    results = []
    for runtime in (pb.RUNTIME_TYPE_BWRAP, DOCKER):
        sandbox = client.sandbox(codebase, FULL, runtime=runtime)
        result = client.exec(
            sandbox,
            "cat; pwd; echo $A-$USER-$HOME; echo err >&2; id -un; touch $HOME/h /tmp/t; umask; "
            "exit 7",
            stdin="given\n",
            workdir="/workspace/sub",
            env={"A": "value"},
        )
        results.append((result.stdout, result.stderr, result.exit_code))
        text = expect(grpc.StatusCode.INVALID_ARGUMENT, client.exec, sandbox, "true", workdir="/no")
        assert "/no" in text
        expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, "sleep 60", timeout=0.5)
        assert client.out(sandbox, "cat f", workdir="/workspace/sub") == "x"
    assert results[0] == results[1]
    assert results[0][0].startswith("given\n/workspace/sub\nvalue-agent-/home/agent\nagent\n")


def test_the_images_variables_are_there_and_the_callers_win(client):
    sandbox = box(client)
    assert client.out(sandbox, "echo $IMAGE_SAYS; tool") == "hello\ntool of the image\n"
    assert client.out(sandbox, "echo $IMAGE_SAYS", env={"IMAGE_SAYS": "mine"}) == "mine\n"
    run = client.execs.Run(afpb.RunRequest(sandbox_id=sandbox, argv=[b"tool"]))
    assert run.stdout == b"tool of the image\n"


def test_E6_an_agent_in_a_container_has_nothing_to_gain(client, dockerd):
    sandbox = box(client)
    status = client.out(sandbox, "cat /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
    assert int(fields["Uid"].split()[0]) >= 200000
    refused = [
        "mount -t tmpfs x /tmp", "mount -o remount,rw /", "touch /bin/x", "touch /.agentfense/x",
        "unshare -U true", "chroot /bin", "cat /proc/1/environ", "ls /proc/1/fd/",
        "ls -A /.agentfense", "cat /.agentfense/init.sock", "mknod /tmp/d b 8 0",
        "hostname x", "wget -T 2 -q http://1.1.1.1/", "cat /sys/fs/cgroup/cgroup.procs > /x",
    ]
    for command in refused:
        assert client.exec(sandbox, command).exit_code != 0, command
    assert client.out(sandbox, "ls /sys/class/net").split() == ["lo"]
    container = dockerd.inspect(dockerd.containers()[0])
    assert container["HostConfig"]["NetworkMode"] == "none"
    # The init's socket is gone: nobody inside can pass for it.
    assert client.exec(sandbox, "cat /.agentfense/passwd").exit_code == 0
    assert client.exec(sandbox, "ls /.agentfense/init.sock").exit_code != 0


def test_limits_reach_the_container_and_out_of_memory_is_said(client, dockerd):
    sandbox = box(client, resources=pb.ResourceLimits(
        memory_bytes=64 * MIB, cpu_quota=50000, cpu_shares=512, pids_limit=50))
    config = dockerd.inspect(dockerd.containers()[0])["HostConfig"]
    assert config["Memory"] == config["MemorySwap"] == 64 * MIB
    assert (config["CpuQuota"], config["CpuShares"], config["PidsLimit"]) == (50000, 512, 50)
    hog = "x=$(head -c 1000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"
    result = client.exec(sandbox, hog)
    assert result.exit_code == 137 and "memory limit" in result.stderr
    assert client.out(sandbox, "echo on").strip() == "on"


def test_sessions_streams_and_files_work(client):
    sandbox = box(client)
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox))
    def line(command):
        return client.sandboxes.SessionExec(
            pb.SessionExecRequest(session_id=session.id, command=command))
    line("cd /tmp; A=kept")
    assert line("echo $A; pwd").stdout == "kept\n/tmp\n"
    stream = client.sandboxes.ExecStream(
        pb.ExecRequest(sandbox_id=sandbox, command="echo out; echo err >&2; exit 3"))
    parts = {kind: b"" for kind in (1, 2)}
    for part in stream:
        parts[part.type] += part.data
    assert parts == {1: b"out\n", 2: b"err\n"}
    assert dict(stream.trailing_metadata())["agentfense-exit-code"] == "3"


def test_X6_a_timeout_kills_what_was_forked_twice(client):
    sandbox = box(client)
    command = "(setsid sh -c 'sleep 300 & sleep 300' &) ; sleep 300"
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, command, timeout=1)
    assert "sleep" not in client.out(sandbox, "ps")


def test_X6_a_fork_bomb_in_a_container_ends_whole_and_alone(client, tmp_path):
    bomb = tmp_path / "bomb"
    subprocess.run(["gcc", "-O1", "-static", "-o", str(bomb),
                    str(ROOT / "tests/faults/fork_bomb.c")], check=True)
    room = pb.ResourceLimits(pids_limit=1000)  # for its neighbour as well
    sandbox = box(client, {"bomb": bomb.read_bytes()}, resources=room)
    client.out(sandbox, "cp bomb /tmp/bomb; chmod 755 /tmp/bomb")
    # It has nothing to fork, which would fail for itself.
    beside = start(client, sandbox, "while read l; do echo $l; done", stdin=True)
    marker = unique("in-docker")
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, f"/tmp/bomb 40 {marker}",
           timeout=1)
    assert not alive_with(marker)
    write(client, beside, b"on\n")
    eventually(lambda: attach(client, beside, follow=False)[0] == b"on\n")


def test_destroying_leaves_no_container_and_no_directory(docker_daemon, dockerd):
    before = set(dockerd.containers())
    daemon = docker_daemon()
    client = daemon.client()
    made = [box(client) for _ in range(3)]
    assert len(set(dockerd.containers()) - before) == 3
    for sandbox in made[:2]:
        client.destroy(sandbox)
    assert len(set(dockerd.containers()) - before) == 1
    assert daemon.stop() == 0
    assert set(dockerd.containers()) == before
    assert os.listdir(daemon.state / "run/docker") == []


def test_containers_of_a_crashed_daemon_are_removed(new_daemon, dockerd):
    before = set(dockerd.containers())
    daemon = new_daemon(*options(dockerd.socket, "--exec-docker-pool", "1")).start()
    client = daemon.client()
    box(client), box(client)
    daemon.kill()
    assert set(dockerd.containers()) - before
    daemon.start()
    eventually(lambda: len(set(dockerd.containers()) - before) <= 1)  # the new pool's
    assert daemon.stop() == 0
    assert set(dockerd.containers()) == before


def test_the_directories_of_a_crashed_daemons_containers_are_removed(new_daemon, dockerd):
    daemon = new_daemon(*options(dockerd.socket)).start()
    client = daemon.client()
    box(client), box(client)
    folder = daemon.state / "run/docker"
    assert len(os.listdir(folder)) == 2
    daemon.kill()
    daemon.start()
    assert os.listdir(folder) == []


@pytest.mark.parametrize("way", ["timeout", "destroy", "stop of the daemon"])
def test_a_paused_container_holds_up_no_end(docker_daemon, dockerd, way):
    # A signal ends no process that a control group of v1 keeps frozen.
    daemon = docker_daemon()
    client = daemon.client()
    before = set(dockerd.containers())
    sandbox = box(client)
    (container,) = set(dockerd.containers()) - before
    dockerd.docker("pause", container)
    if way == "timeout":
        expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, "true", timeout=0.5)
    elif way == "destroy":
        client.destroy(sandbox)
    else:
        assert daemon.stop() == 0
    eventually(lambda: set(dockerd.containers()) == before)


def test_a_start_from_the_pool_gets_a_container_that_waited(docker_daemon, dockerd):
    daemon = docker_daemon("--exec-docker-pool", "1")
    eventually(lambda: len(dockerd.containers()) == 1)
    waiting = dockerd.containers()
    client = daemon.client()
    eventually(lambda: dockerd.inspect(waiting[0])["State"]["Running"])
    sandbox = box(client, {"f": "seen"})
    assert client.out(sandbox, "cat f; echo w > g; stat -c %u g") == "seen" + client.out(
        sandbox, "id -u")
    eventually(lambda: len(dockerd.containers()) == 2)  # refilled
    client.destroy(sandbox)


def test_a_lazy_container_is_made_by_its_first_command_whatever_that_is(docker_daemon, dockerd):
    before = set(dockerd.containers())
    client = docker_daemon("--exec-lazy", "--exec-runtime", "docker").client()
    codebase = client.codebase({"f": "x"})
    made = [client.sandbox(codebase, FULL) for _ in range(6)]
    assert set(dockerd.containers()) == before
    line, argv, shell, given, background, wrong = made
    # All that depends on the image: its shell, its variables, its programs.
    result = client.exec(line, "cat; echo $IMAGE_SAYS $SHELL $A ${#B}; cat f; exit 3",
                         stdin="in ", env={"A": "a", "B": "b" * 100000})
    assert (result.stdout, result.exit_code) == ("in hello /bin/sh a 100000\nx", 3)
    run = client.execs.Run(afpb.RunRequest(sandbox_id=argv, argv=[b"tool"]))
    assert run.stdout == b"tool of the image\n"
    for sandbox, wanted in ((shell, ""), (given, "/bin/sh")):
        request = pb.CreateSessionRequest(sandbox_id=sandbox, shell=wanted)
        session = client.sandboxes.CreateSession(request)
        assert session.shell == "/bin/sh"
        request = pb.SessionExecRequest(session_id=session.id, command="v=1; echo $IMAGE_SAYS")
        assert client.sandboxes.SessionExec(request).stdout == "hello\n"
    process = start(client, background, "read x; echo $x $IMAGE_SAYS", stdin=True)
    write(client, process, b"early\n")
    assert wait(client, process).exit.exit_code == 0
    assert attach(client, process)[0] == b"early hello\n"
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.execs.Run,
           afpb.RunRequest(sandbox_id=wrong, argv=[b"no-such-program"]))
    assert client.out(wrong, "cat f") == "x"
    for sandbox in made:
        client.destroy(sandbox)
    assert set(dockerd.containers()) == before


def test_first_commands_that_come_at_once_share_a_lazy_container(docker_daemon):
    client = docker_daemon("--exec-lazy", "--exec-runtime", "docker").client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL)
    request = pb.ExecRequest(sandbox_id=sandbox, command="readlink /proc/self/ns/pid; cat f")
    results = [call.result() for call in [client.sandboxes.Exec.future(request) for _ in range(8)]]
    assert len({r.stdout for r in results}) == 1 and results[0].stdout.endswith("x")
    # One that has gone before its container was there takes nothing along. It never ends by itself.
    other = client.sandbox(client.codebase({"f": "x"}), FULL)
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.sandboxes.Exec,
           pb.ExecRequest(sandbox_id=other, command="sleep 100"), timeout=0.05)
    assert client.out(other, "cat f") == "x"


def test_a_lazy_container_that_cannot_start_tells_its_first_command_why(docker_daemon):
    client = docker_daemon("--exec-lazy", "--exec-runtime", "docker").client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, image="not-here:1")
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, client.exec, sandbox, "true")
    assert "not-here:1" in text
    session = client.sandbox(client.codebase({"f": "x"}), FULL, image="not-here:1")
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, client.sandboxes.CreateSession,
                  pb.CreateSessionRequest(sandbox_id=session))
    assert "not-here:1" in text


def test_an_idle_container_is_removed_and_made_again(docker_daemon, dockerd):
    before = set(dockerd.containers())
    client = docker_daemon("--exec-idle-end", "300ms").client()
    sandbox = box(client)
    for i in range(2):
        assert client.out(sandbox, f"echo {i} >> log; wc -l < log").strip() == str(i + 1)
        eventually(lambda: set(dockerd.containers()) == before)


def test_a_missing_image_is_said_and_not_pulled(client):
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase, FULL, start=False, runtime=DOCKER, image="no/such:image")
    start = pb.StartSandboxRequest(sandbox_id=sandbox)
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, client.sandboxes.StartSandbox, start)
    assert "no/such:image" in text and "exec.docker_pull" in text
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))
    assert got.status == pb.SANDBOX_STATUS_PENDING
    for wrong in ("a b", "x/../../etc?y=", "ü"):
        expect(grpc.StatusCode.INVALID_ARGUMENT, client.sandbox, codebase, FULL, runtime=DOCKER,
               image=wrong)


def test_a_dockerd_that_hangs_is_not_waited_for_longer_than_a_start_may_take(new_daemon):
    """Calls answer long before the requests to it would have given up, commands do not notice."""
    own = Dockerd()
    try:
        own.start().make_image()
        daemon = new_daemon(*options(own.socket)).start()
        client = daemon.client()
        running, stuck = box(client), box(client, start=False)
        own.process.send_signal(signal.SIGSTOP)
        assert client.out(running, "cat f") == "x"
        text = expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.sandboxes.StartSandbox,
                      pb.StartSandboxRequest(sandbox_id=stuck), timeout=45)
        assert "did not start in time" in text
        assert client.out(running, "cat f") == "x"
        begun = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - begun < 45
        own.process.send_signal(signal.SIGCONT)
        daemon.start()
        # dockerd is at the removals that it was asked for before, and refuses the same again.
        eventually(lambda: own.containers() == [])
    finally:
        own.process.send_signal(signal.SIGCONT)
        own.cleanup()


def test_O2_a_server_with_a_runtime_that_is_not_there_does_not_start(new_daemon, tmp_path):
    for args, words in (
        (["--exec-runtime", "podman"], "podman"),
        (["--exec-runtime", "docker"], "docker_socket"),
        (["--exec-docker-socket", str(tmp_path / "none.sock")], "dockerd"),
    ):
        daemon = new_daemon(*args)
        done = subprocess.run(daemon.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode != 0 and words in done.stdout.decode()


def test_O2_the_servers_default_runtime_is_the_one_used(docker_daemon):
    client = docker_daemon("--exec-runtime", "docker").client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL)
    assert client.out(sandbox, "echo $IMAGE_SAYS") == "hello\n"
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))
    assert got.runtime == DOCKER


def test_a_server_without_docker_refuses_the_runtime(daemon):
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, client.sandbox, codebase, FULL,
                  runtime=DOCKER)
    assert "docker_socket" in text


def test_dockerd_that_stops_in_mid_command_is_a_clear_end_and_heals(new_daemon):
    own = Dockerd()
    try:
        own.start().make_image()
        daemon = new_daemon(*options(own.socket)).start()
        client = daemon.client()
        sandbox = box(client)
        call = client.sandboxes.Exec.future(
            pb.ExecRequest(sandbox_id=sandbox, command="touch started; sleep 300"))
        eventually(lambda: "started" in client.out(sandbox, "ls"))
        own.stop()
        assert expect(grpc.StatusCode.UNAVAILABLE, call.result)
        start = pb.StartSandboxRequest(sandbox_id=sandbox)

        def status():
            return client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox)).status

        eventually(lambda: status() == pb.SANDBOX_STATUS_STOPPED)
        text = expect(grpc.StatusCode.UNAVAILABLE, client.sandboxes.StartSandbox, start)
        assert "dockerd" in text
        own.start()
        client.sandboxes.StartSandbox(start)
        assert client.out(sandbox, "ls").split() == ["f", "started"]
        client.destroy(sandbox)
        assert daemon.stop() == 0
        # What could not be removed then goes at the next start.
        daemon.start()
        assert own.containers() == []
    finally:
        own.cleanup()
