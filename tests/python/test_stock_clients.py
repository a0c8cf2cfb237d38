"""Other people's clients against this daemon: grpcio's health and reflection clients, and grpcurl.

Each in a place of its own: the Python packages in a virtual environment, grpcurl from PATH or
build/go. Where they are not to be had, the tests say so and are skipped.
"""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess

import pytest
from test_package import ROOT, python, venv

GRPCURL = "1.9.1"
PROGRAM = '''
import sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

channel = grpc.insecure_channel(sys.argv[1])
health = health_pb2_grpc.HealthStub(channel)

def status(service):
    return health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status

SERVING = health_pb2.HealthCheckResponse.SERVING
assert status("") == status("sandbox.v1.SandboxService") == SERVING
try:
    status("no.such.Service")
    raise SystemExit("an unknown service is healthy")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND
watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30)
assert next(watch).status == SERVING
watch.cancel()

database = ProtoReflectionDescriptorDatabase(channel)
services = sorted(database.get_services())
pool = DescriptorPool(database)
methods = 0
for name in services:
    service = pool.FindServiceByName(name)
    for method in service.methods:
        methods += 1
        for message in (method.input_type, method.output_type):
            assert pool.FindMessageTypeByName(message.full_name).full_name == message.full_name

# A call with nothing but what reflection tells.
method = pool.FindServiceByName("sandbox.v1.CodebaseService").methods_by_name["CreateCodebase"]
request, reply = (GetMessageClass(t) for t in (method.input_type, method.output_type))
call = channel.unary_unary("/sandbox.v1.CodebaseService/CreateCodebase",
                           request.SerializeToString, reply.FromString)
made = call(request(name="reflected", owner_id="stock"), timeout=30)
assert made.id.startswith("cb_") and made.name == "reflected"
rule = pool.FindMessageTypeByName("sandbox.v1.PermissionRule")
assert [f.name for f in rule.fields] == ["pattern", "type", "permission", "priority"]
print(*services, methods)
'''


def test_grpcio_reflection_and_health_clients(endpoint):
    stock = venv("stock", "grpcio", "grpcio-reflection", "grpcio-health-checking")
    *services, methods = python(stock, "-c", PROGRAM, endpoint).split()
    for package in ("sandbox.v1", "agentfense.v1"):
        assert f"{package}.SandboxService" in services
    wanted = {"CodebaseService", "ArchiveService", "FileService", "ProcessService",
              "MonitorService", "InspectService", "TreeService", "ExecService"}
    assert wanted <= {service.rsplit(".", 1)[1] for service in services}
    assert "grpc.health.v1.Health" in services
    assert int(methods) > 60, "a service has lost its methods"


@pytest.fixture(scope="module")
def grpcurl():
    """grpcurl from PATH, or from build/go, where the long tests build it once."""
    found = shutil.which("grpcurl")
    if found:
        return found
    if not shutil.which("go"):
        pytest.skip("neither grpcurl nor Go to build it is installed")
    folder = ROOT / "build/go"
    made = folder / f"grpcurl-{GRPCURL}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return str(made)
        if not os.environ.get("AGENTFENSE_LONG"):
            pytest.skip("grpcurl is not installed; building it takes minutes: AGENTFENSE_LONG=1")
        module = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@v{GRPCURL}"
        done = subprocess.run(["go", "install", module], capture_output=True, text=True,
                              env=os.environ | {"GOBIN": str(folder)}, timeout=900)
        if done.returncode != 0:
            pytest.skip(f"Go cannot build grpcurl here: {done.stderr.strip()[-300:]}")
        (folder / "grpcurl").rename(made)
    return str(made)


@pytest.fixture
def curl(grpcurl, daemon):
    """Runs grpcurl on the daemon's socket; its output, which must be an end without error."""

    def run(*argv, code=0):
        # A socket's path is the address: the authority would else be that path.
        command = [grpcurl, "-plaintext", "-unix", "-max-time", "60", *argv[:-1]]
        command += [str(daemon.socket), *argv[-1].split(" ")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    return run


def test_grpcurl_lists_and_describes(curl):
    services = curl("list").split()
    assert {"sandbox.v1.SandboxService", "agentfense.v1.ArchiveService"} <= set(services)
    for service in services:
        assert f"{service} is a service" in curl(f"describe {service}")
    assert "bytes symlink_target = 6;" in curl("describe agentfense.v1.FileEntry")


def test_grpcurl_calls_what_it_learns(curl, tmp_path):
    made = json.loads(curl("-d", '{"name": "curl", "owner_id": "me"}',
                           "sandbox.v1.CodebaseService/CreateCodebase"))
    assert made["id"].startswith("cb_")
    rules = [{"pattern": "**/*", "permission": "PERMISSION_WRITE"}]
    sandbox = json.loads(curl("-d", json.dumps({"codebase_id": made["id"], "permissions": rules}),
                              "sandbox.v1.SandboxService/CreateSandbox"))
    only = json.dumps({"sandbox_id": sandbox["id"]})
    curl("-d", only, "sandbox.v1.SandboxService/StartSandbox")
    command = json.dumps({"sandbox_id": sandbox["id"], "command": "echo hello; exit 3"})
    result = json.loads(curl("-d", command, "sandbox.v1.SandboxService/Exec"))
    assert (result["stdout"], result["exitCode"]) == ("hello\n", 3)
    assert "hello" not in curl("-d", command, "sandbox.v1.SandboxService/ExecStream")  # base64
    curl("-d", only, "sandbox.v1.SandboxService/DestroySandbox")
    told = curl("-d", only, "sandbox.v1.SandboxService/GetSandbox", code=64 + 5)
    assert "Code: NotFound" in told
    assert json.loads(curl("grpc.health.v1.Health/Check")) == {"status": "SERVING"}
