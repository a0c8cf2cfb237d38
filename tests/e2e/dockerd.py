"""A Docker daemon of the test session's own, with an image made of busybox."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

IMAGE = "agentfense-test:1"
PROGRAMS = ("dockerd", "containerd", "docker", "busybox")
READY_SECONDS = 60


def missing():
    """What is not installed, or ""."""
    return " ".join(p for p in PROGRAMS if not shutil.which(p))


needs_dockerd = pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")


def options(socket, *more):
    """A daemon's options for the Docker behind a socket."""
    return ["--exec-docker-socket", str(socket), "--exec-docker-image", IMAGE, *more]


class Dockerd:
    """dockerd on directories of its own; touches no other daemon's."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="af-dockerd-"))
        self.socket = self.dir / "docker.sock"
        self.process = None

    def start(self):
        argv = ["dockerd", "--storage-driver=vfs", "--iptables=false", "--bridge=none"]
        argv += ["--data-root", self.dir / "data", "--exec-root", self.dir / "exec"]
        argv += ["--pidfile", self.dir / "pid", "--host", f"unix://{self.socket}"]
        log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + READY_SECONDS
        while self.docker("version", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.dir / "log").read_text()
                raise RuntimeError(f"dockerd did not start: {text[-2000:]}")
            time.sleep(0.05)  # dockerd tells nobody when it is ready
        return self

    def docker(self, *args, check=True, **kwargs):
        """Runs the docker command against this daemon."""
        env = {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.socket}"}
        env["HOME"] = str(self.dir)
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        return subprocess.run(["docker", *args], env=env, check=check, **kwargs)

    def containers(self):
        """Ids of all containers, running or not."""
        return self.docker("ps", "-aq").stdout.decode().split()

    def make_image(
        self, name=IMAGE, env=("IMAGE_SAYS=hello", "PATH=/opt/bin:/bin:/usr/bin"), more=()
    ):
        """An image of busybox alone, with variables of its own, and more lines of a Dockerfile."""
        root = self.dir / "root"
        for part in ("bin", "opt/bin", "etc", "usr/bin"):
            (root / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
        (root / "opt/bin/tool").write_text("#!/bin/sh\necho tool of the image\n")
        (root / "opt/bin/tool").chmod(0o755)
        tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        lines = [f"ENV {e}" for e in env] + list(more)
        changes = [word for line in lines for word in ("--change", line)]
        self.docker("import", *changes, "-", name, stdin=tar.stdout)
        tar.stdout.close()
        assert tar.wait() == 0
        shutil.rmtree(root)

    def inspect(self, container):
        return json.loads(self.docker("inspect", container).stdout)[0]

    def stop(self):
        """SIGTERM: its containers end with it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def cleanup(self):
        for container in self.containers() if self.process else []:
            self.docker("rm", "-f", container, check=False)
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
