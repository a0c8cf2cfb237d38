"""The real daemon, driven as its users drive it: a state directory, a socket, a stock gRPC client.

`Daemon` owns a process and its directories. `Client` is a thin layer over the generated stubs:
errors stay grpc.RpcError, so that tests assert on codes and details. Environment:
  AGENTFENSE_BIN          folder of the binaries (default build/release/bin)
  AGENTFENSE_TRANSPORT    auto, io_uring or dev_fuse
  AGENTFENSE_OPEN_POLICY  kernel (default) or server
"""

import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc

# Under nohup, or in the background of a script, these are ignored, and so would be by every program
# that the tests start, to interrupt it or hang up on it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("AGENTFENSE_BIN", ROOT / "build/release/bin")).resolve()
PROTO = ROOT / "proto"
OPEN_POLICY = os.environ.get("AGENTFENSE_OPEN_POLICY") or "kernel"
# What the open policy server asks of every open and close, and kernel never.
OPENING = {"open", "release", "opendir", "releasedir"} if OPEN_POLICY == "server" else set()
READY_SECONDS = 60
STOP_SECONDS = 60
# The thread sanitiser's build needs several times as long: limits that only end a hang are longer.
PATIENCE = 6 if "tsan" in BIN.parts else 1
COMMAND_SECONDS = 30  # what the server gives a command that does not say


def generate_stubs():
    """Compiles proto/*.proto for Python into a fresh folder and imports it. Returns the folder."""
    out = tempfile.mkdtemp(prefix="agentfense-stubs-")
    protos = sorted(p.name for p in PROTO.glob("*.proto"))
    plugin = shutil.which("grpc_python_plugin", path="/usr/bin") or shutil.which(
        "grpc_python_plugin"
    )
    subprocess.run(
        ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_out={out}"]
        + [f"--plugin=protoc-gen-grpc={plugin}"]
        + protos,
        check=True,
    )
    sys.path.insert(0, out)
    return out


_stubs = generate_stubs()
import agentfense_pb2 as afpb  # noqa: E402
import agentfense_pb2_grpc as afgrpc  # noqa: E402
import agentfense_file_pb2 as filepb  # noqa: E402
import agentfense_file_pb2_grpc as filegrpc  # noqa: E402
import agentfense_monitor_pb2 as monpb  # noqa: E402
import agentfense_monitor_pb2_grpc as mongrpc  # noqa: E402
import agentfense_process_pb2 as procpb  # noqa: E402
import agentfense_process_pb2_grpc as procgrpc  # noqa: E402
import agentfense_sandbox_pb2 as sbpb  # noqa: E402
import agentfense_sandbox_pb2_grpc as sbgrpc  # noqa: E402
import sandbox_pb2 as pb  # noqa: E402
import sandbox_pb2_grpc as pbgrpc  # noqa: E402

shutil.rmtree(_stubs, ignore_errors=True)

LEVELS = {
    "none": pb.PERMISSION_NONE,
    "view": pb.PERMISSION_VIEW,
    "read": pb.PERMISSION_READ,
    "write": pb.PERMISSION_WRITE,
}
AGENT_SAFE = [
    ("**/*", "read", 0),
    ("/output/**", "write", 10),
    ("/tmp/**", "write", 10),
    ("**/.env*", "none", 100),
    ("**/secrets/**", "none", 100),
    ("**/*.key", "none", 100),
    ("**/*.pem", "none", 100),
    ("**/credentials*", "none", 100),
    ("**/.git/**", "none", 50),
]
FULL = [("**/*", "write", 0)]
READ_ONLY = [("**/*", "read", 0)]


def rule(pattern, level, priority=0, kind=pb.PATTERN_TYPE_UNSPECIFIED):
    """One PermissionRule; level is a name or a number."""
    return pb.PermissionRule(
        pattern=pattern, type=kind, permission=LEVELS.get(level, level), priority=priority
    )


class Daemon:
    """agentfensed on a state directory of its own."""

    def __init__(self, directory, *args, env=None):
        self.dir = pathlib.Path(directory)
        self.state = self.dir / "state"
        self.mount = self.dir / "mnt"
        self.socket = self.dir / "af.sock"
        self.args = list(args)
        self.env = env
        self.process = None
        self.log = None
        self.may_be_damaged = False  # the test itself spoils the state directory

    def command(self):
        """The argument vector that start() runs."""
        argv = [str(BIN / "agentfensed"), "--state", str(self.state)]
        argv += ["--socket", str(self.socket), "--mount", str(self.mount)]
        for name, flag in (("TRANSPORT", "--transport"), ("OPEN_POLICY", "--open-policy")):
            value = os.environ.get("AGENTFENSE_" + name)
            if value:
                argv += [flag, value]
        return argv + self.args

    def start(self):
        """Starts it and waits for its line `ready`. Returns self."""
        self.log = open(self.dir / "daemon.log", "ab")
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, stderr=self.log, env=self.env
        )
        deadline = time.monotonic() + READY_SECONDS
        seen = b""
        while b"ready\n" not in seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            chunk = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                self.kill(check=False)
                raise RuntimeError(f"agentfensed did not get ready: {self.log_text()}")
            seen += chunk
        return self

    def log_text(self):
        """What it wrote to stderr so far."""
        return (self.dir / "daemon.log").read_text(errors="replace")

    def libfuse(self):
        """The version of libfuse that the daemon is built with, as it says at start: (3, 18)."""
        found = re.search(r"libfuse (\d+)\.(\d+)", self.log_text())
        return int(found[1]), int(found[2])

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"agentfensed did not stop: {self.log_text()}")
        self._close()
        self.check_state()
        return code

    def kill(self, check=True):
        """SIGKILL, as a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._close()
            if check:
                self.check_state()

    def fsck(self, *args):
        """Offline fsck of the state directory; returns the finished process."""
        argv = [str(BIN / "agentfense-fsctl"), "fsck", *args, str(self.state)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=self.env)

    def check_state(self):
        """After every stop and every kill -9: the store that is left has no damage."""
        if self.may_be_damaged or not (self.state / "store").exists():
            return
        done = self.fsck()
        assert done.returncode == 0, f"fsck: {done.returncode}\n{done.stdout}{done.stderr}"

    def _close(self):
        self.process.stdout.close()
        self.process = None
        self.log.close()

    def client(self, *options):
        """A client on the unix socket; with options of gRPC's channels."""
        return Client(f"unix:{self.socket}", options)

    def cleanup(self):
        """Stops it and leaves no mount behind, whatever the test did."""
        try:
            if self.process is not None:
                assert self.stop() == 0, self.log_text()
        finally:
            if os.path.ismount(self.mount):
                subprocess.run(["umount", "-l", str(self.mount)], check=False)


class Client:
    """The stubs of every service over one channel, and the calls that tests make most."""

    def __init__(self, target, options=()):
        # A connection of its own: gRPC shares them, also with a daemon that has gone since.
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        self.channel = grpc.insecure_channel(target, options)
        self.codebases = pbgrpc.CodebaseServiceStub(self.channel)
        self.sandboxes = pbgrpc.SandboxServiceStub(self.channel)
        self.inspect = afgrpc.InspectServiceStub(self.channel)
        self.trees = afgrpc.TreeServiceStub(self.channel)
        self.execs = afgrpc.ExecServiceStub(self.channel)
        self.views = sbgrpc.SandboxServiceStub(self.channel)  # agentfense.v1's
        self.processes = procgrpc.ProcessServiceStub(self.channel)
        self.archives = filegrpc.ArchiveServiceStub(self.channel)
        self.files = filegrpc.FileServiceStub(self.channel)
        self.monitor = mongrpc.MonitorServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def codebase(self, files=None, name="test", owner="tester"):
        """A new codebase holding `files` (path -> bytes or str); returns its id."""
        made = self.codebases.CreateCodebase(pb.CreateCodebaseRequest(name=name, owner_id=owner))
        for path, data in (files or {}).items():
            self.upload(made.id, path, data)
        return made.id

    def upload(self, codebase_id, path, data, chunk=65536):
        """One file, as the published client sends it: metadata, then 64 KiB messages."""
        data = data.encode() if isinstance(data, str) else data

        def messages():
            meta = pb.UploadChunk.Metadata(
                codebase_id=codebase_id, file_path=path, total_size=len(data)
            )
            yield pb.UploadChunk(metadata=meta)
            for start in range(0, len(data), chunk):
                yield pb.UploadChunk(data=data[start : start + chunk])

        return self.codebases.UploadFiles(messages())

    def download(self, codebase_id, path):
        request = pb.DownloadFileRequest(codebase_id=codebase_id, file_path=path)
        return b"".join(c.data for c in self.codebases.DownloadFile(request))

    def session(self, sandbox_id):
        """A new session; returns its id."""
        request = pb.CreateSessionRequest(sandbox_id=sandbox_id)
        return self.sandboxes.CreateSession(request).id

    def turn(self, session_id, command):
        """Runs a line in a session, which must succeed; returns its stdout."""
        request = pb.SessionExecRequest(session_id=session_id, command=command)
        result = self.sandboxes.SessionExec(request)
        assert result.exit_code == 0, (command, result.stdout, result.stderr)
        return result.stdout

    def sandbox(self, codebase_id, rules=FULL, start=True, manual=False, **fields):
        """A new sandbox with rules given as (pattern, level, priority); returns its id.

        manual: its changes stay its own; else each command's are committed, as sandbox.v1 has it.
        """
        made = self.sandboxes.CreateSandbox(
            pb.CreateSandboxRequest(
                codebase_id=codebase_id, permissions=[rule(*r) for r in rules], **fields
            )
        )
        if manual:
            self.set_policy(made.id, sbpb.COMMIT_POLICY_MANUAL)
        if start:
            self.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made.id))
        return made.id

    def set_policy(self, sandbox_id, commit=0, conflict=0):
        """Sets the policies that are given."""
        self.views.SetCommitPolicy(
            sbpb.SetCommitPolicyRequest(
                sandbox_id=sandbox_id, commit_policy=commit, conflict_policy=conflict
            )
        )

    def set_rules(self, sandbox_id, rules, **fields):
        """Changes the rules of a sandbox, running or not; returns the reply."""
        return self.views.UpdatePermissions(
            sbpb.UpdatePermissionsRequest(
                sandbox_id=sandbox_id, permissions=[rule(*r) for r in rules], **fields
            )
        )

    def uid_of(self, sandbox_id):
        """The host uid that a sandbox runs as and that owns what is in its view."""
        views = self.inspect.ListViews(afpb.ListViewsRequest()).views
        return next(view.uid for view in views if view.sandbox_id == sandbox_id)

    def layers(self, codebase_id):
        """The ids of the frozen layers that tell a codebase."""
        request = monpb.ListLayersRequest(codebase_id=codebase_id)
        return {layer.id for layer in self.monitor.ListLayers(request) if layer.frozen}

    def exec(self, sandbox_id, command, timeout=None, **fields):
        """Runs a shell command; returns the ExecResult."""
        request = pb.ExecRequest(sandbox_id=sandbox_id, command=command, **fields)
        if timeout is None and PATIENCE > 1:
            timeout = COMMAND_SECONDS * PATIENCE
        if timeout is not None:
            request.timeout.FromNanoseconds(int(timeout * 1e9))
        return self.sandboxes.Exec(request)

    def out(self, sandbox_id, command, **fields):
        """Runs a command that must succeed; returns its stdout."""
        result = self.exec(sandbox_id, command, **fields)
        assert result.exit_code == 0, (command, result.exit_code, result.stdout, result.stderr)
        return result.stdout

    def destroy(self, sandbox_id):
        self.sandboxes.DestroySandbox(pb.DestroySandboxRequest(sandbox_id=sandbox_id))


def expect(code, call, *args, **kwargs):
    """The call must fail with this status; returns its details."""
    try:
        call(*args, **kwargs)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert error.details(), f"{code} without a sentence"
        return error.details()
    raise AssertionError(f"expected {code}, the call succeeded")


def eventually(condition, seconds=30):
    """Waits until the condition holds; fails when it does not within the time."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        select.select([], [], [], 0.01)
