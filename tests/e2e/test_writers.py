"""Several writers on one codebase: what one does with names while another does something else.

Sandboxes are manual here: when each is brought onto the head and pushed is the test's to say.
"""

import pytest

from harness import eventually, pb, sbpb

RENAME = """python3 -c '
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), int(sys.argv[3])):
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), sys.argv[1])' """
NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture
def writers(client):
    """Makes a codebase, and writers of it that are destroyed after the test."""
    made = []

    def make(files, count=2):
        codebase = client.codebase(files)
        now = [client.sandbox(codebase, manual=True) for _ in range(count)]
        made.extend(now)
        return codebase, *now

    yield make
    for sandbox in made:
        client.destroy(sandbox)


def commit(client, sandbox):
    return client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))


def rebase(client, sandbox):
    return client.views.Rebase(sbpb.RebaseRequest(sandbox_id=sandbox))


def files(client, codebase):
    request = pb.ListFilesRequest(codebase_id=codebase, path="", recursive=True)
    return {
        f.path: client.download(codebase, f.path).decode()
        for f in client.codebases.ListFiles(request).files
        if not f.is_dir
    }


# ---- no file is lost


@pytest.mark.parametrize(
    "put, there",
    [
        ("ln 1 3", {"1": "1\n", "3": "1\n"}),
        ("python3 -c 'open(\"3\", \"x\").write(\"new\")'", {"1": "1\n", "3": "new"}),
        (RENAME + f"1 3 {NOREPLACE}", {"3": "1\n"}),
        ("mv 1 3", {"3": "1\n"}),
    ],
    ids=["link", "O_EXCL", "NOREPLACE", "mv"],
)
def test_a_file_moved_onto_a_name_that_another_writer_makes_stays(client, writers, put, there):
    codebase, first, last = writers({"1": "1\n", "2": "2\n"})
    client.out(first, "mv 2 3")
    client.out(last, put)
    commit(client, first)
    done = commit(client, last)
    assert done.merged and done.conflicts == 1
    there = {**there, "3.conflict": "2\n"}
    assert files(client, codebase) == there
    rebase(client, first)
    for sandbox in (first, last):
        assert client.out(sandbox, "ls; cat 3.conflict").split() == [*sorted(there), "2"]


def test_a_file_moved_onto_a_name_that_another_writer_links_symbolically_stays(client, writers):
    codebase, first, last = writers({"2": "2\n"})
    client.out(first, "mv 2 3")
    client.out(last, "ln -s x 3")
    commit(client, first)
    assert commit(client, last).conflicts == 1
    assert client.download(codebase, "3.conflict") == b"2\n"
    assert client.out(last, "readlink 3; cat 3.conflict") == "x\n2\n"


def test_exchanges_of_two_writers_lose_nothing(client, writers):
    codebase, first, last = writers({"1": "1\n", "2": "2\n", "3/in": "in\n"})
    client.out(first, RENAME + f"2 3 {EXCHANGE}")
    client.out(last, RENAME + f"1 3 {EXCHANGE}")
    commit(client, first)
    assert commit(client, last).merged
    assert files(client, codebase) == {"3": "1\n", "3.conflict": "2\n", "1/in": "in\n"}


def test_extended_attributes_of_two_writers_are_both_there(client, writers):
    set_one = "python3 -c 'import os, sys; os.setxattr(*sys.argv[1:3], sys.argv[3].encode())' "
    codebase, first, last = writers({"f": "x", "d/g": "x"})
    for path in ("f", "d"):
        client.out(first, set_one + f"{path} user.first 1")
        client.out(last, set_one + f"{path} user.last 2")
    commit(client, first)
    commit(client, last)
    rebase(client, first)
    for sandbox in (first, last):
        for path in ("f", "d"):
            assert client.out(
                sandbox, f"python3 -c 'import os; print(sorted(os.listxattr(\"{path}\")))'"
            ) == "['user.first', 'user.last']\n"


# ---- directories that others have moved

RENAME_TO = "python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "


def test_the_first_call_on_a_directory_that_another_writer_moved_may_be_a_rename(client, writers):
    codebase, first, last = writers({"p/d/f": "x", "q/k": "", "r/k": ""})
    client.out(last, "ls -R")  # the kernel has it under its old name
    client.out(first, "mv p/d q/d")
    commit(client, first)
    rebase(client, last)
    assert client.out(last, RENAME_TO + "q/d r/d; cat r/d/f; ls p q") == "xp:\n\nq:\nk\n"


def test_a_directory_that_another_writer_moved_is_exchanged(client, writers):
    codebase, first, last = writers({"p/k": "", "r/d/f": "x", "e/g": "y"})
    client.out(last, "ls -R")
    client.out(first, "mv r/d p/d; mv e r/e")
    commit(client, first)
    rebase(client, last)
    client.out(last, RENAME + f"p/d r/e {EXCHANGE}")
    assert client.out(last, "cat p/d/g r/e/f") == "yx"


def test_who_stands_in_a_directory_that_another_writer_moves_stands_in_it_there(client, writers):
    codebase, first, last = writers({"p/d/e/f": "x", "q/k": "", "r/k": ""})
    shell = client.session(last)
    client.turn(shell, "cd p/d/e; exec 9<f")
    for source, to in (("p/d", "q/d"), ("q/d", "r/d"), ("r/d", "top")):
        client.out(first, f"mv {source} {to}")
        commit(client, first)
        rebase(client, last)
        assert client.turn(shell, "/bin/pwd; cat f; touch g; rm g") == f"/workspace/{to}/e\nx"
    client.out(first, "mv top q/d")
    commit(client, first)
    rebase(client, last)
    assert client.out(last, RENAME_TO + "q/d r/moved; cat r/moved/e/f") == "x"
    assert client.turn(shell, "/bin/pwd; cat f") == "/workspace/r/moved/e\nx"


def test_a_directory_that_others_move_above_its_parent_is_walked_from_within(client, writers):
    codebase, first, last = writers({"a/b/f": "x"})
    shell = client.session(last)
    client.turn(shell, "cd a/b; ls")
    client.out(first, "mv a/b b; mv a b/a; touch b/a/new")
    commit(client, first)
    rebase(client, last)
    assert client.turn(shell, "ls a; stat -c %n a/new; /bin/pwd; cat f") == (
        "new\na/new\n/workspace/b\nx"
    )


NEIGHBOUR = """
import os, threading
def go(i):
    for name in ("a", "b"):
        os.makedirs(f"n{i}/{name}")
    open(f"n{i}/a/f", "w").close()
    while True:
        os.rename(f"n{i}/a/f", f"n{i}/b/f")
        os.rename(f"n{i}/b/f", f"n{i}/a/f")
for i in range(4):
    threading.Thread(target=go, args=(i,)).start()
open("/tmp/up", "w").close()
"""


@pytest.fixture
def neighbour(client):
    """A sandbox that renames all the time: all of one mount share the kernel's lock for that."""
    sandbox = client.sandbox(client.codebase({"rename.py": NEIGHBOUR}), manual=True)
    call = client.sandboxes.Exec.future(
        pb.ExecRequest(sandbox_id=sandbox, command="exec python3 rename.py")
    )
    eventually(lambda: client.exec(sandbox, "test -e /tmp/up").exit_code == 0)
    yield sandbox
    call.cancel()
    client.destroy(sandbox)


def test_directories_that_another_writer_moved_are_walked_while_a_neighbour_renames(
    client, writers, neighbour
):
    count = 50
    codebase, first, last = writers({f"p/d{i}/e/f": "x" for i in range(count)} | {"q/k": ""})
    for source, target in (("p", "q"), ("q", "p")) * 2:
        client.out(last, "ls -R")
        client.out(first, f"mv {source}/d* {target}/")
        commit(client, first)
        rebase(client, last)
        assert client.out(last, f"ls -R {target} | grep -c f$") == f"{count}\n"
        assert client.out(last, f"cat {target}/d*/e/f") == "x" * count


def test_who_stands_in_moved_directories_goes_on_while_a_neighbour_renames(
    client, writers, neighbour
):
    codebase, first, last = writers({"p/d/f": "x", "q/k": ""})
    shell = client.session(last)
    client.turn(shell, "cd p/d")
    for source, target in (("p", "q"), ("q", "p")) * 5:
        client.out(first, f"mv {source}/d {target}/d")
        commit(client, first)
        rebase(client, last)
        # The daemon tries until it finds the lock free; nobody else names the directory so far, and
        # until then pwd may find no name for it.
        path = f"/workspace/{target}/d\n"
        eventually(lambda: client.turn(shell, "/bin/pwd || true") == path)  # noqa: B023
        assert client.turn(shell, f"cat f /workspace/{target}/d/f") == "xx"
