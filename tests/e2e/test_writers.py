"""Several writers on one codebase: what one does with names while another does something else.

Sandboxes are manual here: when each is brought onto the head and pushed is the test's to say.
"""

import pytest

from harness import pb, sbpb

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
