"""Figures: GetStats, the Prometheus endpoint, and the dashboard that is made of them."""

import json
import re
import shutil
import socket
import subprocess
import time

import grpc
import pytest

from harness import BIN, ROOT, eventually, monpb, pb

PROMTOOL = shutil.which("promtool") or shutil.which(
    "promtool", path=str(ROOT / "build/deps/promtool")
)
DASHBOARD = ROOT / "packaging/grafana/agentfense.json"
PAGE = ROOT / "tests/python/performance.md"
# What the user's page lists under "Monitoring", and what tells it.
USERS_PAGE = {
    "Active sandboxes count": {"agentfense_sandboxes_active"},
    "FUSE mount count": {"agentfense_fuse_mounts"},
    "Memory usage": {"process_resident_memory_bytes"},
    "CPU usage": {"process_cpu_seconds_total"},
    "Disk I/O": {"agentfense_disk_read_bytes_total", "agentfense_disk_written_bytes_total"},
    "Sandbox creation rate": {"agentfense_sandboxes_created_total"},
    "Command execution latency": {"agentfense_command_seconds"},
    "File operation latency": {"agentfense_fuse_request_seconds"},
    "Error rate": {"agentfense_api_errors_total"},
}
USERS_METRICS = set().union(*USERS_PAGE.values())


@pytest.fixture(scope="module")
def metrics_socket(tmp_path_factory):
    return tmp_path_factory.mktemp("metrics") / "metrics.sock"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, metrics_socket):
    from harness import Daemon

    made = Daemon(tmp_path_factory.mktemp("af"), "--metrics", f"unix:{metrics_socket}").start()
    yield made
    made.cleanup()


@pytest.fixture(scope="module")
def sandbox(client):
    """A sandbox that has made some of everything: commands, changes, refusals, API errors."""
    base = client.codebase({"a.txt": "one\n", ".env": "SECRET=1"}, name="topsecretname")
    rules = [("**/*", "write", 0), ("**/.env*", "none", 100)]
    made = client.sandbox(base, rules=rules, manual=True)
    script = "cat a.txt; echo two > b.txt; mkdir d; mv b.txt d; rm d/b.txt; ls; cat .env; exit 3"
    assert client.exec(made, script).exit_code == 3
    assert client.exec(made, "true").exit_code == 0
    with pytest.raises(grpc.RpcError):
        client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id="sb_" + "0" * 26))
    return made


def talk(path, request, half_close=False):
    """Sends bytes to the endpoint and returns everything that comes back."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(path))
        peer.sendall(request)
        if half_close:
            peer.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
    return answer


def scrape(path):
    head, _, body = talk(path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    assert f"Content-Length: {len(body)}".encode() in head
    return body.decode()


def value(text, series):
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def get_stats(client, **fields):
    reply = client.monitor.GetStats(monpb.GetStatsRequest(**fields))
    return {(m.name, *sorted(m.labels.values())): m for m in reply.metrics}


def test_every_metric_of_the_users_page_is_served(client, sandbox, metrics_socket):
    text = scrape(metrics_socket)
    assert USERS_METRICS <= set(re.findall(r"^# TYPE (\S+) ", text, re.M))
    assert value(text, "agentfense_sandboxes_active") == 1
    assert value(text, "agentfense_fuse_mounts") == 1
    assert value(text, "agentfense_sandboxes_created_total") >= 1
    assert value(text, "process_resident_memory_bytes") > 1 << 20
    assert value(text, "process_cpu_seconds_total") > 0
    assert value(text, 'agentfense_commands_total{result="failure"}') >= 1
    assert value(text, 'agentfense_commands_total{result="success"}') >= 1
    assert value(text, "agentfense_commands_running") == 0
    assert value(text, "agentfense_command_seconds_count") >= 2
    assert value(text, 'agentfense_fuse_requests_total{operation="create"}') >= 1
    assert value(text, 'agentfense_fuse_request_seconds_count{operation="create"}') >= 1
    assert value(text, "agentfense_lookups_hidden_total") >= 1
    method = 'method="sandbox.v1.SandboxService/GetSandbox",status="NOT_FOUND"'
    assert value(text, "agentfense_api_calls_total{%s}" % method) == 1
    assert value(text, "agentfense_api_errors_total") >= 1


def test_histograms_grow_to_their_count(sandbox, metrics_socket):
    text = scrape(metrics_socket)
    name = "agentfense_command_seconds"
    buckets = [float(n) for n in re.findall(rf'^{name}_bucket{{le="[^"]+"}} (\S+)$', text, re.M)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == value(text, f"{name}_count") > 0


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not here: make deps fetches it")
def test_promtool_accepts_the_endpoint(sandbox, metrics_socket):
    text = scrape(metrics_socket)
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_label_holds_an_id_a_name_or_a_path(client, sandbox, metrics_socket):
    with pytest.raises(grpc.RpcError):  # a method that a client has made up
        client.channel.unary_unary("/evil.Service/topsecretname")(b"")
    text = scrape(metrics_socket)
    for secret in (sandbox, "sb_", "cb_", "topsecretname", "tester", "a.txt", "evil"):
        assert secret not in text
    assert value(text, 'agentfense_api_calls_total{method="unknown",status="UNIMPLEMENTED"}') >= 1


def test_the_dashboard_asks_for_metrics_that_exist(client, sandbox, metrics_socket):
    client.exec(sandbox, "mkdir -p full/x; rmdir full")  # errors are there once there was one
    text = scrape(metrics_socket)
    known = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
    known |= {name + "_bucket" for name in re.findall(r"^# TYPE (\S+) histogram", text, re.M)}
    asked = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"\b(?:agentfense|process)_\w+", target["expr"]))
    assert asked and asked <= known, asked - known
    assert USERS_METRICS <= {re.sub("_bucket$", "", n) for n in asked}


def test_get_stats_has_the_endpoints_names(client, sandbox, metrics_socket):
    names = {key[0] for key in get_stats(client)}
    assert names == set(re.findall(r"^# TYPE (\S+) ", scrape(metrics_socket), re.M))
    times = get_stats(client)["agentfense_command_seconds",].histogram
    assert len(times.counts) == len(times.bounds) + 1
    assert sum(times.counts) >= 2 and times.sum > 0
    assert list(times.bounds) == sorted(times.bounds)


def fsctl_stats(daemon, *args):
    """(name, label values...) -> the metric, as agentfense-fsctl stats --json has it."""
    argv = [BIN / "agentfense-fsctl", "--socket", daemon.socket, "--json", "stats", *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["metrics"]
    return {(m["name"], *sorted(m["labels"].values())): m for m in found}


def test_the_page_get_stats_the_endpoint_and_fsctl_have_the_same_metrics(
    client, daemon, sandbox, metrics_socket
):
    part = PAGE.read_text().split("## Monitoring", 1)[1].split("```")[1]
    assert set(re.findall(r"^- (.*)$", part, re.M)) == set(USERS_PAGE)
    text = scrape(metrics_socket)
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    told = {key[0]: monpb.Metric.Kind.Name(m.kind) for key, m in get_stats(client).items()}
    shown = {key[0]: m["kind"] for key, m in fsctl_stats(daemon).items()}
    assert served == shown == {name: k.removeprefix("KIND_").lower() for name, k in told.items()}
    assert USERS_METRICS <= set(served)


def test_fsctl_stats_shows_the_same_values(client, daemon, sandbox):
    told, shown = get_stats(client), fsctl_stats(daemon)
    for name in ("agentfense_sandboxes_created_total", "agentfense_sandboxes_active"):
        assert shown[name,]["value"] == told[name,].value
    times = shown["agentfense_command_seconds",]["histogram"]
    assert times["count"] == sum(times["counts"]) == sum(
        told["agentfense_command_seconds",].histogram.counts
    )
    assert 0 < times["p50"] <= times["p99"] and times["sum"] > 0
    argv = [BIN / "agentfense-fsctl", "--socket", daemon.socket, "stats"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^agentfense_command_seconds +\d+ mean=\S+ p50<\S+ p99<\S+  ", text, re.M)
    assert re.search(r"^agentfense_commands_total\{success\} +\d+  ", text, re.M)


def test_commands_that_run_are_counted_by_sandbox(client, daemon, sandbox):
    idle = client.sandbox(client.codebase({"a": "1"}), manual=True)

    def running(which):
        return get_stats(client, sandbox_id=which)["agentfense_view_commands_running",].value

    call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command="sleep 1000"))
    eventually(lambda: running(sandbox) == 1)
    assert running(idle) == 0
    assert fsctl_stats(daemon, sandbox)["agentfense_view_commands_running",]["value"] == 1
    call.cancel()
    eventually(lambda: running(sandbox) == 0)
    client.destroy(idle)


def test_get_stats_of_one_sandbox(client, sandbox):
    stats = get_stats(client, sandbox_id=sandbox)
    assert stats["agentfense_view_delta_inodes",].value >= 1
    with pytest.raises(grpc.RpcError) as error:
        get_stats(client, sandbox_id="sb_" + "0" * 26)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as error:
        get_stats(client, sandbox_id="../x")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"400"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 5000, b"431"),
    ],
)
def test_bad_requests_get_an_answer_and_no_more(sandbox, metrics_socket, request_bytes, status):
    assert talk(metrics_socket, request_bytes).startswith(b"HTTP/1.1 " + status)
    scrape(metrics_socket)


def test_clients_that_say_nothing_do_not_keep_others_out(sandbox, metrics_socket):
    silent = []
    for _ in range(40):  # there are sixteen places
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(metrics_socket))  # waits when many others do
        peer.settimeout(30)
        peer.sendall(b"GET /met")
        silent.append(peer)
    scrape(metrics_socket)
    # The oldest made room, long before its time was up, and the newest are still waited for.
    assert silent[0].recv(1) == b""
    silent[-1].sendall(b"rics HTTP/1.1\r\n\r\n")
    assert silent[-1].recv(15) == b"HTTP/1.1 200 OK"
    for peer in silent:
        peer.close()


def test_a_query_is_ignored(sandbox, metrics_socket):
    assert talk(metrics_socket, b"GET /metrics?x=1 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_sandboxs_processes_memory_and_cpu_time_are_told(client, daemon, sandbox):
    idle = client.sandbox(client.codebase({"a": "1"}), manual=True)
    hungry = (
        "import os, time\n"
        "held = bytearray(os.urandom(1 << 20) * 40)\n"
        "while time.process_time() < 0.5: pass\n"
        "time.sleep(1000)\n"
    )
    request = pb.ExecRequest(sandbox_id=sandbox, command=f"python3 -c '{hungry}'")
    call = client.sandboxes.Exec.future(request)

    def told(which, name):
        return get_stats(client, sandbox_id=which)["agentfense_view_" + name,].value

    eventually(lambda: told(sandbox, "cpu_seconds") >= 0.5)
    assert 40 << 20 <= told(sandbox, "memory_bytes") < 400 << 20
    assert 1 <= told(sandbox, "processes") < 20
    shown = fsctl_stats(daemon, sandbox)["agentfense_view_memory_bytes",]["value"]
    assert shown >= 40 << 20
    assert told(idle, "cpu_seconds") < 0.5 and told(idle, "memory_bytes") < 40 << 20
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=idle))
    assert [told(idle, n) for n in ("cpu_seconds", "memory_bytes", "processes")] == [0, 0, 0]
    call.cancel()
    client.destroy(idle)


def test_a_request_cut_short_is_forgotten(sandbox, metrics_socket):
    assert talk(metrics_socket, b"GET /metrics HTT", half_close=True) == b""
    scrape(metrics_socket)


def test_an_address_beyond_the_machine_is_refused_unless_configured(new_daemon):
    daemon = new_daemon("--metrics", "0.0.0.0:0")
    with pytest.raises(RuntimeError, match="no loopback address"):
        daemon.start()


def test_the_endpoint_on_a_loopback_port(new_daemon):
    daemon = new_daemon("--metrics", "127.0.0.1:0").start()
    port = int(re.search(r"metrics are served.* port=(\d+)", daemon.log_text())[1])
    with socket.create_connection(("127.0.0.1", port), 30) as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(12) == b"HTTP/1.1 200"


# ---- the store and the views, by agentfense-fsctl


@pytest.fixture
def fsctl(daemon):
    """Runs agentfense-fsctl --json on the module's daemon; must succeed."""

    def call(*args):
        argv = [str(BIN / "agentfense-fsctl"), "--socket", str(daemon.socket)]
        plain = subprocess.run(argv + list(args), capture_output=True, text=True, check=False)
        assert plain.returncode == 0 and plain.stdout, plain.stderr
        done = subprocess.run(
            argv + ["--json", *args], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def requests_of(fsctl, sandbox):
    return {r["operation"]: r for r in fsctl("requests", sandbox)["operations"]}


def test_requests_are_counted_for_the_view_that_makes_them(client, fsctl):
    base = client.codebase({"big.bin": b"x" * 50_000})
    rules = [("**/*", "write", 0), ("/big.bin", "read", 10)]  # read: its pages are shared
    mine, other = (client.sandbox(base, rules=rules, manual=True) for _ in range(2))
    client.out(other, "true")
    before = requests_of(fsctl, other)
    client.out(mine, "for i in 1 2 3; do echo > f$i; done; cat big.bin > /dev/null; mkdir d")
    counted = requests_of(fsctl, mine)
    assert counted["create"]["requests"] == 3
    assert counted["mkdir"]["requests"] == 1
    assert counted["read"]["requests"] >= 1  # of a file that views share: told by the uid
    assert 0 < counted["create"]["mean_ns"] <= counted["create"]["slowest_ns"]
    after = requests_of(fsctl, other)
    assert {o: r["requests"] for o, r in after.items() if o in ("create", "mkdir", "read")} == {
        o: r["requests"] for o, r in before.items() if o in ("create", "mkdir", "read")
    }


def test_requests_of_a_slot_begin_anew_with_the_next_sandbox(new_daemon):
    daemon = new_daemon("--uid-count", "1").start()
    client = daemon.client()
    base = client.codebase({"a": "1"})
    first = client.sandbox(base, manual=True)
    client.out(first, "touch x y z")
    client.destroy(first)
    second = client.sandbox(base, manual=True)
    client.out(second, "touch x")
    assert get_stats(client, sandbox_id=second)[
        "agentfense_view_requests_total", "create"
    ].value == 1
    client.close()


def test_du_tells_private_from_shared(client, fsctl):
    made = client.sandbox(client.codebase({"base.bin": b"b" * 50_000}), manual=True)
    client.out(made, "head -c 30000 /dev/zero > mine")
    mine = [u for u in fsctl("du") if u["sandbox_id"] == made]
    assert mine == fsctl("du", made)
    assert mine[0]["private_bytes"] == 30_000
    assert mine[0]["shared_bytes"] == 50_000
    assert mine[0]["inodes"] >= 1


def test_layers_of_a_sandbox_a_codebase_and_all(client, fsctl):
    base = client.codebase({"a": "1"})
    made = client.sandbox(base, manual=True)
    stack = fsctl("layers", made)
    assert [layer["role"] for layer in stack] == ["delta"] + ["base"] * (len(stack) - 1)
    assert [layer["depth"] for layer in stack] == list(range(len(stack)))
    assert not stack[0]["frozen"] and all(layer["frozen"] for layer in stack[1:])
    assert fsctl("layers", base)[0]["role"] == "head"
    everything = {layer["id"] for layer in fsctl("layers")}
    assert {layer["id"] for layer in stack} <= everything
    with pytest.raises(grpc.RpcError) as error:
        list(client.monitor.ListLayers(monpb.ListLayersRequest(codebase_id="cb_" + "0" * 26)))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_blobs_are_listed_over_more_than_a_page_and_gc_removes_them(client, fsctl):
    before = {b["id"] for b in fsctl("blobs")}
    files = {f"f{i}": bytes([i % 251]) * (20_000 + i) for i in range(300)}
    base = client.codebase(files)
    new = [b for b in fsctl("blobs") if b["id"] not in before]
    assert sorted(b["bytes"] for b in new) == sorted(len(d) for d in files.values())
    assert all(b["refs"] == 1 and b["disk_bytes"] >= b["bytes"] for b in new)
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=base))
    fsctl("gc")
    assert not {b["id"] for b in new} & {b["id"] for b in fsctl("blobs")}


def test_dropping_caches_costs_nothing_but_time(client, fsctl):
    made = client.sandbox(client.codebase({"d/a": "1"}), manual=True)
    client.out(made, "cat d/a; echo 2 > d/b")
    reply = client.monitor.DropCaches(monpb.DropCachesRequest(sandbox_id=made))
    assert reply.nodes >= 1
    assert fsctl("drop-caches", made)["nodes"] == 0
    assert client.out(made, "cat d/a d/b; ls d") == "1" + "2\na\nb\n"
    fsctl("drop-caches")
    assert client.out(made, "cat d/a d/b; ls d") == "1" + "2\na\nb\n"
