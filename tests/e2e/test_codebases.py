"""CodebaseService as the published clients use it."""

import hashlib

import grpc
import pytest

from harness import afpb, expect, pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def listing(client, codebase_id, path="", recursive=True):
    request = pb.ListFilesRequest(codebase_id=codebase_id, path=path, recursive=recursive)
    return client.codebases.ListFiles(request).files


def test_create_get_list_delete(client):
    made = client.codebases.CreateCodebase(pb.CreateCodebaseRequest(name="n", owner_id="o1"))
    assert made.id.startswith("cb_")
    assert (made.name, made.owner_id, made.size, made.file_count) == ("n", "o1", 0, 0)
    assert made.created_at.seconds > 0
    got = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=made.id))
    assert got == made
    mine = client.codebases.ListCodebases(pb.ListCodebasesRequest(owner_id="o1")).codebases
    assert [c.id for c in mine] == [made.id]
    assert not client.codebases.ListCodebases(pb.ListCodebasesRequest(owner_id="o2")).codebases
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=made.id))
    expect(NOT_FOUND, client.codebases.GetCodebase, pb.GetCodebaseRequest(codebase_id=made.id))


def test_list_pages_with_tokens(client):
    ids = {client.codebase(owner="pager") for _ in range(5)}
    seen, token = [], ""
    while True:
        page = client.codebases.ListCodebases(
            pb.ListCodebasesRequest(owner_id="pager", page_size=2, page_token=token)
        )
        assert len(page.codebases) <= 2
        seen += [c.id for c in page.codebases]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 65536, 65537, 3_000_000])
def test_O4_upload_and_download_keep_every_byte(client, size):
    data = hashlib.shake_128(str(size).encode()).digest(size)
    codebase = client.codebase()
    result = client.upload(codebase, "dir/file.bin", data)
    assert result.size == size
    assert result.checksum == hashlib.md5(data).hexdigest()
    assert (result.codebase_id, result.file_path) == (codebase, "dir/file.bin")
    assert client.download(codebase, "dir/file.bin") == data
    got = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    assert (got.size, got.file_count) == (size, 1)


def test_upload_replaces_a_file(client):
    codebase = client.codebase({"a": "one", "b": "two"})
    client.upload(codebase, "a", "longer than one")
    assert client.download(codebase, "a") == b"longer than one"
    got = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    assert (got.size, got.file_count) == (18, 2)


def test_list_files(client):
    codebase = client.codebase({"src/a.py": "x", "src/lib/b.py": "yy", "README": "zzz"})
    files = {f.path: f for f in listing(client, codebase)}
    assert set(files) == {"README", "src", "src/a.py", "src/lib", "src/lib/b.py"}
    assert files["src"].is_dir and not files["src/a.py"].is_dir
    assert files["src/lib/b.py"].name == "b.py" and files["src/lib/b.py"].size == 2
    assert files["README"].modified_at.seconds > 0
    top = [f.path for f in listing(client, codebase, "/", recursive=False)]
    assert sorted(top) == ["README", "src"]
    assert [f.path for f in listing(client, codebase, "src/lib")] == ["src/lib/b.py"]
    request = pb.ListFilesRequest(codebase_id=codebase, path="nope")
    expect(NOT_FOUND, client.codebases.ListFiles, request)


def test_executables_get_their_bits(client):
    codebase = client.codebase(
        {"tool": "#!/bin/sh\necho ran\n", "elf": b"\x7fELF....", "plain.sh": "echo no\n"}
    )
    sandbox = client.sandbox(codebase)
    modes = client.out(sandbox, "stat -c '%n %a' elf plain.sh tool")
    assert modes.split() == ["elf", "755", "plain.sh", "644", "tool", "755"]
    assert client.out(sandbox, "./tool") == "ran\n"
    client.destroy(sandbox)


def test_views_keep_the_codebase_they_were_made_on(client):
    codebase = client.codebase({"f": "old"})
    request = pb.CreateSandboxRequest(codebase_id=codebase)
    manual = client.sandboxes.CreateSandbox(request).id
    client.upload(codebase, "f", "new")
    tree = client.inspect.Stat(afpb.StatRequest(sandbox_id=manual, path=b"f"))
    assert tree.node.size == 3
    client.destroy(manual)


BAD_PATHS = [
    "",
    "/etc/passwd",
    "a/../../b",
    "..",
    "./a",
    "a//b",
    "a/",
    "x" * 256,
    "d/" * 2500 + "f",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=range(len(BAD_PATHS)))
def test_E7_upload_refuses_a_bad_path(client, path):
    codebase = client.codebase()
    expect(INVALID, client.upload, codebase, path, "data")
    assert not listing(client, codebase)


def test_upload_refuses_a_file_as_a_directory_and_a_directory_as_a_file(client):
    codebase = client.codebase({"d/f": "x"})
    expect(INVALID, client.upload, codebase, "d", "data")
    expect(INVALID, client.upload, codebase, "d/f/g", "data")
    assert client.download(codebase, "d/f") == b"x"


def test_upload_needs_metadata_first_and_once(client):
    codebase = client.codebase()
    expect(INVALID, client.codebases.UploadFiles, iter([]))
    expect(INVALID, client.codebases.UploadFiles, iter([pb.UploadChunk(data=b"x")]))
    expect(INVALID, client.codebases.UploadFiles, iter([pb.UploadChunk()]))
    meta = pb.UploadChunk(
        metadata=pb.UploadChunk.Metadata(codebase_id=codebase, file_path="f", total_size=1)
    )
    expect(INVALID, client.codebases.UploadFiles, iter([meta, meta]))
    assert not listing(client, codebase)


BAD_IDS = ["", "x", "cb_", "cb_../../etc", "sb_" + "0" * 26, "cb_" + "0" * 27, "cb_" + "/" * 26]


@pytest.mark.parametrize("bad", BAD_IDS, ids=range(len(BAD_IDS)))
def test_O5_malformed_codebase_ids_are_refused(client, bad):
    calls = client.codebases
    expect(INVALID, calls.GetCodebase, pb.GetCodebaseRequest(codebase_id=bad))
    expect(INVALID, calls.DeleteCodebase, pb.DeleteCodebaseRequest(codebase_id=bad))
    expect(INVALID, calls.ListFiles, pb.ListFilesRequest(codebase_id=bad))
    expect(INVALID, client.download, bad, "f")
    expect(INVALID, client.upload, bad, "f", "x")


def test_unknown_codebase_ids_are_not_found(client):
    unknown = "cb_" + "0" * 26
    calls = client.codebases
    expect(NOT_FOUND, calls.GetCodebase, pb.GetCodebaseRequest(codebase_id=unknown))
    expect(NOT_FOUND, calls.DeleteCodebase, pb.DeleteCodebaseRequest(codebase_id=unknown))
    expect(NOT_FOUND, client.download, unknown, "f")
    expect(NOT_FOUND, client.upload, unknown, "f", "x")


def test_download_of_what_is_no_file(client):
    codebase = client.codebase({"d/f": "x"})
    expect(NOT_FOUND, client.download, codebase, "d/nope")
    expect(INVALID, client.download, codebase, "d")
    expect(INVALID, client.download, codebase, "../f")


def test_names_must_be_given(client):
    expect(INVALID, client.codebases.CreateCodebase, pb.CreateCodebaseRequest(owner_id="o"))
    long = pb.CreateCodebaseRequest(name="n" * 300, owner_id="o")
    expect(INVALID, client.codebases.CreateCodebase, long)


def test_deleting_a_codebase_leaves_its_sandboxes_working(client):
    codebase = client.codebase({"f": "still here"})
    sandbox = client.sandbox(codebase)
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=codebase))
    assert client.out(sandbox, "cat f") == "still here"
    client.destroy(sandbox)
