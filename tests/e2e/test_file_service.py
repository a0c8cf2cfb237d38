"""Files of a sandbox over the API, as its agent would use them, with rules, quotas and links."""

import io
import os
import tarfile
import threading

import grpc
import pytest

from harness import AGENT_SAFE, FULL, afpb, eventually, expect, filepb, pb, sbpb


def read(client, sandbox, path, **fields):
    request = filepb.FileReadRequest(sandbox_id=sandbox, path=path.encode(), **fields)
    return b"".join(chunk.data for chunk in client.files.Read(request, timeout=60))


def write(client, sandbox, path, data, chunk=1_000_000, mode=0):
    def messages():
        yield filepb.FileWriteRequest(
            target=filepb.FileRequest(sandbox_id=sandbox, path=path.encode(), mode=mode)
        )
        for start in range(0, len(data), chunk):
            yield filepb.FileWriteRequest(data=data[start : start + chunk])

    return client.files.Write(messages(), timeout=60)


def call(method, sandbox, path, **fields):
    return method(filepb.FileRequest(sandbox_id=sandbox, path=path.encode(), **fields), timeout=60)


def remove(client, sandbox, path, recursive=False):
    request = filepb.FileRemoveRequest(
        sandbox_id=sandbox, path=path.encode(), recursive=recursive
    )
    return client.files.Remove(request, timeout=60).removed


def move(client, sandbox, source, target):
    request = filepb.FileRenameRequest(
        **{"sandbox_id": sandbox, "from": source.encode(), "to": target.encode()}
    )
    return client.files.Rename(request, timeout=60)


def names(client, recursive=True, path="", **tree):
    request = filepb.FileListRequest(path=path.encode(), recursive=recursive, **tree)
    return [entry.path.decode() for entry in client.files.List(request, timeout=60)]


@pytest.fixture
def tree(client):
    return client.codebase(
        {"readme": "read me", ".env": "secret", "secrets/db": "secret", "src/app.py": "code"}
    )


@pytest.fixture
def safe(client, tree):
    made = client.sandbox(tree, AGENT_SAFE)
    yield made
    client.destroy(made)


@pytest.fixture
def full(client):
    made = client.sandbox(client.codebase({"f": "base"}), FULL)
    yield made
    client.destroy(made)


def test_what_the_agent_writes_is_read_and_the_other_way_round(client, full):
    client.out(full, "mkdir d && echo from the agent > d/a")
    assert read(client, full, "d/a") == b"from the agent\n"
    made = write(client, full, "/d/b", b"from outside\n", mode=0o600)
    assert (made.size, made.mode, made.kind) == (13, 0o600, afpb.FILE_KIND_REGULAR)
    assert client.out(full, "cat d/b; stat -c '%a %U' d/b") == "from outside\n600 agent\n"
    write(client, full, "f", b"new")
    assert client.out(full, "cat f") == "new"


def test_large_files_and_parts_of_them(client, full):
    data = os.urandom(9_000_000)
    write(client, full, "big", data)
    assert read(client, full, "big") == data
    assert read(client, full, "big", offset=8_999_990) == data[-10:]
    assert read(client, full, "big", offset=5, length=7) == data[5:12]
    assert read(client, full, "big", offset=10_000_000) == b""


def test_a_write_that_does_not_end_well_changes_nothing(client, full):
    started = threading.Event()

    def messages():
        target = filepb.FileRequest(sandbox_id=full, path=b"f")
        yield filepb.FileWriteRequest(target=target)
        yield filepb.FileWriteRequest(data=b"half of")
        started.wait(30)
        stream.cancel()

    stream = client.files.Write.future(messages())
    started.set()
    with pytest.raises(grpc.FutureCancelledError):
        stream.result(60)
    assert read(client, full, "f") == b"base"


def test_hidden_is_not_found_and_forbidden_is_denied(client, safe):
    not_found, denied = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
    assert read(client, safe, "readme") == b"read me"
    for path in (".env", "secrets/db", "secrets", "nothing"):
        expect(not_found, read, client, safe, path)
        expect(not_found, call, client.files.Stat, safe, path)
        expect(not_found, remove, client, safe, path)
    expect(denied, write, client, safe, "readme", b"x")
    expect(denied, write, client, safe, "new", b"x")
    expect(denied, remove, client, safe, "readme")
    expect(denied, call, client.files.MakeDirectory, safe, "src/d")
    expect(denied, write, client, safe, ".env", b"x")
    call(client.files.MakeDirectory, safe, "output")
    write(client, safe, "output/x", b"x")
    expect(denied, move, client, safe, "output/x", "x")
    assert names(client, sandbox_id=safe) == [
        "output", "output/x", "readme", "src", "src/app.py"
    ]


def test_no_link_leads_out_of_the_view(client, full):
    client.out(full, "ln -s /etc/passwd out; ln -s ../../../../etc up; ln -s f in; ln -s loop loop")
    assert read(client, full, "in") == b"base"
    for path in ("out", "up/passwd", "../../etc/passwd", "loop", "/proc/self/environ"):
        expect_not = expect_any(
            (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), read, client, full, path
        )
        assert expect_not
    entry = call(client.files.Stat, full, "out")
    assert entry.kind == afpb.FILE_KIND_SYMLINK and entry.symlink_target == b"/etc/passwd"
    assert not os.path.exists("/etc/agentfense-test")
    expect_any(
        (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT),
        write, client, full, "up/agentfense-test", b"x",
    )
    assert not os.path.exists("/etc/agentfense-test")


def expect_any(codes, function, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        function(*args, **kwargs)
    assert caught.value.code() in codes, caught.value
    return caught.value.details()


def test_what_is_no_file_is_not_read(client, full):
    client.out(full, "mkfifo pipe; mkdir dir")
    expect(grpc.StatusCode.INVALID_ARGUMENT, read, client, full, "pipe")
    expect(grpc.StatusCode.INVALID_ARGUMENT, read, client, full, "dir")
    expect(grpc.StatusCode.INVALID_ARGUMENT, read, client, full, "")
    expect(grpc.StatusCode.INVALID_ARGUMENT, write, client, full, "pipe", b"x")


def test_a_program_that_runs_is_not_written(client, full):
    client.out(full, "cp /bin/sleep .")
    call_ = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=full, command="./sleep 1000"))
    running = "readlink /proc/[0-9]*/exe | grep -qx /workspace/sleep"
    eventually(lambda: client.exec(full, running).exit_code == 0)
    assert "busy" in expect(grpc.StatusCode.FAILED_PRECONDITION, write, client, full, "sleep", b"x")
    call_.cancel()


DEEP = """
import os
for _ in range(2100):
    os.mkdir("d")
    os.chdir("d")
open("f", "w").close()
"""


def test_what_is_too_deep_for_a_path_is_not_left_out_in_silence(client, full):
    client.out(full, f"python3 -c '{DEEP}'")
    entries = client.files.List(filepb.FileListRequest(sandbox_id=full, recursive=True), timeout=60)
    got = []
    with pytest.raises(grpc.RpcError) as caught:
        for entry in entries:
            got.append(entry.path)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "not what is in 1 directories" in caught.value.details()
    assert len(got) > 2040 and got[-1] == b"f", "what can be told is told"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "rm -rf" in expect(code, remove, client, full, "d", recursive=True)
    client.out(full, "rm -rf d")
    assert names(client, sandbox_id=full) == ["f"]


def test_what_is_cut_off_is_refused_with_the_reason(client, full):
    def access(level):
        client.views.SetAccess(sbpb.SetAccessRequest(sandbox_id=full, access=level))

    access(sbpb.ACCESS_CUT_OFF)
    code = grpc.StatusCode.FAILED_PRECONDITION
    for what in (
        lambda: client.exec(full, "true"),
        lambda: list(client.sandboxes.ExecStream(pb.ExecRequest(sandbox_id=full, command="true"))),
        lambda: read(client, full, "f"),
        lambda: write(client, full, "f", b"x"),
    ):
        assert "cut off" in expect(code, what)
    access(sbpb.ACCESS_NORMAL)
    assert client.out(full, "cat f") == "base"
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.exec, full, "true", workdir="/nowhere")


def test_removing_and_moving(client, full):
    client.out(full, "mkdir -p d/e && touch d/a d/e/b && for i in $(seq 3000); do :> d/$i; done")
    expect(grpc.StatusCode.FAILED_PRECONDITION, remove, client, full, "d")
    assert move(client, full, "d/a", "d/e/moved").path == b"d/e/moved"
    assert remove(client, full, "d", recursive=True) == 3004
    assert client.out(full, "ls") == "f\n"
    for path in ("", "/", ".", "..", "d/.."):
        expect_any(
            (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND),
            remove, client, full, path, recursive=True,
        )
    assert client.out(full, "cat f") == "base"


def link(client, sandbox, path, target, hard=False):
    request = filepb.FileLinkRequest(
        sandbox_id=sandbox, path=path.encode(), target=target.encode(), hard=hard
    )
    return client.files.Link(request, timeout=60)


def test_links_are_made_by_the_rules(client, safe, full):
    assert link(client, full, "soft", "f").symlink_target == b"f"
    assert link(client, full, "again", "/f", hard=True).size == 4
    assert client.out(full, "readlink soft; stat -c %h f again") == "f\n2\n2\n"
    call(client.files.MakeDirectory, safe, "output")
    expect(grpc.StatusCode.ALREADY_EXISTS, link, client, full, "soft", "x")
    # What a symbolic link leads to is nobody's business; through it nothing is gained.
    assert link(client, safe, "output/out", "/etc/passwd").symlink_target == b"/etc/passwd"
    expect(grpc.StatusCode.NOT_FOUND, read, client, safe, "output/out")
    link(client, safe, "output/env", "../.env")
    expect(grpc.StatusCode.NOT_FOUND, read, client, safe, "output/env")
    denied = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)
    expect_any(denied, link, client, safe, "src/soft", "x")
    expect_any(denied, link, client, safe, "output/db", "secrets/db", hard=True)
    expect_any(denied, link, client, safe, "output/passwd", "../../etc/passwd", hard=True)
    for target in ("", "a\0b", "x" * 4096):
        expect(grpc.StatusCode.INVALID_ARGUMENT, link, client, full, "bad", target)
    expect(grpc.StatusCode.NOT_FOUND, link, client, full, "no/such/soft", "x")


def test_the_quota_holds(client):
    codebase = client.codebase()
    made = client.views.Create(
        sbpb.CreateRequest(
            sandbox={
                "codebase_id": codebase,
                "permissions": [{"pattern": "**/*", "permission": pb.PERMISSION_WRITE}],
            },
            options=sbpb.SandboxOptions(quota=sbpb.Quota(bytes=1_000_000)),
            start=True,
        )
    )
    sandbox = made.sandbox.id
    write(client, sandbox, "a", b"x" * 900_000)
    expect(grpc.StatusCode.RESOURCE_EXHAUSTED, write, client, sandbox, "b", b"x" * 200_000)
    client.destroy(sandbox)


def test_a_sandbox_that_does_not_run_is_listed_but_not_touched(client, tree):
    sandbox = client.sandbox(tree, AGENT_SAFE, start=False)
    assert names(client, sandbox_id=sandbox) == ["readme", "src", "src/app.py"]
    assert "start it" in expect(
        grpc.StatusCode.FAILED_PRECONDITION, read, client, sandbox, "readme"
    )
    client.destroy(sandbox)
    expect(grpc.StatusCode.NOT_FOUND, read, client, sandbox, "readme")


def test_lists_are_in_path_order_and_have_no_bound(client):
    files = [f"d{i:02}/{j:03}" for i in range(40) for j in range(100)]
    codebase = client.codebase()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in files:
            archive.addfile(tarfile.TarInfo(name))
    client.archives.ImportArchive(
        iter(
            [
                filepb.ImportArchiveRequest(
                    target=filepb.ImportTarget(codebase_id=codebase)
                ),
                filepb.ImportArchiveRequest(data=out.getvalue()[: 3 << 20]),
                filepb.ImportArchiveRequest(data=out.getvalue()[3 << 20 :]),
            ]
        )
    )
    found = names(client, codebase_id=codebase)
    assert [n for n in found if "/" in n] == files and len(found) == 4040
    assert names(client, codebase_id=codebase, recursive=False) == [f"d{i:02}" for i in range(40)]
    assert names(client, codebase_id=codebase, path="d07") == [f"d07/{j:03}" for j in range(100)]
    expect(grpc.StatusCode.NOT_FOUND, names, client, codebase_id=codebase, path="nothing")
    expect(grpc.StatusCode.INVALID_ARGUMENT, names, client)


def test_the_daemons_rights_come_back_after_every_call(client, safe, daemon):
    for _ in range(50):
        expect(grpc.StatusCode.PERMISSION_DENIED, write, client, safe, "readme", b"x")
    tasks = f"/proc/{daemon.process.pid}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        assert status["Uid"].split() == ["0"] * 4 and status["Gid"].split() == ["0"] * 4
