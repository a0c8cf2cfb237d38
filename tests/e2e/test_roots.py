"""Root directories by name, and the host's network where it is allowed."""

import os
import shutil
import socket
import subprocess
import threading

import grpc
import pytest

from harness import FULL, expect, pb, sbpb


def make_root(path, program):
    """A root of busybox and a program of its own."""
    (path / "bin").mkdir(parents=True)
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text("")  # covered by the sandbox's own
    shutil.copy(shutil.which("busybox"), path / "bin/busybox")
    (path / "bin/sh").symlink_to("/bin/busybox")
    for name in ("cat", "ls", "touch", "id"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "bin" / program).write_text(f"#!/bin/sh\necho {program} of its root\n")
    (path / "bin" / program).chmod(0o755)
    return path


needs_busybox = pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")


@pytest.fixture
def open_dir(tmp_path):
    """tmp_path, passable for unprivileged users as a root directory must be."""
    for parent in [tmp_path, *tmp_path.parents][:-2]:  # not the temporary directory, nor /
        os.chmod(parent, os.stat(parent).st_mode | 0o055)
    return tmp_path


@needs_busybox
def test_a_sandbox_names_its_root_directory(new_daemon, open_dir):
    one, two = make_root(open_dir / "r/one", "tool1"), make_root(open_dir / "r/two", "tool2")
    client = new_daemon("--exec-roots", f"first={one},second={two}").start().client()
    codebase = client.codebase({"f": "x"})
    for name, program in (("first", "tool1"), ("second", "tool2")):
        sandbox = client.sandbox(codebase, FULL, image=name)
        said = client.out(sandbox, f"{program}; cat f; id -un")
        assert said == f"{program} of its root\nxagent\n"
        assert client.exec(sandbox, "touch /bin/x").exit_code != 0
        assert client.exec(sandbox, "/usr/bin/env").exit_code == 127  # nothing of the host
        got = client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))
        assert got.image == name
    plain = client.sandbox(codebase, FULL)  # the default root is still the host's
    assert client.exec(plain, "tool1").exit_code == 127
    assert client.out(plain, "/usr/bin/env true") == ""
    text = expect(grpc.StatusCode.INVALID_ARGUMENT, client.sandbox, codebase, FULL, image="third")
    assert "third" in text and "exec.roots" in text


@needs_busybox
def test_roots_that_cannot_be_ones_stop_the_start(new_daemon, open_dir):
    (open_dir / "empty").mkdir()
    for value in ("x=/nonexistent", f"x={open_dir}/empty", "x=relative", "=/usr", "x"):
        done = subprocess.run(new_daemon("--exec-roots", value).command(), capture_output=True)
        assert done.returncode != 0 and b"exec.roots" in done.stderr, value


def create(client, network):
    request = sbpb.CreateRequest(
        sandbox=pb.CreateSandboxRequest(codebase_id=client.codebase({"f": "x"})),
        options=sbpb.SandboxOptions(network=network),
        start=True,
    )
    return client.views.Create(request).sandbox.id


ASK = "exec 3<>/dev/tcp/127.0.0.1/{port}; read -r line <&3; echo $line"


def test_the_hosts_network_is_given_only_when_asked_for_and_allowed(new_daemon):
    client = new_daemon("--exec-network-host").start().client()
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"reached\n")
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ask = ASK.format(port=server.getsockname()[1])
        host, none = create(client, sbpb.NETWORK_HOST), create(client, sbpb.NETWORK_NONE)
        assert client.out(host, ask) == "reached\n"
        assert "refused" in client.exec(none, ask).stderr
        if os.path.exists("/etc/resolv.conf"):
            assert client.exec(host, "test -e /etc/resolv.conf").exit_code == 0
        assert client.exec(none, "test -e /etc/resolv.conf").exit_code == 1
        server.shutdown(socket.SHUT_RDWR)
    # All else is as without: no capability over it.
    assert client.exec(host, "ip link set lo down 2>/dev/null").exit_code != 0


def test_the_hosts_network_is_refused_unless_the_configuration_allows_it(client):
    text = expect(grpc.StatusCode.FAILED_PRECONDITION, create, client, sbpb.NETWORK_HOST)
    assert "exec.network_host" in text
