"""agentfensed as a process: starting, refusing to start, stopping, crashing, and starting again."""

import concurrent.futures
import os
import pathlib
import socket
import stat
import subprocess
import time

import grpc
import pytest

from harness import (
    BIN, READY_SECONDS, STOP_SECONDS, Client, Daemon, FULL, afpb, eventually, expect, pb,
)


def processes_below(pid):
    """Every live descendant of a process."""
    children = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def alive(pid):
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def mounts_under(directory):
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [l for l in lines if str(directory) in l.split()[4]]


def takes_connections(daemon):
    """Whether somebody listens on the daemon's socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(daemon.socket)) == 0


def test_a_stop_lets_commands_end_and_commits_them(new_daemon):
    daemon = new_daemon("--stop-grace", "60s").start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase)
    command = "touch started; until test -e go; do :; done; echo late > r; echo ok"
    call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command=command))
    client.out(sandbox, "until test -e started; do :; done")
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stopped = pool.submit(daemon.stop)
        eventually(lambda: not takes_connections(daemon))
        (daemon.mount / sandbox / "go").touch()
        assert stopped.result() == 0
    assert time.monotonic() - begun < 50  # no longer than there is something to wait for
    assert call.result().stdout == "ok\n"
    daemon.start()
    assert daemon.client().download(codebase, "r") == b"late\n"


def test_a_stop_ends_commands_that_take_longer_than_the_grace(new_daemon):
    daemon = new_daemon("--stop-grace", "500ms").start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}))
    call = client.sandboxes.Exec.future(
        pb.ExecRequest(sandbox_id=sandbox, command="touch started; sleep 1000")
    )
    client.out(sandbox, "until test -e started; do :; done")
    below = processes_below(daemon.process.pid)
    assert below
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 8
    assert call.exception().code() == grpc.StatusCode.CANCELLED
    assert not [p for p in below if alive(p)]
    assert not mounts_under(daemon.dir)
    assert not daemon.socket.exists()


def test_B9_kill_9_loses_nothing(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"base": "base\n", "dir/f": "f\n"})
    sandbox = client.sandbox(codebase)
    big = "0123456789abcdef" * 65536
    client.out(sandbox, "cat > big; echo changed > base; mv dir moved; mkdir n", stdin=big)
    call = client.sandboxes.Exec.future(
        pb.ExecRequest(sandbox_id=sandbox, command="touch started; sleep 1000")
    )
    client.out(sandbox, "until test -e started; do :; done; rm started")
    below = processes_below(daemon.process.pid)
    daemon.kill()
    assert call.exception() is not None
    daemon.start()
    assert not [p for p in below if alive(p)]
    client = daemon.client()
    got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))
    assert got.status == pb.SANDBOX_STATUS_STOPPED
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, "cat base moved/f; ls; md5sum < big") == client.out(
        sandbox, f"printf 'changed\\nf\\nbase\\nbig\\nmoved\\nn\\n'; md5sum", stdin=big
    )
    assert len(mounts_under(daemon.dir)) == 1


def test_B9_repeated_crashes_under_load(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}))
    script = "i=0; while :; do i=$((i+1)); echo $i > n.$((i%50)); echo $i >> log; sync log; done"
    for _ in range(3):
        call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command=script))
        client.out(sandbox, "until test $(wc -l < log 2>/dev/null || echo 0) -gt 100; do :; done")
        acknowledged = int(client.out(sandbox, "tail -n 1 log"))
        daemon.kill()
        call.exception()
        daemon.start()
        client = daemon.client()
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
        lines = client.out(sandbox, "cat log").split()
        assert [int(l) for l in lines if l] and len(lines) >= acknowledged
        client.out(sandbox, "rm -rf n.* log && ls -A")


def test_one_instance_per_state_directory(new_daemon):
    daemon = new_daemon().start()
    argv = daemon.command()
    argv[argv.index("--socket") + 1] += "2"
    argv[argv.index("--mount") + 1] += "2"
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert str(daemon.process.pid) in second.stderr and str(daemon.state) in second.stderr
    daemon.client().codebase()


def test_a_mount_directory_with_files_is_refused(new_daemon):
    daemon = new_daemon()
    daemon.mount.mkdir()
    (daemon.mount / "mine").write_text("x")
    with pytest.raises(RuntimeError):
        daemon.start()
    assert "not empty" in daemon.log_text() and (daemon.mount / "mine").read_text() == "x"


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_database_is_refused_with_a_sentence(new_daemon, damage):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({f"f{i}": "x" * 1000 for i in range(100)})
    assert daemon.stop() == 0
    data = daemon.state / "store/data.mdb"
    whole = data.read_bytes()
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(whole[: len(whole) // 2 // 4096 * 4096] if damage == "truncated" else b"")
    with pytest.raises(RuntimeError):
        daemon.start()
    assert "agentfensed: " in daemon.log_text()
    assert "data.mdb" in daemon.log_text() or "state directory" in daemon.log_text()
    data.write_bytes(whole)
    daemon.start()
    assert daemon.client().download(codebase, "f7") == b"x" * 1000


def test_the_mount_of_a_living_daemon_is_never_taken(new_daemon, tmp_path):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}))
    argv = daemon.command()
    argv[argv.index("--socket") + 1] += "2"
    argv[argv.index("--state") + 1] += "2"
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0 and str(daemon.process.pid) in second.stderr
    assert client.out(sandbox, "cat f") == "x"
    assert daemon.stop() == 0
    assert not list(tmp_path.glob("*.lock"))


def test_another_schema_version_is_refused_untouched(new_daemon, tmp_path):
    daemon = new_daemon().start()
    daemon.client().codebase({"f": "x"})
    daemon.stop()
    data = next(daemon.state.rglob("data.mdb"))
    content = data.read_bytes()
    assert b"schema" in content
    data.write_bytes(content.replace(b"schema", b"schemb"))
    before = {
        p: p.read_bytes() for p in daemon.state.rglob("*") if p.is_file() and "lock" not in p.name
    }
    with pytest.raises(RuntimeError):
        daemon.start()
    assert "schema" in daemon.log_text() or "state directory" in daemon.log_text()
    after = {
        p: p.read_bytes() for p in daemon.state.rglob("*") if p.is_file() and "lock" not in p.name
    }
    assert before == after


@pytest.mark.parametrize(
    "args, word",
    [
        (["--state"], "state"),
        ([], "state"),
        (["--nope"], "nope"),
        (["--exec-bwrap", "/nonexistent/bwrap"], "bwrap"),
        (["--exec-bwrap", "nope"], "nope"),
        (["--exec-rootfs", "/nonexistent"], "nonexistent"),
        (["--exec-rootfs", "/etc"], "bin/sh"),
        (["--group", "no-such-group-here"], "no-such-group-here"),
        (["--listen", "0.0.0.0:0"], "loopback"),
        (["--listen", "nonsense"], "nonsense"),
        (["--config", "/nonexistent.yaml"], "nonexistent"),
        (["--transport", "carrier-pigeon"], "carrier-pigeon"),
    ],
)
def test_refuses_to_start_with_a_clear_sentence(tmp_path, args, word):
    needed = ["--state", str(tmp_path / "s"), "--socket", str(tmp_path / "k")]
    needed += ["--mount", str(tmp_path / "m")]
    argv = [str(BIN / "agentfensed")] + (args if word == "state" else needed + args)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, -6, -11), done
    assert word in done.stderr
    assert not mounts_under(tmp_path)


def test_a_config_file_gives_every_option(new_daemon, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"state: {tmp_path}/s\nsocket: {tmp_path}/k\nmount: {tmp_path}/m\n")
    daemon = new_daemon()
    daemon.command = lambda: [str(BIN / "agentfensed"), "--config", str(config)]
    daemon.start()
    daemon.mount = tmp_path / "m"
    client = Client(f"unix:{tmp_path}/k")
    client.codebase()
    config.write_text("nonsense: 1\n")
    bad = subprocess.run(
        [str(BIN / "agentfensed"), "--config", str(config)], capture_output=True, text=True
    )
    assert bad.returncode != 0 and "nonsense" in bad.stderr


def test_B1_a_state_directory_inside_the_mount_is_refused(tmp_path):
    argv = [str(BIN / "agentfensed"), "--state", str(tmp_path / "m/state")]
    argv += ["--socket", str(tmp_path / "k"), "--mount", str(tmp_path / "m")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "mount" in done.stderr


def test_the_socket_is_for_root_and_the_group(new_daemon):
    daemon = new_daemon().start()
    info = os.stat(daemon.socket)
    assert stat.S_IMODE(info.st_mode) == 0o660 and info.st_uid == 0


def test_another_user_is_refused_even_with_the_socket_open(new_daemon):
    daemon = new_daemon().start()
    os.chmod(daemon.dir, 0o755)
    for parent in daemon.dir.parents:
        if str(parent).startswith("/tmp/pytest"):
            os.chmod(parent, 0o755)
    os.chmod(daemon.socket, 0o666)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            # A fresh process: gRPC does not survive a fork.
            script = (
                "import sys; sys.path.insert(0, sys.argv[2]); import harness, grpc\n"
                "c = harness.Client('unix:' + sys.argv[1])\n"
                "harness.expect(grpc.StatusCode.PERMISSION_DENIED, c.codebase)\n"
            )
            here = str(pathlib.Path(__file__).resolve().parent)
            os.environ["TMPDIR"] = "/tmp"
            code = subprocess.call(
                ["/usr/bin/python3", "-B", "-c", script, str(daemon.socket), here]
            )
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_tcp_only_when_asked_and_on_loopback(new_daemon):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    new_daemon("--listen", f"127.0.0.1:{port}").start()
    client = Client(f"127.0.0.1:{port}")
    assert client.codebase().startswith("cb_")
    client.close()


def test_sigterm_while_idle_and_restart_keeps_everything(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase, FULL)
    client.out(sandbox, "echo 1 > own")
    assert daemon.stop() == 0
    daemon.start()
    client = daemon.client()
    assert client.download(codebase, "f") == b"x"
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.out(sandbox, "cat own") == "1\n"


def test_disk_full_is_reported_and_loses_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    daemon = Daemon(tmp_path)
    daemon.state = small / "state"
    try:
        daemon.start()
        client = daemon.client()
        codebase = client.codebase({"f": "kept"})
        sandbox = client.sandbox(codebase, manual=True)
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        expect(exhausted, client.upload, codebase, "big", b"x" * (40 << 20))
        result = client.exec(sandbox, "head -c 60000000 /dev/zero > fill")
        assert result.exit_code != 0 and "space" in result.stderr
        client.out(sandbox, "rm fill")
        # The kernel tells a moment later that nobody holds the file any more.
        eventually(lambda: client.exec(sandbox, "echo again > g").exit_code == 0)
        assert client.out(sandbox, "cat g f") == "again\nkept"
        assert client.download(codebase, "f") == b"kept"
        names = client.codebases.ListFiles(pb.ListFilesRequest(codebase_id=codebase)).files
        assert [f.path for f in names] == ["f"]
        stats = client.inspect.Stats(afpb.StatsRequest())
        assert stats.counters
    finally:
        daemon.cleanup()
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_stale_socket_file_is_replaced_and_a_foreign_file_is_not(new_daemon):
    daemon = new_daemon()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(daemon.socket))
    stale.close()
    daemon.start()
    daemon.client().codebase()
    daemon.stop()
    daemon.socket.write_text("precious")
    with pytest.raises(RuntimeError):
        daemon.start()
    assert daemon.socket.read_text() == "precious"


def test_closed_standard_streams_are_nobody_elses(new_daemon):
    """What is said on them would be written into the store, or whatever came to their numbers."""
    daemon = new_daemon()
    with subprocess.Popen(["bash", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *daemon.command()]) as own:
        try:
            client = daemon.client()
            client.codebases.ListCodebases(pb.ListCodebasesRequest(), wait_for_ready=True,
                                           timeout=READY_SECONDS)
            at = pathlib.Path(f"/proc/{own.pid}/fd")
            assert [os.readlink(at / str(fd)) for fd in range(3)] == ["/dev/null"] * 3
            sandbox = client.sandbox(client.codebase({"f": "x"}))
            assert client.out(sandbox, "cat f") == "x"
            client.close()
            own.terminate()
            assert own.wait(STOP_SECONDS) == 0
        finally:
            own.kill()
    daemon.check_state()


def test_sd_notify_says_ready(new_daemon, tmp_path):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    new_daemon(env=dict(os.environ, NOTIFY_SOCKET=str(tmp_path / "notify"))).start()
    assert b"READY=1" in notify.recv(4096)
    notify.close()
