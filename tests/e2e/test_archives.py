"""Trees in and out as tar archives: what is kept, what is refused without a trace."""

import io
import os
import pathlib
import shutil
import subprocess
import tarfile
import threading

import grpc
import pytest

from harness import AGENT_SAFE, FULL, afpb, eventually, expect, filepb, pb

T0 = 1_700_000_000.5


def tar(entries, mode="w:", fmt=tarfile.PAX_FORMAT):
    """An archive of (name, kind, content or target, mode) tuples."""
    out = io.BytesIO()
    kinds = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
    kinds |= {"link": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE}
    with tarfile.open(fileobj=out, mode=mode, format=fmt, errors="surrogateescape") as archive:
        for name, kind, content, *bits in entries:
            info = tarfile.TarInfo(name)
            info.type = kinds[kind]
            info.mode = bits[0] if bits else (0o755 if kind == "dir" else 0o644)
            info.mtime = T0
            data = None
            if kind in ("symlink", "link"):
                info.linkname = content
            elif kind == "file":
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def send(client, codebase, data, chunk=100_000, **target):
    def messages():
        yield filepb.ImportArchiveRequest(
            target=filepb.ImportTarget(codebase_id=codebase, **target)
        )
        for start in range(0, len(data), chunk):
            yield filepb.ImportArchiveRequest(data=data[start : start + chunk])

    return client.archives.ImportArchive(messages(), timeout=120)


def fetch(client, **source):
    chunks = client.archives.ExportArchive(filepb.ExportArchiveRequest(**source), timeout=120)
    return b"".join(chunk.data for chunk in chunks)


def opened(data):
    return tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape")


def names(data):
    with opened(data) as archive:
        return [member.name for member in archive.getmembers()]


def listing(client, codebase):
    request = pb.ListFilesRequest(codebase_id=codebase, recursive=True)
    return [f.path for f in client.codebases.ListFiles(request).files]


TREE = [
    ("./", "dir", None, 0o750),
    ("./bin/", "dir", None, 0o700),
    ("./bin/tool", "file", "#!/bin/sh\n", 0o751),
    ("./empty", "dir", None, 0o1777),
    ("./a", "file", "one"),
    ("./bin/b", "link", "./a"),
    ("./dangling", "symlink", "../../nowhere"),
    ("./pipe", "fifo", None),
    ("./big", "file", os.urandom(3_000_000), 0o600),
]


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_modes_links_times_and_empty_directories_make_the_round_trip(client, mode):
    codebase = client.codebase()
    totals = send(client, codebase, tar(TREE, mode))
    assert (totals.files, totals.directories, totals.symlinks, totals.hard_links) == (3, 3, 1, 1)
    for zstd in (False, True):
        data = fetch(client, codebase_id=codebase, zstd=zstd)
        if zstd:
            data = subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE).stdout
        with opened(data) as archive:
            found = {m.name: m for m in archive.getmembers()}
            assert found.keys() == {e[0][2:].rstrip("/") for e in TREE[1:]}
            for name, kind, content, *bits in TREE[1:]:
                member = found[name[2:].rstrip("/")]
                assert member.mtime == T0
                if kind == "file" and not member.islnk():
                    data = content.encode() if isinstance(content, str) else content
                    assert archive.extractfile(member).read() == data
                if bits:
                    assert member.mode == bits[0], name
            assert found["empty"].isdir() and found["pipe"].isfifo()
            assert found["dangling"].linkname == "../../nowhere"
            assert [found["bin/b"].islnk(), found["a"].islnk()].count(True) == 1


def test_hard_links_are_one_file_in_a_sandbox(client):
    codebase = client.codebase()
    send(client, codebase, tar(TREE))
    sandbox = client.sandbox(codebase)
    assert client.out(sandbox, "stat -c '%h' a; [ a -ef bin/b ] && echo same") == "2\nsame\n"
    client.destroy(sandbox)


@pytest.mark.parametrize(
    "entries, says",
    [
        ([("../out", "file", "x")], ".."),
        ([("a/../../out", "file", "x")], ".."),
        ([("/etc/passwd", "file", "x")], "absolute"),
        ([("ok", "file", "x"), ("dev", "char", None)], "device"),
        ([("l", "symlink", "/etc"), ("l/x", "file", "x")], "symbolic link"),
        ([("x", "link", "../../etc/passwd")], ".."),
        ([("x", "link", "nothing")], "not there"),
        ([("a", "file", "1"), ("a", "file", "2")], "twice"),
        ([("a", "file", "1"), ("a/b", "file", "2")], "no directory"),
    ],
)
def test_a_hostile_archive_is_refused_and_changes_nothing(client, entries, says):
    codebase = client.codebase({"kept": "as it was"})
    expect_text = expect(
        grpc.StatusCode.INVALID_ARGUMENT, send, client, codebase, tar(entries), merge=True
    )
    assert says in expect_text
    assert listing(client, codebase) == ["kept"]


def test_broken_archives_are_refused_and_change_nothing(client):
    codebase = client.codebase({"kept": "as it was"})
    whole = tar(TREE, "w:gz")
    for data in (b"no archive at all" * 100, whole[: len(whole) // 2], whole[:20], b"\x1f\x8b" * 9):
        says = expect(grpc.StatusCode.INVALID_ARGUMENT, send, client, codebase, data)
        assert "tar" in says
    assert listing(client, codebase) == ["kept"]


@pytest.mark.parametrize("tool", ["zstd", "xz -0"])
def test_what_unpacks_to_much_more_than_its_size_is_refused_early(client, daemon, tmp_path, tool):
    if not shutil.which(tool.split()[0]):
        pytest.skip(f"{tool.split()[0]} is not installed")
    huge = tarfile.TarInfo("huge")
    huge.size = 64 << 30
    (tmp_path / "header").write_bytes(huge.tobuf())
    bomb = f"(cat header; head -c 500M /dev/zero | tr '\\0' b) | {tool} -c"
    data = subprocess.run(
        ["sh", "-c", bomb], cwd=tmp_path, check=True, stdout=subprocess.PIPE
    ).stdout
    codebase = client.codebase({"kept": "x"})
    says = expect(grpc.StatusCode.RESOURCE_EXHAUSTED, send, client, codebase, data)
    assert "times its size" in says
    assert listing(client, codebase) == ["kept"]
    new = daemon.state / "new"
    eventually(lambda: not [p for p in new.iterdir() if p.stat().st_size > 1 << 20])


def sparse_map(extents):
    """The header and the map, in GNU's format 1.0, of a file that is a row of holes."""
    fields = {"major": 1, "minor": 0, "name": "sparse", "realsize": 4096 * (extents + 1)}
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {f"GNU.sparse.{key}": str(value) for key, value in fields.items()}
    text = b"%d\n" % extents + b"".join(b"%d\n0\n" % (i * 4096) for i in range(extents))
    text += b"\0" * (-len(text) % 512)
    info.size = len(text)
    return info.tobuf(tarfile.PAX_FORMAT) + text + b"\0" * 1024


def test_a_map_of_holes_without_end_is_refused(client):
    codebase = client.codebase({"kept": "x"})
    says = expect(
        grpc.StatusCode.INVALID_ARGUMENT, send, client, codebase, sparse_map(1_000_000), 1 << 20
    )
    assert "header" in says
    assert listing(client, codebase) == ["kept"]
    send(client, codebase, sparse_map(10_000))
    assert listing(client, codebase) == ["sparse"]


def test_merging_keeps_replacing_removes(client):
    codebase = client.codebase({"old/file": "x", "same": "x", "d/e/f": "x"})
    send(client, codebase, tar([("same", "file", "new")]), merge=True)
    assert listing(client, codebase) == ["d", "d/e", "d/e/f", "old", "old/file", "same"]
    send(client, codebase, tar([("x", "file", "new")]), merge=True, remove=[b"d/e", b"gone"])
    assert listing(client, codebase) == ["d", "old", "old/file", "same", "x"]
    send(client, codebase, tar([("y", "file", "1")]), path=b"old")
    assert listing(client, codebase) == ["d", "old", "old/y", "same", "x"]
    send(client, codebase, tar([("same", "file", "only")]))
    assert listing(client, codebase) == ["same"]
    send(client, codebase, tar([]))
    assert listing(client, codebase) == []


def test_a_replaced_tree_is_seen_by_new_sandboxes_and_not_by_old_ones(client):
    codebase = client.codebase({"f": "old", "gone": "x"})
    before = client.sandbox(codebase, [("**/*", "read", 0)], start=False)
    send(client, codebase, tar([("f", "file", "new")]))
    after = client.sandbox(codebase, FULL)
    assert client.out(after, "cat f; ls") == "newf\n"
    gone = client.trees.ReadFile(afpb.ReadFileRequest(sandbox_id=before, path=b"gone"))
    assert b"".join(chunk.data for chunk in gone) == b"x"
    client.destroy(before)
    client.destroy(after)


def test_a_view_is_exported_as_its_agent_sees_it(client):
    codebase = client.codebase(
        {"readme": "r", ".env": "secret", "secrets/key": "secret", "src/app.py": "code"}
    )
    sandbox = client.sandbox(codebase, AGENT_SAFE)
    client.out(sandbox, "mkdir output && echo made > output/made")
    assert names(fetch(client, sandbox_id=sandbox)) == [
        "output", "output/made", "readme", "src", "src/app.py"
    ]
    assert "secrets/key" in names(fetch(client, sandbox_id=sandbox, all=True))
    assert names(fetch(client, sandbox_id=sandbox, path=b"src")) == ["app.py"]
    expect(grpc.StatusCode.NOT_FOUND, fetch, client, sandbox_id=sandbox, path=b"secrets")
    client.destroy(sandbox)


def removed(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        key = "SCHILY.xattr.user.agentfense.removed"
        return {m.name for m in archive if key in m.pax_headers}


def test_a_delta_has_whole_directories_and_names_of_one_file(client):
    codebase = client.codebase({"d/x": "x", "d/sub/y": "y", "d/gone": "g", "a": "a", "m": "m"})
    sandbox = client.sandbox(codebase, FULL, manual=True)
    client.out(sandbox, "mv d e && rm e/gone && echo more >> e/x && mv a e/sub/a && echo n > n1"
               " && ln n1 n2 && mv m k && echo more >> k && mkdir empty")
    data = fetch(client, delta_of=sandbox)
    assert removed(data) == {"d", "a", "m"}
    kept = [name for name in names(data) if name not in removed(data)]
    assert sorted(kept) == sorted(
        ["e", "e/sub", "e/sub/a", "e/sub/y", "e/x", "empty", "k", "n1", "n2"]
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        read = {m.name: archive.extractfile(m).read() for m in archive if m.isreg() and m.size}
        assert read == {
            "e/x": b"xmore\n", "e/sub/y": b"y", "e/sub/a": b"a", "k": b"mmore\n", "n1": b"n\n",
        }
        assert archive.getmember("n2").islnk() and archive.getmember("n2").linkname == "n1"
    client.destroy(sandbox)


def test_names_are_bytes(client):
    codebase = client.codebase()
    odd = ["caf\u00e9", "\udcff\udcfe not utf-8", "with\nnewline", "n" * 255, " "]
    data = tar([(name, "file", name.encode("utf-8", "surrogateescape")) for name in odd],
               fmt=tarfile.GNU_FORMAT)
    send(client, codebase, data)
    data = fetch(client, codebase_id=codebase)
    assert sorted(names(data)) == sorted(odd)
    again = client.codebase()
    send(client, again, data)
    assert sorted(names(fetch(client, codebase_id=again))) == sorted(odd)


def test_sparse_files_cost_no_space_on_their_way_in(client, tmp_path):
    codebase = client.codebase()
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.write(b"begin")
        file.truncate(1 << 30)
    data = subprocess.run(
        ["tar", "-S", "-C", str(tmp_path), "-cf", "-", "sparse"], stdout=subprocess.PIPE, check=True
    ).stdout
    assert len(data) < 100_000
    assert send(client, codebase, data).bytes == 1 << 30
    sandbox = client.sandbox(codebase, FULL)
    assert client.out(sandbox, "stat -c %s sparse; head -c 5 sparse") == "1073741824\nbegin"
    client.destroy(sandbox)


def test_a_cancelled_import_leaves_nothing(client):
    codebase = client.codebase({"kept": "x"})
    data = tar([(f"f{i}", "file", "x" * 1000) for i in range(500)])

    started = threading.Event()

    def messages():
        yield filepb.ImportArchiveRequest(target=filepb.ImportTarget(codebase_id=codebase))
        yield filepb.ImportArchiveRequest(data=data[: len(data) // 2])
        started.wait(30)
        call.cancel()

    call = client.archives.ImportArchive.future(messages())
    started.set()
    with pytest.raises(grpc.FutureCancelledError):
        call.result(60)
    assert listing(client, codebase) == ["kept"]


def test_requests_out_of_order_are_refused(client):
    codebase = client.codebase()
    target = filepb.ImportArchiveRequest(target=filepb.ImportTarget(codebase_id=codebase))
    data = filepb.ImportArchiveRequest(data=b"x")
    for messages in ([], [data], [target, target], [filepb.ImportArchiveRequest()]):
        expect(grpc.StatusCode.INVALID_ARGUMENT, client.archives.ImportArchive, iter(messages))
    sandbox = client.sandbox(codebase, FULL, start=False)
    bad = [{}, {"codebase_id": "x"}, {"delta_of": "sb_0"}, {"delta_of": sandbox, "path": b"d"}]
    for source in bad:
        expect(grpc.StatusCode.INVALID_ARGUMENT, fetch, client, **source)


PLACES = 16  # AF_ARCHIVE_THREADS_MAX


class Stalled:
    """Imports that send a part of an archive and then nothing more."""

    def __init__(self, client, codebase, count):
        self.more = threading.Event()
        part = tar([("a", "file", "x" * 5000)])[:3000]
        target = filepb.ImportTarget(codebase_id=codebase)

        def messages():
            yield filepb.ImportArchiveRequest(target=target)
            yield filepb.ImportArchiveRequest(data=part)
            self.more.wait()

        self.calls = [client.archives.ImportArchive.future(messages()) for _ in range(count)]

    def __enter__(self):
        return self.calls

    def __exit__(self, *exc):
        for call in self.calls:
            call.cancel()
        self.more.set()


def import_threads(daemon):
    """How many imports have their turn."""
    names = pathlib.Path(f"/proc/{daemon.process.pid}/task").glob("*/comm")
    return sum(name.read_text() == "import\n" for name in names)


def test_imports_that_send_nothing_more_give_their_places_to_others(client, daemon):
    others, mine = client.codebase(), client.codebase()
    with Stalled(client, others, PLACES + 5) as stalled:
        eventually(lambda: import_threads(daemon) == PLACES)
        assert not any(call.done() for call in stalled)
        send(client, mine, tar([("b", "file", "data")]))
        ended = [call for call in stalled if call.done()]
        assert ended
        for call in ended:
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "others wait" in call.details()
    assert client.download(mine, "b") == b"data"
    assert listing(client, others) == []


def test_more_imports_than_places_wait_for_their_turn(client, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for i in range(50):
        (tree / f"f{i}").write_bytes(os.urandom(1000))
    codebases = [client.codebase() for _ in range(3 * PLACES)]
    archive = tar([("f", "file", "x")])

    def archives(codebase):
        target = filepb.ImportTarget(codebase_id=codebase, merge=True)
        requests = [
            filepb.ImportArchiveRequest(target=target),
            filepb.ImportArchiveRequest(data=archive),
        ]
        return client.archives.ImportArchive.future(iter(requests))

    def directories(codebase):
        return client.archives.ImportDirectory.future(
            filepb.ImportDirectoryRequest(codebase_id=codebase, path=bytes(tree))
        )

    for kind, files in ((archives, 1), (directories, 50)):
        assert {call.result().files for call in [kind(id_) for id_ in codebases]} == {files}


def test_an_import_that_waits_for_its_turn_can_be_cancelled(client, daemon):
    codebase = client.codebase()
    with Stalled(client, codebase, PLACES):
        eventually(lambda: import_threads(daemon) == PLACES)
        with Stalled(client, codebase, 20) as waiting:
            request = filepb.ImportDirectoryRequest(codebase_id=codebase, path=b"/etc/alternatives")
            waiting.append(client.archives.ImportDirectory.future(request))
        assert all(call.cancelled() for call in waiting)
    send(client, codebase, tar([("b", "file", "data")]))
    assert listing(client, codebase) == ["b"]
