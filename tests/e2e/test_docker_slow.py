"""Docker that is slow, refuses or hangs: who waits for it, and what is left behind."""

import contextlib
import re
import socket
import threading
import time

import grpc
import pytest
from dockerd import IMAGE, needs_dockerd, options

from harness import FULL, eventually, expect, pb

pytestmark = needs_dockerd
DOCKER = pb.RUNTIME_TYPE_DOCKER


def start_of(client, sandbox):
    """A call that starts the sandbox."""
    return client.sandboxes.StartSandbox.future(pb.StartSandboxRequest(sandbox_id=sandbox))


class SlowEngine:
    """dockerd behind a socket of its own: requests of one kind are held up, or answered here."""

    def __init__(self, path, dockerd, kind):
        self.path, self.dockerd, self.held, self.go_on = path, dockerd, [], threading.Event()
        self.kind = kind
        self.hold = False
        self.answer = None  # gives dockerd's answer in its place, as pieces of bytes
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            while True:
                client = self.server.accept()[0]
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(str(self.dockerd.socket))
                for ends in ((client, engine, True), (engine, client, False)):
                    threading.Thread(target=self.pass_on, args=ends, daemon=True).start()
        except OSError:
            pass  # closed

    def pass_on(self, source, sink, may_wait):
        try:
            while data := source.recv(65536):
                if may_wait and self.kind in data.split(b"\r\n")[0]:
                    if self.hold:
                        self.held.append(data)
                        self.go_on.wait(60)
                    if self.answer:
                        for piece in self.answer(data):
                            source.sendall(piece)
                        break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end went first

    def close(self):
        self.go_on.set()
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


@pytest.fixture
def slow_engine(dockerd, tmp_path):
    """Makes the one engine of a test."""
    with contextlib.ExitStack() as stack:
        def make(kind):
            engine = SlowEngine(tmp_path / "engine.sock", dockerd, kind)
            stack.callback(engine.close)
            return engine

        yield make


def test_O3_a_pull_that_hangs_slows_nobody_else(new_daemon, dockerd):
    client = new_daemon(*options(dockerd.socket, "--exec-docker-pull")).start().client()
    codebase = client.codebase({"f": "x"})
    # A registry that accepts and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/slow:1"
        stuck = client.sandbox(codebase, FULL, start=False, runtime=DOCKER, image=image)
        call = start_of(client, stuck)
        pulled = silent.accept()[0]
        for runtime in (pb.RUNTIME_TYPE_BWRAP, DOCKER):
            sandbox = client.sandbox(codebase, FULL, runtime=runtime)
            assert client.out(sandbox, "cat f") == "x"
        assert not call.done()
        pulled.close()
    expect(grpc.StatusCode.FAILED_PRECONDITION, call.result)


def test_a_start_whose_time_is_up_says_that_its_image_may_be_being_pulled(new_daemon, dockerd):
    client = new_daemon(*options(dockerd.socket, "--exec-docker-pull")).start().client()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/slow:1"
        stuck = client.sandbox(client.codebase({"f": "x"}), FULL, start=False, runtime=DOCKER,
                               image=image)
        text = expect(grpc.StatusCode.DEADLINE_EXCEEDED, start_of(client, stuck).result)
    assert "being pulled" in text


def test_O3_a_container_whose_start_hangs_slows_nobody_else(slow_engine, new_daemon):
    engine = slow_engine(b"/start")
    daemon = new_daemon(*options(engine.path)).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    running = client.sandbox(codebase, FULL, runtime=DOCKER)
    engine.hold = True
    stuck = client.sandbox(codebase, FULL, start=False, runtime=DOCKER)
    call = start_of(client, stuck)
    eventually(lambda: engine.held)
    engine.hold = False  # for those that come later
    assert client.out(running, "cat f") == "x"
    for runtime in (pb.RUNTIME_TYPE_BWRAP, DOCKER):
        later = client.sandbox(codebase, FULL, runtime=runtime)
        assert client.out(later, "cat f") == "x"
        client.destroy(later)
    assert not call.done()
    engine.go_on.set()
    call.result(30)
    assert client.out(stuck, "cat f") == "x"


def test_O3_a_pull_that_hangs_does_not_hold_up_the_daemons_stop(slow_engine, new_daemon):
    engine = slow_engine(b"/images/create")
    engine.hold = True
    daemon = new_daemon(*options(engine.path, "--exec-docker-pull")).start()
    client = daemon.client()
    stuck = client.sandbox(client.codebase({"f": "x"}), FULL, start=False, runtime=DOCKER,
                           image="127.0.0.1:1/none:1")
    call = start_of(client, stuck)
    eventually(lambda: engine.held)
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 40  # the request itself is held for a minute
    assert call.exception().code() in (
        grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,  # its time was up first
    )


def test_O3_images_that_hang_keep_no_start_from_images_that_are_there(new_daemon, dockerd):
    """More of them than Docker's starts have threads."""
    daemon = new_daemon(*options(dockerd.socket, "--exec-docker-pull")).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        images = [f"127.0.0.1:{server.getsockname()[1]}/slow:1" for server in silent]

        def stuck(image):
            made = client.sandbox(codebase, FULL, start=False, runtime=DOCKER, image=image)
            return made, start_of(client, made)

        calls = []
        for server, image in zip(silent[:4], images[:4]):
            calls.append(stuck(image))
            stack.enter_context(server.accept()[0])  # it is being pulled
        sandbox = client.sandbox(codebase, FULL, runtime=DOCKER)
        assert client.out(sandbox, "cat f") == "x"
        client.destroy(sandbox)
        # One more is refused with what to do; one of an image that is being pulled waits for that.
        text = expect(grpc.StatusCode.RESOURCE_EXHAUSTED, stuck(images[4])[1].result)
        assert images[4] in text and "docker pull" in text
        again, joined = stuck(images[0])
        assert not joined.done() and not any(call.done() for _, call in calls)
        # Who does not want it any more is let go, while the others wait on.
        client.destroy(again)
        while joined.exception().code() == grpc.StatusCode.NOT_FOUND:  # the start was overtaken
            again, joined = stuck(images[0])
            client.destroy(again)
        assert expect(grpc.StatusCode.CANCELLED, joined.result)
        assert not any(call.done() for _, call in calls)
    for _, call in calls:
        expect(grpc.StatusCode.FAILED_PRECONDITION, call.result)
    assert daemon.stop() == 0


CHUNKED = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
           b"Transfer-Encoding: chunked\r\n\r\n")


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("last, words", [
    (b'{"status":"Status: Downloaded newer image"}\r\n', None),
    (b'{"errorDetail":{"message":"no space on the device"},"error":"no space on the device"}\r\n',
     "no space on the device"),
], ids=["well", "badly"])
def test_a_pull_may_tell_as_much_as_it_likes(dockerd, slow_engine, new_daemon, last, words):
    engine = slow_engine(b"/images/create")
    image = "agentfense-told:1"

    def answer(_):
        progress = b'{"status":"Downloading","id":"0123","progressDetail":{"current":1}}\r\n'
        yield CHUNKED
        for _ in range(160):
            yield chunk(progress * 1000)  # 11 MB in all
        if not words:
            dockerd.docker("tag", IMAGE, image)
        yield chunk(last) + b"0\r\n\r\n"

    engine.answer = answer
    client = new_daemon(*options(engine.path, "--exec-docker-pull")).start().client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, start=False, runtime=DOCKER,
                             image=image)
    call = start_of(client, sandbox)
    if words:
        assert words in expect(grpc.StatusCode.FAILED_PRECONDITION, call.result)
    else:
        call.result()
        assert client.out(sandbox, "cat f") == "x"
        client.destroy(sandbox)
        dockerd.docker("rmi", image)


@pytest.mark.parametrize("late", [False, True])
def test_a_container_whose_create_was_not_answered_is_removed(
        dockerd, slow_engine, new_daemon, late):
    """It is there when its sandbox goes, or comes into being after that."""
    before = set(dockerd.containers())
    engine = slow_engine(b"/containers/create")
    daemon = new_daemon(*options(engine.path)).start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, start=False, runtime=DOCKER)
    asked, made = [], []

    def answer(request):
        name = re.search(rb"[?&]name=([^& ]+)", request)[1].decode()
        asked.append(name)
        if late:
            engine.go_on.wait(60)
        dockerd.docker("create", "--name", name, IMAGE, "true")
        made.append(name)
        engine.go_on.wait(60)
        yield b""

    engine.answer = answer
    call = start_of(client, sandbox)
    eventually(lambda: asked if late else made)
    client.destroy(sandbox)
    expect(grpc.StatusCode.CANCELLED, call.result)
    assert set(dockerd.containers()) == before
    engine.go_on.set()
    eventually(lambda: made)
    eventually(lambda: set(dockerd.containers()) == before, 60)
    assert daemon.stop() == 0


REFUSAL = b'{"message":"the device is busy"}'


@pytest.mark.parametrize("crashed", [False, True])
def test_a_container_that_docker_would_not_remove_is_removed_later(
        dockerd, slow_engine, new_daemon, crashed):
    before = set(dockerd.containers())
    engine = slow_engine(b"DELETE ")
    daemon = new_daemon(*options(engine.path)).start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL, runtime=DOCKER)
    left = set(dockerd.containers()) - before
    assert len(left) == 1
    refused = []

    def answer(_):
        refused.append(1)
        yield (b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
               b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(REFUSAL), REFUSAL))

    engine.answer = answer
    if crashed:
        daemon.kill()
        daemon.start()
    else:
        client.destroy(sandbox)
    assert refused and set(dockerd.containers()) - before == left
    assert "the device is busy" in daemon.log_text()
    assert "removed the containers" not in daemon.log_text()
    engine.answer = None
    eventually(lambda: set(dockerd.containers()) == before, 60)
    assert daemon.stop() == 0
