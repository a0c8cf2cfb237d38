"""What is open or mapped stays as it was, whoever replaces it, for as long as it is open.

A process of one sandbox holds files; another sandbox replaces them in commits that each become a
layer; the layers are merged, garbage is collected, the page cache is dropped.
"""

import hashlib
import os

import pytest

from harness import READ_ONLY, FULL, eventually, monpb, pb, sbpb
from processes import Served, attach, start, wait, write

COMMITS = 6
LARGE = os.urandom(300_000)
BASE = {
    "in_place": b"old in place\n",
    "by_rename": b"old by rename\n",
    "removed": b"old removed\n",
    "dir/below": b"old below\n",
    "large": LARGE,
    "large_removed": LARGE[::-1],
}
HOLDER = """
import hashlib, mmap, os, sys
held = []
for name in sys.argv[1:]:
    fd = os.open(name, os.O_RDONLY)
    held.append((name, fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ)))
def digest(data):
    return hashlib.sha256(data).hexdigest()
def tell(name, fd, mapped):
    mapped.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    st = os.fstat(fd)
    by_read = digest(os.pread(fd, st.st_size, 0))
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    print(name, by_read, digest(mapped[:]), st.st_ino)
for line in sys.stdin:
    for one in held:
        tell(*one)
    print("told", flush=True)
"""


class Holder(Served):
    """A background process that holds files open and mapped, and says what it reads in them."""

    def __init__(self, client, sandbox, names):
        super().__init__(client, sandbox, ["python3", "-c", HOLDER, *names], end="told\n")

    def tell(self):
        """{name: (SHA-256 by read, by map, st_ino)}, from the disk and not from the page cache."""
        lines = self.ask("tell").splitlines()
        return {name: tuple(rest) for name, *rest in (line.split() for line in lines)}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def blobs(client):
    client.monitor.CollectGarbage(monpb.CollectGarbageRequest())
    return sum(b.bytes for b in client.monitor.ListBlobs(monpb.ListBlobsRequest()))


def replace(client, writer, number):
    """One commit of another writer's."""
    client.out(
        writer,
        f"echo new {number} > in_place; echo new {number} > tmp; mv tmp by_rename;"
        f"head -c 400000 /dev/zero > large; rm -rf removed large_removed dir",
    )


@pytest.mark.parametrize("rules", [READ_ONLY, FULL], ids=["shared", "private"])
def test_open_files_survive_commits_merges_and_garbage_collection(client, rules):
    before = blobs(client)
    codebase = client.codebase(BASE)
    made = [client.sandbox(codebase, rules), client.sandbox(codebase, FULL)]
    reader, writer = made
    old = client.layers(codebase)
    holder = Holder(client, reader, BASE)
    first = holder.tell()
    assert {n: v[:2] for n, v in first.items()} == {n: (digest(d),) * 2 for n, d in BASE.items()}
    between = []
    for number in range(COMMITS):
        replace(client, writer, number)
        between.append(client.sandbox(codebase, FULL, start=False))
    assert holder.tell() == first
    # The reader is brought onto the head; then nobody needs the old layers.
    listed = client.out(reader, "cat in_place; ls")
    assert listed == f"new {COMMITS - 1}\nby_rename\nin_place\nlarge\n"
    for sandbox in between:
        client.destroy(sandbox)
    eventually(lambda: not old & client.layers(codebase))
    client.monitor.CollectGarbage(monpb.CollectGarbageRequest())
    now = holder.tell()
    if rules is FULL:  # written in place, as by two processes on one disk
        for name, new in ("in_place", b"new %d\n" % (COMMITS - 1)), ("large", bytes(400_000)):
            by_read, _, ino = now.pop(name)
            assert (by_read, ino) == (digest(new), first.pop(name)[2])
    assert now == first
    client.out(reader, "true")
    assert {n: v for n, v in holder.tell().items() if n in first} == first
    # What was held alone is given back once it is closed.
    held = sum(len(BASE[n]) for n in ("large", "large_removed") if n in first)
    full = blobs(client)
    holder.close()
    eventually(lambda: blobs(client) <= full - held)
    for sandbox in made:
        client.destroy(sandbox)
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=codebase))
    eventually(lambda: blobs(client) == before)


def test_a_directory_that_others_removed_stays_the_working_directory(client):
    codebase = client.codebase({"dir/sub/file": b"text\n", "keep": b"\n"})
    stays, writer = client.sandbox(codebase, FULL), client.sandbox(codebase, FULL)
    old = client.layers(codebase)
    process = start(
        client, stays, "cd dir/sub && exec 3<file && read go && stat -c %h . && cat <&3", stdin=True
    )
    client.out(stays, "true")
    between = []
    client.out(writer, "rm -rf dir")
    for number in range(COMMITS):
        client.out(writer, f"echo {number} > keep")
        between.append(client.sandbox(codebase, FULL, start=False))
    assert client.out(stays, "ls") == "keep\n"
    for sandbox in between:
        client.destroy(sandbox)
    eventually(lambda: not old & client.layers(codebase))
    client.monitor.CollectGarbage(monpb.CollectGarbageRequest())
    client.monitor.DropCaches(monpb.DropCachesRequest())
    write(client, process, b"go\n")
    ended = wait(client, process)
    out, err, _, _ = attach(client, process)
    assert (out, err, ended.exit.exit_code) == (b"0\ntext\n", b"", 0)
    for sandbox in (stays, writer):
        client.destroy(sandbox)


def test_a_rollback_takes_no_open_file_away(client):
    codebase = client.codebase({"keep": b"\n"})
    sandbox = client.sandbox(codebase, FULL, manual=True)
    client.out(sandbox, "head -c 300000 /dev/zero > made")
    holder = Holder(client, sandbox, ["made"])
    first = holder.tell()
    client.views.Rollback(sbpb.RollbackRequest(sandbox_id=sandbox))
    assert client.out(sandbox, "ls") == "keep\n"
    client.monitor.CollectGarbage(monpb.CollectGarbageRequest())
    assert holder.tell() == first
    full = blobs(client)
    holder.close()
    eventually(lambda: blobs(client) <= full - 300_000)
    client.destroy(sandbox)


DIRFD = """
import os, sys
fd = os.open("made/sub", os.O_RDONLY | os.O_DIRECTORY)
print(os.fstat(fd).st_ino, flush=True)
sys.stdin.readline()
os.close(os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
print(os.fstat(fd).st_ino, os.fstat(fd).st_nlink, *sorted(os.listdir(fd)), flush=True)
"""


def test_a_directory_that_two_writers_made_stays_the_working_directory_of_both(client):
    codebase = client.codebase({"keep": b"\n"})
    other = client.sandbox(codebase, FULL)
    sandbox = client.sandbox(codebase, FULL, manual=True)
    shell = client.session(sandbox)

    def turn(command):
        return client.turn(shell, command)

    where = turn("mkdir -p made/sub && echo mine > made/sub/mine && cd made/sub && /bin/pwd")
    holder = start(client, sandbox, ["python3", "-c", DIRFD], stdin=True)
    eventually(lambda: attach(client, holder, follow=False)[0].endswith(b"\n"))
    client.out(other, "mkdir -p made/sub; echo theirs > made/sub/theirs")
    assert client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox)).conflicts == 0
    assert turn("/bin/pwd; ls; cat theirs") == where + "mine\ntheirs\ntheirs\n"
    assert turn("echo more > more; cd ..; /bin/pwd; ls sub; cd sub") == (
        where.replace("/sub\n", "\n") + "mine\nmore\ntheirs\n"
    )
    write(client, holder, b"go\n")
    assert wait(client, holder).exit.exit_code == 0
    ino, ino_then, links, *names = attach(client, holder)[0].split()
    assert (ino_then, links, names) == (ino, b"1", [b"late", b"mine", b"more", b"theirs"])
    assert turn("stat -c %i . ../sub /workspace/made/sub").split() == [ino.decode()] * 3
    client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))
    assert client.out(other, "ls made/sub") == "late\nmine\nmore\ntheirs\n"
    for made in (sandbox, other):
        client.destroy(made)


@pytest.fixture
def twice(client):
    """A session stands in a directory of its own that became one with one that others moved there.

    The session's kernel has both: its own, as working directory, and the other one by its path.
    """
    made = []

    def make(rules):
        codebase = client.codebase({"b/f": b"old\n", "b/s": b"secret\n", "keep": b"\n"})
        other = client.sandbox(codebase, FULL)
        sandbox = client.sandbox(codebase, rules, manual=True)
        made.extend((other, sandbox))
        shell = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox)).id

        def turn(command):
            request = pb.SessionExecRequest(session_id=shell, command=command)
            result = client.sandboxes.SessionExec(request)
            return result.stdout + result.stderr

        before = turn("cat b/f; cat b/none 2>/dev/null; mkdir x; cd x; cat late 2>/dev/null; ls")
        assert before == "old\n"
        turn("echo own > own")
        client.out(other, "mv b x")
        assert client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox)).conflicts == 0
        assert turn("ls; cat f s own") == "f\nown\ns\nold\nsecret\nown\n"
        assert client.out(sandbox, "cd x; ls; cat f s own") == "f\nown\ns\nold\nsecret\nown\n"
        return other, sandbox, turn

    yield make
    for sandbox in made:
        client.destroy(sandbox)


def test_a_directory_that_a_kernel_has_twice_shows_the_same_by_both(client, twice):
    _, sandbox, turn = twice(FULL)
    assert "No such file" in turn("cat late")
    client.out(sandbox, "echo by path > x/late; echo more >> x/f; rm x/own; mkdir x/sub")
    assert turn("cat late f; ls") == "by path\nold\nmore\nf\nlate\ns\nsub\n"
    assert turn("echo by cwd > late; rm f; mv s t; echo below > sub/g") == ""
    assert client.out(sandbox, "cd x; cat late sub/g; ls") == "by cwd\nbelow\nlate\nsub\nt\n"
    assert turn("rm -r sub; echo none > none; ls") == "late\nnone\nt\n"
    assert client.out(sandbox, "cd x; cat none; ls; rm *; rmdir ../x") == "none\nlate\nnone\nt\n"
    assert turn("ls; cat none") == "cat: none: No such file or directory\n"


def test_a_directory_that_a_kernel_has_twice_follows_a_rebase(client, twice):
    other, sandbox, turn = twice(FULL)
    assert turn("cat f own; ls") == "old\nown\nf\nown\ns\n"
    assert "No such file" in turn("cat late")
    client.out(other, "cd x; echo new > t; mv t f; echo late > late; rm own")
    client.views.Rebase(sbpb.RebaseRequest(sandbox_id=sandbox))
    assert turn("ls; cat f late") == "f\nlate\ns\nnew\nlate\n"
    assert client.out(sandbox, "cd x; ls; cat f late") == "f\nlate\ns\nnew\nlate\n"


def test_P7_rules_that_change_hold_in_a_directory_that_a_kernel_has_twice(client, twice):
    rules = READ_ONLY + [("/x/**", "write", 5), ("/x/s", "read", 6)]
    _, sandbox, turn = twice(rules)
    closed = rules + [("/x/s", "none", 7)]
    client.set_rules(sandbox, closed)
    assert turn("ls") == "f\nown\n"
    assert "No such file" in turn("cat s")
    assert client.out(sandbox, "ls x") == "f\nown\n"
