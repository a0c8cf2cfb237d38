"""What an image asks for must not go round what a container promises."""

import pytest
from dockerd import needs_dockerd, options

from harness import FULL, pb

pytestmark = needs_dockerd


@pytest.fixture
def client(new_daemon, dockerd):
    return new_daemon(*options(dockerd.socket), "--exec-tmp-bytes", "8M").start().client()


def box(client, image=""):
    codebase = client.codebase({"f": "x"})
    return client.sandbox(codebase, FULL, runtime=pb.RUNTIME_TYPE_DOCKER, image=image)


def container_of(dockerd, image):
    found = map(dockerd.inspect, dockerd.containers())
    return next(c for c in found if c["Config"]["Image"] == image)


def test_E6_a_health_check_puts_no_process_without_filters_inside(client, dockerd):
    # Docker starts it as the agent's user, who could write to its memory.
    image = "health:1"
    dockerd.make_image(image, more=["HEALTHCHECK --interval=1s CMD touch /tmp/checked"])
    box(client, image)
    container = container_of(dockerd, image)
    assert container["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in container["State"]  # nothing is checked


def test_volumes_are_places_in_memory_of_a_size_and_none_on_a_disk(client, dockerd):
    image = "volumes:1"
    paths = "/srv/data /tmp /home/agent /workspace/f /run/"
    dockerd.make_image(image, more=[f"VOLUME {paths}"])
    sandbox = box(client, image)
    mounts = [m.split() for m in client.out(sandbox, "cat /proc/self/mounts").splitlines()]
    writable = {(m[1], m[2]) for m in mounts if m[3].split(",")[0] == "rw"}
    assert {("/tmp", "tmpfs"), ("/workspace", "fuse.agentfense")} <= writable
    in_memory = {"tmpfs", "proc", "devpts", "mqueue"}
    on_disk = {path for path, kind in writable if kind not in in_memory}
    assert on_disk == {"/workspace"}
    client.out(sandbox, "echo y > /srv/data/y && cat f && echo z > f && echo x > /tmp/x")
    full = client.exec(sandbox, "dd if=/dev/zero of=/srv/data/full bs=1M count=9")
    assert full.exit_code != 0 and "No space left" in full.stderr
    client.destroy(sandbox)
    assert dockerd.docker("volume", "ls", "-q").stdout == b""


def test_localhost_is_a_name(client):
    sandbox = box(client)
    serve = "mkdir /tmp/w; echo hi > /tmp/w/i; httpd -p 8080 -h /tmp/w; wget -qO- localhost:8080/i"
    assert client.out(sandbox, serve) == "hi\n"
    assert "127.0.1.1 sandbox\n" in client.out(sandbox, "cat /etc/hosts")
