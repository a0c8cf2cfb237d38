"""The view as a file system: the D and B cases over the real mount."""

import hashlib
import os

import pytest

from harness import FULL, afpb, pb

BASE = {f"dir/sub/f{i}": f"base {i}\n" for i in range(20)} | {
    "top": "top\n",
    "dir/a": "a\n",
    "big": hashlib.shake_128(b"big").digest(5_000_000),
}


@pytest.fixture(scope="module")
def codebase(client):
    """A codebase with a small tree and one large file."""
    return client.codebase(BASE)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(rules=FULL):
        made.append(client.sandbox(codebase, rules, manual=True))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


def diff(client, sandbox):
    """{path: change name} of a view."""
    entries = client.inspect.Diff(afpb.DiffRequest(sandbox_id=sandbox))
    name = afpb.DiffEntry.Change.Name
    return {e.path.decode(errors="surrogateescape"): name(e.change)[7:] for e in entries}


def test_reading_changes_nothing(client, make):
    sandbox = make()
    client.out(sandbox, "find . -type f -exec cat {} + | md5sum")
    assert diff(client, sandbox) == {}


def test_large_file_reads_back_whole(client, make):
    sandbox = make()
    assert client.out(sandbox, "md5sum < big").split()[0] == hashlib.md5(BASE["big"]).hexdigest()


def test_copy_up_keeps_what_is_not_written(client, make):
    sandbox = make()
    script = "printf XX | dd of=big bs=1 seek=1000000 conv=notrunc status=none; md5sum < big"
    want = bytearray(BASE["big"])
    want[1000000:1000002] = b"XX"
    assert client.out(sandbox, script).split()[0] == hashlib.md5(want).hexdigest()
    assert client.download(client_codebase(client, sandbox), "big") == BASE["big"]
    assert diff(client, sandbox) == {"big": "MODIFIED"}


def client_codebase(client, sandbox):
    return client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox)).codebase_id


def test_D3_rm_rf_of_a_base_directory_and_rmdir_of_a_full_one(client, make):
    sandbox = make()
    result = client.exec(sandbox, "rmdir dir")
    assert "not empty" in result.stderr
    client.out(sandbox, "rm -rf dir")
    assert client.out(sandbox, "ls").split() == ["big", "top"]
    assert diff(client, sandbox) == {"dir": "DELETED"}


def test_D4_a_directory_deleted_and_made_again_is_empty(client, make):
    sandbox = make()
    client.out(sandbox, "rm -rf dir; mkdir dir")
    assert client.out(sandbox, "ls -A dir") == ""
    client.out(sandbox, "mkdir dir/sub && ls -A dir/sub")


def test_D5_B7_renaming_a_base_directory_moves_everything(client, make):
    sandbox = make()
    client.out(sandbox, "echo new > dir/sub/new; mv dir moved")
    names = client.out(sandbox, "ls moved/sub").split()
    assert sorted(names) == sorted(["new"] + [f"f{i}" for i in range(20)])
    assert client.out(sandbox, "cat moved/sub/f3") == "base 3\n"
    assert client.exec(sandbox, "ls dir").exit_code != 0
    changes = diff(client, sandbox)
    assert changes["moved"] == "RENAMED" and changes["moved/sub/new"] == "ADDED"


def test_D7_noreplace_and_exchange(client, make):
    sandbox = make()
    script = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename2(a, b, flags):
    rc = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    return 0 if rc == 0 else ctypes.get_errno()
print(rename2("top", "big", 1), rename2("top", "free", 1), rename2("free", "dir/a", 2))
print(open("free").read(), open("dir/a").read(), os.path.exists("top"))
print(rename2("free", "dir", 2), os.path.isdir("free"), rename2("free", "nope", 2))
"""
    out = client.out(sandbox, "python3 -", stdin=script)
    assert out.split() == ["17", "0", "0", "a", "top", "False", "0", "True", "2"]


def test_B2_two_sandboxes_never_mix(client, make):
    first, second = make(), make()
    client.out(first, "echo first > top; echo 1 > own; rm dir/a")
    client.out(second, "echo second > top; echo 2 > own")
    assert client.out(first, "cat top own") == "first\n1\n"
    assert client.out(second, "cat top own dir/a") == "second\n2\na\n"
    third = make()
    assert client.out(third, "cat top dir/a; ls") == "top\na\nbig\ndir\ntop\n"


def test_B4_S2_removing_while_reading_removes_all(client, make):
    sandbox = make()
    client.out(sandbox, "mkdir many && cd many && seq 3000 | xargs touch && ls | wc -l")
    script = """
import os
for entry in os.scandir("many"):
    os.unlink(entry.path)
print(len(os.listdir("many")))
"""
    assert client.out(sandbox, "python3 -", stdin=script) == "0\n"
    client.out(
        sandbox, "cd many && seq 3000 | xargs touch && cd .. && rm -rf many && test ! -e many"
    )


def test_B5_a_removed_name_never_comes_back(client, make):
    sandbox = make()
    client.out(sandbox, "mkdir d; echo 1 > d/tmp; rm d/tmp; mkdir x; echo hi > x/a")
    assert client.exec(sandbox, "ls d/tmp").exit_code != 0
    assert client.out(sandbox, "ls -A d") == ""


def test_B6_a_deleted_base_name_can_be_any_kind_of_object(client, make):
    sandbox = make()
    client.out(sandbox, "rm top dir/a && ! ls top && mkdir top && ln -s target dir/a")
    assert client.out(sandbox, "stat -c %F top; readlink dir/a") == "directory\ntarget\n"
    client.out(sandbox, "rmdir top && mkfifo top && test -p top && rm top && echo f > top")
    assert client.out(sandbox, "cat top") == "f\n"


def test_B8_names_are_bytes(client, make):
    sandbox = make()
    script = r"""
import os
names = [b"n" * 255, b"\xff\xfe", b"with\nnewline", b" ", b"-rf", b"*", "ü".encode() * 127]
for name in names:
    open(name, "w").write("x")
assert set(names) <= set(os.listdir(b".")), os.listdir(b".")
for name in names:
    assert open(name).read() == "x"
    os.rename(name, b"moved"); os.rename(b"moved", name); os.unlink(name)
try:
    open(b"n" * 256, "w")
except OSError as error:
    print(error.errno)
"""
    assert client.out(sandbox, "python3 -", stdin=script) == "36\n"


def test_E2_no_name_is_magic(client, make):
    sandbox = make()
    client.out(sandbox, "touch .wh.top .wh..wh..opq dir/.wh.a .agentfense; mkdir dir/.wh.sub")
    assert client.out(sandbox, "cat top dir/a") == "top\na\n"
    assert ".wh.top" in client.out(sandbox, "ls -A")


def test_E1_E4_symlinks_lead_nowhere_on_the_host(client, make, tmp_path):
    sandbox = make()
    victim = tmp_path / "victim"
    victim.mkdir()
    client.out(sandbox, f"ln -s {victim} out; mv out out2; ln -s /etc/cron.d cron")
    assert client.exec(sandbox, "echo x > out2/evil").exit_code != 0
    assert client.exec(sandbox, "echo x > cron/evil").exit_code != 0
    assert not list(victim.iterdir())
    assert client.out(sandbox, "readlink out2") == f"{victim}\n"


def test_D8_inode_numbers_survive_copy_up_and_rename(client, make):
    sandbox = make()
    script = "stat -c %i dir/a; echo x >> dir/a; stat -c %i dir/a; mv dir/a z; stat -c %i z"
    assert len(set(client.out(sandbox, script).split())) == 1


def test_S1_times_modes_truncate_append_and_unlinked_files(client, make):
    sandbox = make()
    script = r"""
import os
os.utime("top", ns=(123456789012345678, 987654321098765432))
assert os.stat("top").st_mtime_ns == 987654321098765432
os.chmod("top", 0o750); assert os.stat("top").st_mode & 0o7777 == 0o750
os.chmod("dir", 0o700); assert os.stat("dir").st_mode & 0o7777 == 0o700
f = os.open("new", os.O_CREAT | os.O_RDWR | os.O_APPEND)
for i in range(1000): os.write(f, b"0123456789")
assert os.fstat(f).st_size == 10000
os.unlink("new"); assert os.pread(f, 10, 9990) == b"0123456789"
os.write(f, b"more"); assert os.fstat(f).st_size == 10004; os.fsync(f); os.close(f)
assert not os.path.exists("new")
os.truncate("big", 10); os.truncate("big", 100)
assert open("big", "rb").read()[10:] == bytes(90)
f = os.open("sparse", os.O_CREAT | os.O_RDWR); os.pwrite(f, b"end", 1 << 30)
assert os.fstat(f).st_size == (1 << 30) + 3 and os.pread(f, 3, 1 << 29) == bytes(3)
assert os.pread(f, 9, 1 << 30) == b"end"; os.close(f)
f = os.open("top", os.O_WRONLY | os.O_TRUNC); os.close(f); assert os.stat("top").st_size == 0
s = os.statvfs("."); assert s.f_namemax == 255 and s.f_blocks > 0
d = os.open(".", os.O_RDONLY); os.fsync(d)
try: os.rename("dir", "dir/sub/inside"); assert False
except OSError as error: assert error.errno == 22
print("ok")
"""
    assert client.out(sandbox, "python3 -", stdin=script) == "ok\n"


def test_mmap_shared_stores_are_written(client, make):
    sandbox = make()
    script = r"""
import mmap
with open("big", "r+b") as f:
    m = mmap.mmap(f.fileno(), 0); m[4096:4100] = b"MMAP"; m.flush(); m.close()
with open("big", "rb") as f:
    f.seek(4096); print(f.read(4).decode())
"""
    assert client.out(sandbox, "python3 -", stdin=script) == "MMAP\n"
    assert diff(client, sandbox) == {"big": "MODIFIED"}


def test_S2_a_large_directory_lists_completely(client, make):
    sandbox = make()
    script = r"""
import os
os.mkdir("l")
for i in range(20000): os.mknod(f"l/{i}")
assert sorted(map(int, os.listdir("l"))) == list(range(20000))
print("ok")
"""
    assert client.out(sandbox, "python3 -", stdin=script, timeout=120) == "ok\n"


def test_a_small_project_builds(client, make):
    sandbox = make()
    client.out(sandbox, "printf 'int main(void){return 7;}' > m.c")
    if client.exec(sandbox, "command -v cc").exit_code != 0:
        pytest.skip("no C compiler on this machine's /usr")
    assert client.exec(sandbox, "cc -o m m.c && ./m").exit_code == 7


def test_the_top_of_the_mount_is_for_root_alone(daemon, client, make):
    sandbox = make()
    assert sandbox in os.listdir(daemon.mount)
    info = os.stat(daemon.mount)
    assert info.st_uid == 0 and info.st_mode & 0o077 == 0
