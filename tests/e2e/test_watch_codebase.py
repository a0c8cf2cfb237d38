"""Watch of a codebase: what uploads, imports and commits change in it, as it happens."""

import contextlib
import json
import os
import subprocess
import threading
import time

import grpc
import pytest

import watching
from harness import BIN, afpb, expect, filepb, monpb, pb, sbpb
from watching import (CREATED, DELETED, DIRECTORY, LOST, MODIFIED, REGULAR, RENAMED,
                      STREAM_SECONDS, names, until)

EVENTS_MAX = 4096  # AF_WATCH_EVENTS_MAX


@pytest.fixture
def base(client):
    return client.codebase({"a.txt": "one\n", "dir/b.txt": "two\n"})


def watch(client, codebase, **fields):
    """What is committed from now on."""
    return watching.watch(client, codebase_id=codebase, **fields)


def told(client, codebase, stream):
    """(kind, path, old path) of everything up to now."""
    client.upload(codebase, "the-end", "")
    return names(until(stream, b"the-end"))


def test_uploads_are_told(client, base):
    stream = watch(client, base)
    before = time.time()
    client.upload(base, "a.txt", "changed")
    client.upload(base, "new/deep/f", "1")
    events = [next(stream) for _ in range(4)]
    assert [(e.kind, e.path, e.file_kind) for e in events] == [
        (MODIFIED, b"a.txt", REGULAR),
        (CREATED, b"new", DIRECTORY),
        (CREATED, b"new/deep", DIRECTORY),
        (CREATED, b"new/deep/f", REGULAR),
    ]
    for event in events:
        assert before - 1 < event.at.seconds + event.at.nanos / 1e9 < time.time() + 1
        assert (event.pid, event.sandbox_id) == (0, "")


def test_a_command_s_changes_are_told_with_its_sandbox(client, base):
    sandbox = client.sandbox(base)  # on_exec
    stream = watch(client, base)
    client.out(sandbox, "mkdir out && echo x > out/f && mv dir moved && rm a.txt && : > x && rm x")
    events = [next(stream) for _ in range(4)]
    assert {e.sandbox_id for e in events} == {sandbox}
    assert [(e.kind, e.path, e.old_path) for e in events] == [
        (DELETED, b"a.txt", b""),
        (RENAMED, b"moved", b"dir"),
        (CREATED, b"out", b""),
        (CREATED, b"out/f", b""),
    ]
    client.out(sandbox, "cat out/f")
    assert told(client, base, stream) == []


def test_an_event_is_there_before_whoever_made_the_change_has_its_answer(client):
    for _ in range(50):  # the end of the codebase, and so of the stream, would overtake it
        codebase = client.codebase()
        stream = watch(client, codebase)
        client.upload(codebase, "f", "")
        client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=codebase))
        assert [e.path for e in stream] == [b"f"]
        assert stream.code() == grpc.StatusCode.OK


def test_what_a_manual_sandbox_does_is_told_at_its_commit(client, base):
    sandbox = client.sandbox(base, manual=True)
    stream = watch(client, base)
    client.out(sandbox, "echo 1 > mine")
    assert told(client, base, stream) == []
    client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))  # a merge: the-end is new
    assert told(client, base, stream) == [(CREATED, "mine", "")]
    client.out(sandbox, "echo 2 > mine")
    client.views.Rollback(sbpb.RollbackRequest(sandbox_id=sandbox))
    assert told(client, base, stream) == []


def test_an_import_and_what_it_removes_is_told(client, base):
    stream = watch(client, base)

    def messages():
        yield afpb.ImportRequest(codebase_id=base)
        yield afpb.ImportRequest(remove=b"dir")
        yield afpb.ImportRequest(
            entry=afpb.ImportEntry(path=b"n/f", kind=REGULAR, mode=0o644)
        )
        yield afpb.ImportRequest(data=b"x")

    client.trees.Import(messages())
    assert told(client, base, stream) == [
        (DELETED, "dir", ""),
        (CREATED, "n", ""),
        (CREATED, "n/f", ""),
    ]


def test_a_directory_of_the_host_is_told_as_what_it_changes(client, base, tmp_path):
    (tmp_path / "a.txt").write_text("one, two\n")
    (tmp_path / "sub").mkdir()
    tmp_path.chmod(0o755)  # as the codebase's root
    stream = watch(client, base)
    request = filepb.ImportDirectoryRequest(codebase_id=base, path=os.fsencode(tmp_path))
    client.archives.ImportDirectory(request)
    assert told(client, base, stream) == [
        (MODIFIED, "a.txt", ""),
        (DELETED, "dir", ""),
        (CREATED, "sub", ""),
    ]
    client.upload(base, "kept", "")
    assert told(client, base, stream) == [(CREATED, "kept", "")]


def test_only_what_is_below_the_path_and_what_takes_it_away_is_told(client, base):
    stream = watch(client, base, path=b"/dir/sub/")
    client.upload(base, "dir/other", "")
    client.upload(base, "dir/sub/f", "")
    client.upload(base, "dir/subject", "")
    sandbox = client.sandbox(base)
    client.out(sandbox, "mv dir/sub/f dir/g && mv dir/g dir/sub/h")
    client.out(sandbox, "mv dir elsewhere")
    events = [next(stream) for _ in range(4)]
    assert [(e.kind, e.path, e.old_path) for e in events] == [
        (CREATED, b"dir/sub", b""),
        (CREATED, b"dir/sub/f", b""),
        (RENAMED, b"dir/sub/h", b"dir/sub/f"),
        (RENAMED, b"elsewhere", b"dir"),
    ]


def test_another_codebase_is_not_seen(client, base):
    other = client.codebase({"a": "1"})
    stream = watch(client, base)
    client.upload(other, "b", "")
    client.out(client.sandbox(other), ": > c")
    assert told(client, base, stream) == []


def test_a_client_that_does_not_read_loses_events_and_slows_nobody(daemon, client, base):
    deaf = daemon.client(("grpc.http2.bdp_probe", 0))  # else its own window may grow to 10 MiB
    stream = watch(deaf, base)
    entries = [
        afpb.ImportRequest(entry=afpb.ImportEntry(path=b"d%d" % i, kind=DIRECTORY, mode=0o755))
        for i in range(6 * EVENTS_MAX)
    ]
    client.trees.Import(iter([afpb.ImportRequest(codebase_id=base), *entries]))
    client.upload(base, "last", "")
    total, counted, lost = len(entries) + 1, 0, 0
    for event in stream:
        lost += event.lost
        counted += event.lost if event.kind == LOST else 1
        if event.path == b"last":
            break
        if counted == total:  # it was lost as well
            client.upload(base, "last", "")
            total += 1
    assert counted == total and lost > 0
    stream.cancel()
    deaf.close()
    assert client.upload(base, "after", "").size == 0


def test_bad_requests_are_refused(client, base):
    sandbox = client.sandbox(base)
    unknown = "cb_00000000000000000000000000"
    invalid, not_found = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for request, code, words in [
        (monpb.WatchRequest(), invalid, "sandbox_id or codebase_id"),
        (monpb.WatchRequest(codebase_id=base, sandbox_id=sandbox), invalid, "not both"),
        (monpb.WatchRequest(codebase_id=base, denied=True), invalid, "denied"),
        (monpb.WatchRequest(codebase_id="cb_x"), invalid, "cb_"),
        (monpb.WatchRequest(codebase_id=sandbox), invalid, "cb_"),
        (monpb.WatchRequest(codebase_id=base, path=b"../x"), invalid, "path"),
        (monpb.WatchRequest(codebase_id=base, path=b"x" * 5000), invalid, "path"),
        (monpb.WatchRequest(codebase_id=unknown), not_found, unknown),
    ]:
        assert words in expect(code, lambda r=request: next(client.monitor.Watch(r)))


def test_256_codebase_streams_and_no_more(daemon, client, base):
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(4):  # 128 streams a connection are the server's limit
            made = daemon.client()
            stack.callback(made.close)
            streams += [watch(made, base) for _ in range(64)]
        expect(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            lambda: next(client.monitor.Watch(monpb.WatchRequest(codebase_id=base))),
        )
        client.upload(base, "f", "")
        assert {next(stream).path for stream in streams} == {b"f"}


def test_the_daemon_stops_with_streams_open(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    stream = watch(client, client.codebase({"a": "1"}))
    assert daemon.stop() == 0
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    client.close()


def tool(daemon, *args, **kwargs):
    argv = [BIN / "agentfense", "watch", "--socket", daemon.socket, *args]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **kwargs)


def test_the_tool_shows_them(daemon, client, base):
    sandbox = client.sandbox(base)
    shown = tool(daemon, "--json", "--count", "2", base, "dir")
    plain = tool(daemon, base)
    assert json.loads(shown.stdout.readline())["event"] == "ready"
    # The other one says nothing when it is ready: changes come until it has seen one.
    lines, seen = [], threading.Event()

    def read():
        for line in plain.stdout:
            lines.append(line)
            seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + STREAM_SECONDS
    while not seen.wait(0.05) and time.monotonic() < deadline:
        client.upload(base, "tick", "")
    client.upload(base, "dir/new", "")
    client.out(sandbox, "mv dir/new dir/newer")
    first, second = (json.loads(line) for line in shown.stdout)
    assert shown.wait(STREAM_SECONDS) == 0
    assert (first["event"], first["path"], first["kind"]) == ("created", "dir/new", "file")
    assert "sandbox" not in first
    assert (second["event"], second["old_path"], second["path"]) == (
        "renamed", "dir/new", "dir/newer",
    )
    assert second["sandbox"] == sandbox
    client.destroy(sandbox)
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=base))
    reader.join(STREAM_SECONDS)
    assert plain.wait(STREAM_SECONDS) == 0  # it ends with the codebase
    wrong = tool(daemon, base[:-1], stderr=subprocess.PIPE)
    assert "no codebase's id" in wrong.communicate()[1] and wrong.returncode == 1
    assert any(f"renamed   dir/new -> dir/newer  ({sandbox})" in line for line in lines)
