"""Files of a sandbox as its agent sees them, archives, and directories of the daemon's host."""

import io
import os
import tarfile

import agentfense as af
import pytest

RULES = [
    {"pattern": "**/*", "permission": "read"},
    {"pattern": "/out/**", "permission": "write", "priority": 10},
    {"pattern": "**/hidden", "permission": "none", "priority": 20},
    {"pattern": "**/shown", "permission": "view", "priority": 20},
]


@pytest.fixture
def tree(project):
    """A project with something to hide."""
    (project / "out").mkdir()
    (project / "hidden").write_text("secret")
    (project / "shown").write_text("name only")
    os.link(project / "README.md", project / "src/again")
    (project / "soft").symlink_to("README.md")
    return project


@pytest.fixture
def sandbox(api, tree, nothing_left):
    """A running sandbox with rules of several levels."""
    with api.sandbox("from_local", tree, preset=None, permissions=RULES) as made:
        yield made


def test_files_are_read_and_written_as_the_agent_would(sandbox):
    files = sandbox.files
    assert files.read("README.md") == b"# project\n"
    assert files.read("/workspace/README.md", offset=2, length=4) == b"proj"
    entry = files.write("out/new", "text", mode=0o600)
    assert (entry.path, entry.kind, entry.size, entry.mode) == ("out/new", "regular", 4, 0o600)
    assert sandbox.run("stat -c %a out/new; cat out/new").stdout == "600\ntext"
    data = os.urandom(3_000_000)
    files.write(b"out/big\xff", data)
    assert files.read(b"out/big\xff") == data
    assert b"".join(files.stream(b"out/big\xff")) == data
    assert files.make_directory("out/d").mode == 0o755
    assert files.rename("out/new", "/workspace/out/d/moved").path == "out/d/moved"
    assert files.link("out/d/soft", "moved").symlink_target == "moved"
    assert files.link("out/d/hard", "out/d/moved", hard=True).size == 4
    assert sandbox.run("stat -c %h out/d/moved; cat out/d/soft").stdout == "2\ntext"
    with pytest.raises(af.SandboxError):
        files.link("out/d/soft", "again")
    assert files.remove("out/d", recursive=True) == 4
    assert [e.path for e in files.list("out")] == ["out/big\udcff"]


def test_levels_kinds_and_targets_are_told(sandbox):
    found = {e.path: e for e in sandbox.files.list(recursive=True)}
    assert "hidden" not in found and found["src"].kind == af.FileKind.DIRECTORY
    assert found["shown"].level == af.Permission.VIEW
    assert found["README.md"].level == af.Permission.READ
    assert found["out"].level == af.Permission.WRITE
    assert found["soft"].symlink_target == "README.md"
    assert sandbox.files.stat("src/again").size == 10


def test_rules_hold(sandbox):
    files = sandbox.files
    with pytest.raises(af.FileNotFoundError):
        files.read("hidden")
    with pytest.raises(af.PermissionDeniedError):
        files.read("shown")
    with pytest.raises(af.PermissionDeniedError):
        files.write("README.md", "no")
    with pytest.raises(af.PermissionDeniedError):
        files.remove("src/app.py")
    with pytest.raises(af.FileNotFoundError):
        files.stat("nothing")


def test_bad_input_is_refused(client, sandbox):
    files = sandbox.files
    with pytest.raises(af.SandboxError):
        files.read("../etc/passwd")
    with pytest.raises(af.SandboxError):
        files.write("out/a\0b", "x")
    with pytest.raises(af.InvalidConfigurationError):
        files.write("out/x", "x", mode=0o4755)
    with pytest.raises(af.InvalidConfigurationError):
        files.read("README.md", length=0)
    with pytest.raises(TypeError):
        files.write("out/x", 7)
    with pytest.raises(af.SandboxNotFoundError):
        client.files("sb_00000000000000000000000000").stat("x")
    sandbox.stop()
    with pytest.raises(af.SandboxNotRunningError):
        files.read("README.md")
    assert "README.md" in [e.path for e in files.list()], "a list needs no running sandbox"


@pytest.fixture
def codebase(client):
    """An empty codebase."""
    made = client.create_codebase("files", "tester")
    yield made
    client.delete_codebase(made.id)


def names(pieces):
    """The names in an archive."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        return sorted(member.name.rstrip("/") for member in archive.getmembers())


def test_archives_go_in_and_out(client, codebase, tree):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tree, arcname=".")
    packed.seek(0)
    result = client.import_archive(codebase.id, packed)
    assert (result.files, result.hard_links, result.symlinks) == (4, 1, 1)
    everything = names(client.export_archive(codebase_id=codebase.id))
    assert "src/again" in everything and "hidden" in everything
    plain = b"".join(client.export_archive(codebase_id=codebase.id, path="src"))
    pieces = (plain[at : at + 1000] for at in range(0, len(plain), 1000))
    merged = client.import_archive(codebase.id, pieces, path="copy", merge=True, remove=["soft"])
    assert merged.files == 2
    after = {e.path for e in client.iter_files(codebase.id, recursive=True)}
    assert {"copy/app.py", "src/app.py"} <= after and "soft" not in after
    zstd = b"".join(client.export_archive(codebase_id=codebase.id, zstd=True))
    assert zstd[:4] == b"\x28\xb5\x2f\xfd"


def test_what_an_archive_shows_of_a_sandbox(client, sandbox):
    assert "hidden" not in names(client.export_archive(sandbox_id=sandbox.id))
    assert "hidden" in names(client.export_archive(sandbox_id=sandbox.id, everything=True))
    client.set_commit_policy(sandbox.id, "manual")
    sandbox.run("echo new > out/new")
    assert "out/new" in names(client.export_archive(delta_of=sandbox.id))


def test_bad_archives_are_refused_as_a_whole(client, codebase):
    client.upload_file(codebase.id, "kept", b"x")
    with pytest.raises(af.UploadError):
        client.import_archive(codebase.id, b"this is no archive" * 100)
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../out"), io.BytesIO())
    with pytest.raises(af.UploadError):
        client.import_archive(codebase.id, evil.getvalue())
    with pytest.raises(TypeError):
        client.import_archive(codebase.id, "text")
    with pytest.raises(af.InvalidConfigurationError):
        client.export_archive()
    with pytest.raises(af.InvalidConfigurationError):
        client.export_archive(codebase_id=codebase.id, delta_of="sb_x")
    with pytest.raises(af.CodebaseNotFoundError):
        list(client.export_archive(codebase_id="cb_00000000000000000000000000"))
    assert [f.path for f in client.list_files(codebase.id)] == ["kept"]


def test_a_directory_of_the_daemons_host(client, codebase, tree):
    (tree / ".gitignore").write_text("shown\n")
    result = client.import_directory(codebase.id, tree, exclude=["hidden"])
    assert (result.files, result.hard_links) == (3, 1)
    assert "src/again" in {e.path for e in client.iter_files(codebase.id, recursive=True)}
    with pytest.raises(af.SandboxError):
        client.import_directory(codebase.id, tree / "nothing")
    with pytest.raises(TypeError):
        client.import_directory(codebase.id, tree, exclude="hidden")
