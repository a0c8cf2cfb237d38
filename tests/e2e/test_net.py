"""Who may call over which way (TLS, tokens), and what the server tells: health, reflection."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading

import grpc
import pytest
from google.protobuf import descriptor_pb2

from harness import Daemon, eventually, expect, pb, pbgrpc

TOKEN = "a-token-of-sufficient-length"
BEYOND = "192.0.2.1"  # TEST-NET-1, given to the loopback device of a namespace of the test's own

# A client of its own user or network namespace: prints a call's status, with or without token.
CLIENT = """
import sys, grpc
target, pem, token = sys.argv[1:]
options = [("grpc.ssl_target_name_override", "localhost")]
if pem:
    creds = grpc.ssl_channel_credentials(pem.encode())
    channel = grpc.secure_channel(target, creds, options)
else:
    channel = grpc.insecure_channel(target)
call = channel.unary_unary("/grpc.health.v1.Health/Check", lambda m: m, lambda b: b)
metadata = [("authorization", "Bearer " + token)] if token else []
try:
    call(b"", metadata=metadata, timeout=20)
    print("OK")
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""


def make_certificate(files):
    """A new certificate for localhost and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
        + [f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{BEYOND}"]
        + ["-keyout", str(files["key.pem"]), "-out", str(files["cert.pem"])],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    files["key.pem"].chmod(0o600)


@pytest.fixture
def tls(tmp_path):
    """Paths of a certificate for localhost, its key and a token file."""
    files = {name: tmp_path / name for name in ("cert.pem", "key.pem", "tokens")}
    make_certificate(files)
    files["tokens"].write_text(f"# of the test\n\n{TOKEN}\n")
    files["tokens"].chmod(0o600)
    tmp_path.chmod(0o755)
    return files


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tls_options(tls, address):
    return ["--listen-tls", address, "--tls-cert", str(tls["cert.pem"])] + [
        "--tls-key", str(tls["key.pem"]), "--token-file", str(tls["tokens"])
    ]


def call_as(target, pem="", token="", uid=0, gid=0, groups=(), prefix=()):
    """A health check by another user; returns what it printed."""

    text = pem.read_text() if pem else ""

    def become():
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)

    done = subprocess.run(
        [*prefix, "/usr/bin/python3", "-c", CLIENT, target, text, token],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, preexec_fn=become,
        env={"PATH": "/usr/bin:/bin", "HOME": "/"}, cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tls_serves_root_by_uid_and_others_by_token_alone(new_daemon, tls):
    port = free_port()
    new_daemon(*tls_options(tls, f"127.0.0.1:{port}")).start()
    target, pem = f"127.0.0.1:{port}", tls["cert.pem"]
    assert call_as(target, pem) == "OK"
    assert call_as(target, pem, uid=65534, gid=65534).startswith("PERMISSION_DENIED")
    assert call_as(target, pem, token=TOKEN, uid=65534, gid=65534) == "OK"
    assert call_as(target, pem, token=TOKEN + "x", uid=65534, gid=65534).startswith(
        "PERMISSION_DENIED"
    )
    assert call_as(target, pem, token=TOKEN[:-1], uid=65534, gid=65534).startswith(
        "PERMISSION_DENIED"
    )
    # In clear there is nobody to talk to.
    assert call_as(target).startswith("UNAVAILABLE")


class NamespacedDaemon(Daemon):
    """A daemon in a network namespace of its own, which has an address that is not loopback."""

    def command(self):
        setup = f"ip link set lo up && ip addr add {BEYOND}/32 dev lo && exec \"$@\""
        return ["unshare", "-n", "sh", "-c", setup, "sh"] + super().command()


def test_beyond_loopback_a_token_is_needed_even_by_root(tmp_path_factory, tls):
    daemon = NamespacedDaemon(tmp_path_factory.mktemp("d"), *tls_options(tls, "0.0.0.0:9443"))
    daemon.start()
    try:
        enter = ["nsenter", "-t", str(daemon.process.pid), "-n"]
        target, pem = f"{BEYOND}:9443", tls["cert.pem"]
        denied = call_as(target, pem, prefix=enter)
        assert denied.startswith("PERMISSION_DENIED") and "authorization" in denied
        assert call_as(target, pem, token=TOKEN, prefix=enter) == "OK"
    finally:
        daemon.cleanup()


def test_a_hangup_reads_tokens_and_certificate_again(new_daemon, tls, tmp_path):
    port = free_port()
    daemon = new_daemon(*tls_options(tls, f"127.0.0.1:{port}")).start()
    target, pem, newer = f"127.0.0.1:{port}", tls["cert.pem"], "the-token-of-the-next-month"

    def call(token, pem=pem):
        return call_as(target, pem, token=token, uid=65534, gid=65534)

    assert call(TOKEN) == "OK" and call(newer).startswith("PERMISSION_DENIED")
    tls["tokens"].write_text(f"{newer}\n")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: call(newer) == "OK")
    assert call(TOKEN).startswith("PERMISSION_DENIED")
    # What cannot be used changes nothing, and is told.
    tls["tokens"].chmod(0o644)
    tls["tokens"].write_text(f"{TOKEN}\n")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: "chmod" in daemon.log_text())
    assert call(newer) == "OK" and call(TOKEN).startswith("PERMISSION_DENIED")
    # A new certificate is shown to whoever connects from then on.
    tls["tokens"].chmod(0o600)
    old = pem.rename(tmp_path / "old.pem")
    make_certificate(tls)
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: call(TOKEN) == "OK")
    assert call(TOKEN, old).startswith("UNAVAILABLE")


def test_a_hangup_stops_nothing(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"a": "x"}))
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: "read again" in daemon.log_text())
    assert client.out(sandbox, "cat a") == "x"


def test_guessing_tokens_costs_the_connection(new_daemon, tls):
    port = free_port()
    daemon = new_daemon(*tls_options(tls, f"127.0.0.1:{port}")).start()
    guess = """
import grpc, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
creds = grpc.ssl_channel_credentials(sys.argv[2].encode())
channel = grpc.secure_channel(sys.argv[1], creds, [("grpc.ssl_target_name_override", "localhost")])
call = channel.unary_unary("/grpc.health.v1.Health/Check", lambda m: m, lambda b: b)
codes = set()
for i in range(600):
    try:
        call(b"", metadata=[("authorization", "Bearer guess-number-%d-of-many" % i)], timeout=20)
        print("LET IN")
    except grpc.RpcError as error:
        codes.add(error.code().name)
print(sorted(codes))
"""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", guess, f"127.0.0.1:{port}", tls["cert.pem"].read_text()],
        stdout=subprocess.PIPE, text=True, timeout=120, check=True,
    )
    assert "LET IN" not in done.stdout and "UNAVAILABLE" in done.stdout
    assert "wrong tokens" in daemon.log_text()


def test_half_handshakes_and_garbage_hold_up_nobody(new_daemon, tls):
    port = free_port()
    new_daemon(*tls_options(tls, f"127.0.0.1:{port}")).start()
    open_ends = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for number, peer in enumerate(open_ends):
        # A record header that announces a ClientHello, half of one, or no TLS at all.
        peer.sendall([b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n",
                      os.urandom(64)][number % 4])
    assert call_as(f"127.0.0.1:{port}", tls["cert.pem"]) == "OK"
    for peer in open_ends:
        peer.close()


def test_large_messages_pass_through_tls_both_ways(new_daemon, tls):
    port = free_port()
    daemon = new_daemon(*tls_options(tls, f"localhost:{port}")).start()
    client = daemon.client()
    codebase = client.codebase({})
    creds = grpc.ssl_channel_credentials(tls["cert.pem"].read_bytes())
    with grpc.secure_channel(f"localhost:{port}", creds) as channel:
        data = os.urandom(9_000_001)
        upload = pbgrpc.CodebaseServiceStub(channel)

        def messages():
            yield pb.UploadChunk(
                metadata=pb.UploadChunk.Metadata(codebase_id=codebase, file_path="big")
            )
            for start in range(0, len(data), 3 << 20):
                yield pb.UploadChunk(data=data[start : start + (3 << 20)])

        assert upload.UploadFiles(messages()).size == len(data)
        chunks = upload.DownloadFile(
            pb.DownloadFileRequest(codebase_id=codebase, file_path="big")
        )
        assert b"".join(c.data for c in chunks) == data


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t["key.pem"].chmod(0o644), "chmod 600"),
        (lambda t: t["key.pem"].write_text("x"), "tls_key"),
        (lambda t: t["cert.pem"].write_text("x"), "tls_cert"),
        (lambda t: t["tokens"].chmod(0o640), "chmod 600"),
        (lambda t: t["tokens"].write_text("short\n"), "at least 16"),
        (lambda t: t["tokens"].write_text("# none\n"), "holds no token"),
        (lambda t: t["tokens"].unlink(), "token_file"),
    ],
)
def test_a_bad_key_or_token_file_is_refused_with_a_sentence(tmp_path_factory, tls, change, says):
    change(tls)
    daemon = Daemon(tmp_path_factory.mktemp("d"), *tls_options(tls, "127.0.0.1:0"))
    with pytest.raises(RuntimeError, match="did not get ready"):
        daemon.start()
    assert says in daemon.log_text()


def test_a_sandbox_uid_may_not_call_even_as_a_member_of_the_group(new_daemon):
    port = free_port()
    group = 54321
    daemon = new_daemon("--group", str(group), "--listen", f"127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(dir="/tmp") as public:
        os.chmod(public, 0o755)
        daemon.socket = pathlib.Path(public, "s")
        daemon.start()
        refused_whatever_the_group(f"unix:{daemon.socket}", f"127.0.0.1:{port}", group)
        assert daemon.stop() == 0


def refused_whatever_the_group(socket_target, tcp_target, group):
    assert call_as(socket_target, uid=54000, gid=group) == "OK"
    assert call_as(socket_target, uid=200001, gid=group).startswith("PERMISSION_DENIED")
    assert call_as(socket_target, uid=200001, gid=200001, groups=(group,)).startswith(
        "PERMISSION_DENIED"
    )
    assert call_as(tcp_target, uid=200001, gid=group).startswith("PERMISSION_DENIED")


# ---- health and reflection, as bytes, so that no generated code stands between


def health(channel, service):
    request = bytes([0x0A, len(service)]) + service.encode() if service else b""
    check = channel.unary_unary("/grpc.health.v1.Health/Check", lambda m: m, lambda b: b)
    return check(request, timeout=20)


def test_health_knows_the_services_of_this_server(client):
    assert health(client.channel, "") == b"\x08\x01"
    assert health(client.channel, "sandbox.v1.SandboxService") == b"\x08\x01"
    assert health(client.channel, "agentfense.v1.InspectService") == b"\x08\x01"
    expect(grpc.StatusCode.NOT_FOUND, health, client.channel, "no.such.Service")
    expect(grpc.StatusCode.NOT_FOUND, health, client.channel, "sandbox.v1")


def test_a_watcher_hears_of_the_stop_and_does_not_hold_it_up(new_daemon):
    daemon = new_daemon("--stop-grace", "60s").start()
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", lambda m: m, lambda b: b)
        heard, ready = [], threading.Event()
        unknown = watch(b"\x0a\x01x", timeout=60)
        assert next(unknown) == b"\x08\x03"

        def listen():
            try:
                for status in watch(b"", timeout=60):
                    heard.append(status)
                    ready.set()
            except grpc.RpcError as error:
                heard.append(error.code())

        thread = threading.Thread(target=listen)
        thread.start()
        assert ready.wait(30)
        assert daemon.stop() == 0  # well within the harness' limit, which is the grace period
        thread.join()
        assert heard == [b"\x08\x01", b"\x08\x02", grpc.StatusCode.UNAVAILABLE]


def reflect(channel, version, *requests):
    """Replies to encoded ServerReflectionRequests."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        lambda m: m,
        lambda b: b,
    )
    return list(call(iter(requests), timeout=20))


def fields(data):
    """Length-delimited fields of a message, as (number, bytes)."""
    at, out = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        length = varint()
        if key & 7 == 2:
            out.append((key >> 3, data[at : at + length]))
            at += length
    return out


def ask(number, text):
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_every_service_completely(client, version):
    (reply,) = reflect(client.channel, version, ask(7, "*"))
    names = [fields(service)[0][1].decode() for n, s in fields(reply) if n == 6
             for _, service in fields(s)]
    assert "sandbox.v1.SandboxService" in names and "grpc.health.v1.Health" in names
    for reply in reflect(client.channel, version, *[ask(4, name) for name in names]):
        (answer,) = [data for n, data in fields(reply) if n == 4]
        files = [descriptor_pb2.FileDescriptorProto.FromString(f) for _, f in fields(answer)]
        known = {f.name for f in files}
        for file in files:
            assert set(file.dependency) <= known, "a file comes without what it imports"


def test_reflection_finds_symbols_and_files_and_nothing_else(client):
    found = [
        ask(4, "sandbox.v1.SandboxService.Exec"),
        ask(4, "sandbox.v1.UploadChunk.Metadata.file_path"),
        ask(4, "sandbox.v1.PermissionRule"),
        ask(4, "agentfense.v1.DiffEntry.Change"),
        ask(3, "sandbox.proto"),
        ask(3, "google/protobuf/duration.proto"),
    ]
    absent = [
        ask(4, "sandbox.v1"), ask(4, "sandbox.v1.SandboxServic"), ask(4, ""), ask(4, "." * 100),
        ask(4, "sandbox.v1.SandboxService.Exec.x"), ask(3, "x.proto"), ask(6, "a"), b"",
    ]
    replies = reflect(client.channel, "v1", *found, *absent)
    assert len(replies) == len(found) + len(absent)
    for number, reply in enumerate(replies):
        kinds = {n for n, _ in fields(reply)}
        assert (4 in kinds) == (number < len(found)), number
        assert (7 in kinds) == (number >= len(found)), number


def test_reflection_can_be_switched_off(new_daemon, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("reflection: false\n")
    client = new_daemon("--config", str(config)).start().client()
    expect(grpc.StatusCode.UNIMPLEMENTED, reflect, client.channel, "v1", ask(7, ""))
    client.close()
