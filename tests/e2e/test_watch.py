"""Watch and Trace: a view's changes, refusals and requests as streams, as they happen."""

import collections
import contextlib
import os
import threading
import time

import grpc
import pytest

import watching
from harness import AGENT_SAFE, FULL, OPENING, afpb, eventually, expect, filepb, monpb, pb, sbpb
from watching import (CREATED, DELETED, DENIED, DIRECTORY, MODIFIED, REGULAR, RENAMED,
                      STREAM_SECONDS, SYMLINK, UNKNOWN, names, until)

WATCHERS_MAX = 256  # AF_WATCHERS_MAX


@pytest.fixture
def base(client):
    return client.codebase(
        {"a.txt": "one\n", "dir/b.txt": "two\n", ".env": "SECRET=1", "secrets/key": "x"}
    )


def watch(client, sandbox, **fields):
    return watching.watch(client, sandbox_id=sandbox, **fields)


def trace(client, sandbox, **fields):
    stream = client.monitor.Trace(
        monpb.TraceRequest(sandbox_id=sandbox, **fields), timeout=STREAM_SECONDS
    )
    assert next(stream).ready
    return stream


def changes(client, sandbox, script, stream):
    """(kind, path, old path) of what the script does."""
    assert client.exec(sandbox, script + "; : > /workspace/the-end").exit_code == 0
    found = names(until(stream, b"the-end"))
    client.out(sandbox, "rm /workspace/the-end")
    assert until_kind(stream, DELETED).path == b"the-end"
    return found


def until_kind(stream, kind):
    return next(event for event in stream if event.kind == kind)


def test_every_kind_of_change_is_told_with_its_path(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    found = changes(
        client,
        sandbox,
        "mkdir -p d/e && echo x > d/e/f && ln d/e/f d/g && ln -s f d/e/s && mkfifo d/p"
        " && mv d/e d/h && chmod 600 d/h/f && rm d/h/s && mv a.txt d/h/a.txt && truncate -s 0 d/g"
        " && rm d/p d/g && mkdir x && rmdir x && echo more >> dir/b.txt",
        stream,
    )
    assert found == [
        (CREATED, "d", ""),
        (CREATED, "d/e", ""),
        (CREATED, "d/e/f", ""),
        (MODIFIED, "d/e/f", ""),
        (CREATED, "d/g", ""),
        (CREATED, "d/e/s", ""),
        (CREATED, "d/p", ""),
        (RENAMED, "d/h", "d/e"),
        (MODIFIED, "d/h/f", ""),
        (DELETED, "d/h/s", ""),
        (RENAMED, "d/h/a.txt", "a.txt"),
        (MODIFIED, "d/h/f", ""),  # the name that the record keeps, of two
        (DELETED, "d/p", ""),
        (DELETED, "d/g", ""),
        (CREATED, "x", ""),
        (DELETED, "x", ""),
        (MODIFIED, "dir/b.txt", ""),
    ]


def test_events_say_what_kind_of_file_when_and_who(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    before = time.time()
    client.out(sandbox, "mkdir d; ln -s x s; : > f; mv f g; rm g; rmdir d; : > the-end")
    events = until(stream, b"the-end")
    kinds = [(e.path.decode(), e.file_kind) for e in events]
    assert kinds == [
        ("d", DIRECTORY),
        ("s", SYMLINK),
        ("f", REGULAR),
        ("g", REGULAR),
        ("g", UNKNOWN),  # it is gone
        ("d", DIRECTORY),
    ]
    for event in events:
        assert before - 1 < event.at.seconds + event.at.nanos / 1e9 < time.time() + 1
        assert event.pid > 0


def test_a_removed_tree_is_told_with_whole_paths(client, base):
    sandbox = client.sandbox(base, manual=True)
    client.out(sandbox, "mkdir -p t/u/v && touch t/1 t/u/2 t/u/v/3")
    stream = watch(client, sandbox)
    found = changes(client, sandbox, "rm -r t", stream)
    assert sorted(found) == [
        (DELETED, path, "") for path in ("t", "t/1", "t/u", "t/u/2", "t/u/v", "t/u/v/3")
    ]


def test_an_exchange_is_two_renames(client, base):
    sandbox = client.sandbox(base, manual=True)
    client.out(sandbox, "mkdir one && echo x > two")
    stream = watch(client, sandbox)
    script = (
        "import ctypes; l = ctypes.CDLL(None); "
        "assert l.renameat2(-100, b'one', -100, b'two', 2) == 0"
    )
    found = changes(client, sandbox, f'python3 -c "{script}"', stream)
    assert found == [(RENAMED, "two", "one"), (RENAMED, "one", "two")]


def test_writes_to_one_file_are_not_an_event_each(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    found = changes(client, sandbox, "dd if=/dev/zero of=big bs=1k count=3000 2>&1", stream)
    assert found[0] == (CREATED, "big", "")
    assert set(found[1:]) == {(MODIFIED, "big", "")}
    assert len(found) < 3000


def test_denied_accesses_are_told_when_asked_for(client, base):
    sandbox = client.sandbox(base, AGENT_SAFE, manual=True)
    stream = watch(client, sandbox, denied=True)
    quiet = watch(client, sandbox)
    client.exec(sandbox, "cat .env; cat secrets/key; mkdir output; : > output/end")
    events = until(stream, b"output/end")
    denied = [(e.path, e.operation) for e in events if e.kind == DENIED]
    assert (b".env", "lookup") in denied and (b"secrets", "lookup") in denied
    # A name that is not there and that no rule hides is no refusal.
    assert all(path in (b".env", b"secrets") for path, _ in denied)
    assert [e.kind for e in until(quiet, b"output/end")] == [CREATED]


def test_a_write_to_a_frozen_view_is_denied_and_told(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox, denied=True)
    client.views.SetAccess(
        sbpb.SetAccessRequest(sandbox_id=sandbox, access=sbpb.ACCESS_READ_ONLY)
    )
    assert client.exec(sandbox, ": > nothing").exit_code != 0
    event = until_kind(stream, DENIED)
    assert (event.path, event.operation) == (b"nothing", "create")


def test_only_what_is_below_the_path_is_told(client, base):
    sandbox = client.sandbox(base, manual=True)
    client.out(sandbox, "mkdir -p in/deep inside")
    stream = watch(client, sandbox, path=b"/in/")
    client.out(sandbox, ": > a; : > inside/b; : > in/c; : > in/deep/d; mv a in/a; mv in/a b")
    client.out(sandbox, ": > in/end")
    found = [(e.kind, e.path) for e in until(stream, b"in/end")]
    assert found == [
        (CREATED, b"in/c"),
        (CREATED, b"in/deep/d"),
        (RENAMED, b"in/a"),
        (RENAMED, b"b"),
    ]


def test_another_sandbox_is_not_seen(client, base):
    mine, other = (client.sandbox(base, manual=True) for _ in range(2))
    stream = watch(client, mine, denied=True)
    tracer = trace(client, mine)
    client.out(other, "cat a.txt; mkdir theirs; : > theirs/f")
    client.out(mine, ": > the-end")
    assert until(stream, b"the-end") == []
    assert not [e for e in until(tracer, b"the-end") if b"theirs" in e.path]


def test_names_that_are_not_utf8_come_as_bytes(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    client.out(sandbox, r"touch $(printf 'a\377b')")
    assert until_kind(stream, CREATED).path == b"a\xffb"


def test_a_watch_goes_on_when_the_sandbox_is_stopped_and_started(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    client.out(sandbox, ": > first")
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    other = client.sandbox(base, manual=True)
    client.out(other, ": > others")
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    client.out(sandbox, ": > second")
    assert [e.path for e in until(stream, b"second")] == [b"first"]


def test_a_watch_begins_before_the_sandbox_does(client, base):
    sandbox = client.sandbox(base, start=False, manual=True)
    stream = watch(client, sandbox)
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    client.out(sandbox, ": > first")
    assert until(stream, b"first") == []


def test_the_stream_ends_when_the_sandbox_is_destroyed(client, base):
    sandbox = client.sandbox(base, manual=True)
    streams = [watch(client, sandbox), trace(client, sandbox)]
    client.out(sandbox, ": > last")
    client.destroy(sandbox)
    for stream in streams:
        assert b"last" in [e.path for e in stream]
        assert stream.code() == grpc.StatusCode.OK


def test_what_fileservice_changes_is_told(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    client.files.MakeDirectory(
        filepb.FileRequest(sandbox_id=sandbox, path=b"made")
    )
    assert until_kind(stream, CREATED).path == b"made"


# ---- Trace


def test_trace_tells_the_verdict_and_the_rule(client, base):
    sandbox = client.sandbox(base, AGENT_SAFE, manual=True)
    stream = trace(client, sandbox)
    script = "cat a.txt .env; mkdir output; : > output/f; mkdir nope; mv output/f output/the-end"
    client.exec(sandbox, script)
    events = until_end(stream)
    by = {(e.operation, e.path): e for e in events}
    seen = by["lookup", b"a.txt"]
    assert (seen.level, seen.rule, seen.pattern, seen.error) == (afpb.LEVEL_READ, 0, "**/*", 0)
    assert seen.file_kind == REGULAR and not seen.hidden
    hidden = by["lookup", b".env"]
    assert hidden.hidden and hidden.level == afpb.LEVEL_NONE
    assert (hidden.rule, hidden.pattern) == (3, "**/.env*")
    made = by["create", b"output/f"]
    assert (made.level, made.pattern, made.error) == (afpb.LEVEL_WRITE, "/output/**", 0)
    assert made.took.ToNanoseconds() > 0 and made.pid > 0
    moved = by["rename", b"output/f"]
    assert moved.new_path == b"output/the-end"
    read = by["read", b"a.txt"]  # a file whose pages are shared with other views
    assert read.level == afpb.LEVEL_READ


def until_end(stream):
    events = []
    for event in stream:
        events.append(event)
        if event.new_path == b"output/the-end":
            return events
    raise AssertionError("the stream ended")


def test_trace_goes_by_the_rules_that_hold_now(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = trace(client, sandbox)
    client.exec(sandbox, ": > one")
    created = next(e for e in stream if e.operation == "create")
    assert (created.level, created.rule) == (afpb.LEVEL_WRITE, 0)
    client.set_rules(sandbox, FULL + [("two*", "write", 9)])
    client.exec(sandbox, ": > two")
    created = next(e for e in stream if e.operation == "create")
    assert (created.path, created.rule, created.pattern) == (b"two", 1, "two*")


def test_trace_of_denied_accesses_alone(client, base):
    sandbox = client.sandbox(base, AGENT_SAFE, manual=True)
    stream = trace(client, sandbox, denied=True)
    client.exec(sandbox, "cat a.txt; ls -la; cat .env")
    event = next(stream)
    assert (event.path, event.hidden, event.rule) == (b".env", True, 3)


def test_warm_accesses_send_no_request_and_are_not_seen(client, base):
    """The limit that docs/MONITORING.md states: opens are seen under the policy `server` alone."""
    sandbox = client.sandbox(base, manual=True)
    client.out(sandbox, "cat a.txt; ls dir")
    stream = trace(client, sandbox)
    client.out(sandbox, "cat a.txt; ls dir; : > the-end")
    events = [e for e in until(stream, b"the-end") if e.path in (b"a.txt", b"dir")]
    found = {e.operation for e in events}
    assert found - OPENING <= {"getattr"}  # reading has changed the access time
    opens = [(e.operation, e.path) for e in events if e.operation in ("open", "opendir")]
    assert opens == ([("open", b"a.txt"), ("opendir", b"dir")] if OPENING else [])


# ---- hostile and slow clients


def flood(client, sandbox, count):
    """So many lookups of names that are not there, each a request."""
    script = f"import os\nfor i in range({count}): os.path.exists('n%d' % i)"
    client.out(sandbox, f'python3 -c "{script}"', timeout=STREAM_SECONDS)


def test_a_client_that_does_not_read_loses_events_and_is_told_how_many(daemon, client, base):
    sandbox = client.sandbox(base, manual=True)
    deaf = daemon.client(("grpc.http2.bdp_probe", 0))  # else its own window may grow to 10 MiB
    stream = trace(deaf, sandbox)
    count = 100_000
    flood(client, sandbox, count)  # nobody reads meanwhile, and the sandbox does not wait
    seen = lost = 0
    with changing(client, sandbox):  # what comes after there is room again is told again
        for event in stream:
            lost += event.lost
            seen += event.path.startswith(b"n")
            if event.operation == "mkdir":
                break
    assert lost > 0
    assert seen < count <= seen + lost < count + 5000  # and the shells' own requests
    stream.cancel()
    deaf.close()


@contextlib.contextmanager
def changing(client, sandbox):
    """Makes and removes a directory again and again, meanwhile."""
    stop = threading.Event()

    def change():
        while not stop.is_set():
            client.out(sandbox, "mkdir changing; rmdir changing")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_clients_that_do_not_read_bloat_nothing(client, daemon, base):
    """Many of them: each has its bound, and the sandbox goes on at its pace."""
    sandbox = client.sandbox(base, manual=True)
    flood(client, sandbox, 1000)
    before = resident_bytes(daemon)
    streams = [trace(client, sandbox) for _ in range(8)]
    flood(client, sandbox, 50_000)
    assert resident_bytes(daemon) - before < 8 * (8 << 20)
    for stream in streams:
        stream.cancel()
    assert client.out(sandbox, "cat a.txt") == "one\n"


def resident_bytes(daemon):
    with open(f"/proc/{daemon.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_watchers_beyond_the_limit_are_refused_and_the_others_go_on(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"a": "1"}), manual=True)
    clients = [daemon.client() for _ in range(WATCHERS_MAX // 64)]
    # 128 streams a connection are the server's limit, so several connections.
    streams = [watch(made, sandbox) for made in clients for _ in range(64)]
    more = client.monitor.Watch(monpb.WatchRequest(sandbox_id=sandbox), timeout=STREAM_SECONDS)
    assert "watch" in expect(grpc.StatusCode.RESOURCE_EXHAUSTED, next, more)
    client.out(sandbox, ": > f")
    assert all(until(stream, b"f") == [] for stream in streams)
    for stream in streams:
        stream.cancel()
    for made in clients:
        made.close()

    def is_free():
        try:
            watch(client, sandbox).cancel()
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            return False
        return True

    eventually(is_free)


def test_a_client_that_goes_away_leaves_nothing_behind(daemon, client, base):
    sandbox = client.sandbox(base, manual=True)
    for _ in range(50):
        other = daemon.client()
        streams = [watch(other, sandbox), trace(other, sandbox)]
        client.exec(sandbox, ": > f")
        assert until(streams[0], b"f") is not None
        other.close()
    client.out(sandbox, "mkdir done")


def test_bad_requests_are_refused_with_a_sentence(client, base):
    sandbox = client.sandbox(base, start=False, manual=True)
    cases = [
        (grpc.StatusCode.INVALID_ARGUMENT, {"sandbox_id": "no id"}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"sandbox_id": sandbox, "path": b"../x"}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"sandbox_id": sandbox, "path": b"a\0b"}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"sandbox_id": sandbox, "path": b"a/" * 3000}),
        (grpc.StatusCode.NOT_FOUND, {"sandbox_id": "sb_" + "0" * 26}),
    ]
    for code, fields in cases:
        expect(code, next, client.monitor.Watch(monpb.WatchRequest(**fields)))
        expect(code, next, client.monitor.Trace(monpb.TraceRequest(**fields)))


def test_deep_trees_keep_their_events_with_the_end_of_the_path(client, base):
    """An agent can nest directories without end: the event comes, the path is cut."""
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, sandbox)
    script = (
        "import os\n"
        "for i in range(300):\n    os.mkdir('d'); os.chdir('d')\n"
        "open('bottom', 'w').close()"
    )
    client.out(sandbox, f'python3 -c "{script}"')
    event = next(e for e in stream if e.path.endswith(b"/bottom"))
    assert event.path_is_cut and event.path.count(b"/") >= 250


def test_the_daemon_stops_with_watchers(new_daemon):
    daemon = new_daemon()
    daemon.start()
    client = daemon.client()
    base = client.codebase({"a": "1"})
    sandbox = client.sandbox(base, manual=True)
    streams = [watch(client, sandbox), trace(client, sandbox)]
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 20
    for stream in streams:
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE


def test_watching_while_sandboxes_come_and_go(client, base):
    """Streams opened and closed beside attachments, detachments and requests."""
    stop = threading.Event()
    failures = collections.deque()
    sandbox = client.sandbox(base, manual=True)

    def open_and_close():
        while not stop.is_set():
            try:
                stream = trace(client, sandbox)
                next(stream)
                stream.cancel()
            except Exception as error:  # pylint: disable=broad-except
                failures.append(error)
                return

    def start_and_stop():
        while not stop.is_set():
            other = client.sandbox(base, manual=True)
            client.out(other, ": > f")
            client.destroy(other)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    threads.append(threading.Thread(target=start_and_stop))
    for thread in threads:
        thread.start()
    for i in range(40):
        client.out(sandbox, f"mkdir d{i}; rmdir d{i}")
    stop.set()
    while any(thread.is_alive() for thread in threads):
        client.out(sandbox, ": > wake; rm wake")
    for thread in threads:
        thread.join()
    assert not failures
