"""Commands and codebases: what is committed when, what a view sees, what survives.

Sandboxes of sandbox.v1 have the policy on_exec: brought onto the head before a command, pushed
after the last running one. The other policies are set over agentfense.v1.
"""

import threading

import grpc
import pytest

from harness import expect, eventually, pb, sbpb
from processes import Run, attach, start, wait, write

BASE = {"a": "a0\n", "dir/x": "x0\n", "dir/y": "y0\n", "dir/sub/z": "z0\n"}
READ_ONLY = [("**/*", pb.PERMISSION_READ, 0)]


@pytest.fixture
def codebase(client):
    """A codebase of its own for each test."""
    return client.codebase(BASE)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(*args, **fields):
        made.append(client.sandbox(codebase, *args, **fields))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


def files(client, codebase):
    """The paths of all files."""
    request = pb.ListFilesRequest(codebase_id=codebase, path="", recursive=True)
    return {f.path for f in client.codebases.ListFiles(request).files if not f.is_dir}


def counters(client, codebase):
    got = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    return got.file_count, got.size


def recount(client, codebase):
    request = pb.ListFilesRequest(codebase_id=codebase, path="", recursive=True)
    sizes = [f.size for f in client.codebases.ListFiles(request).files if not f.is_dir]
    return len(sizes), sum(sizes)


# ---- on_exec


def test_a_command_s_output_is_in_the_next_download(client, codebase, make):
    sandbox = make()
    client.out(sandbox, "echo hi > out.txt; rm a; echo more >> dir/x")
    assert client.download(codebase, "out.txt") == b"hi\n"
    assert client.download(codebase, "dir/x") == b"x0\nmore\n"
    assert files(client, codebase) == {"out.txt", "dir/x", "dir/y", "dir/sub/z"}
    assert counters(client, codebase) == recount(client, codebase)


def test_an_upload_is_seen_by_the_next_command(client, codebase, make):
    sandbox = make()
    assert client.exec(sandbox, "ls new dir; cat dir/new a").exit_code != 0
    client.upload(codebase, "dir/new", "n1\n")
    client.upload(codebase, "a", "a1\n")
    assert client.out(sandbox, "cat dir/new a; ls dir") == "n1\na1\nnew\nsub\nx\ny\n"
    client.upload(codebase, "dir/new", "n2 longer\n")
    assert client.out(sandbox, "cat dir/new; stat -c %s dir/new") == "n2 longer\n10\n"


def test_an_upload_is_seen_under_every_level(client, codebase, make):
    sandbox = make(READ_ONLY)
    assert client.out(sandbox, "cat a; ls dir") == "a0\nsub\nx\ny\n"
    client.upload(codebase, "a", "a1 is longer\n")
    client.upload(codebase, "dir/w", "w\n")
    assert client.out(sandbox, "cat a; ls dir") == "a1 is longer\nsub\nw\nx\ny\n"


def test_D1_true_changes_nothing(client, codebase, make, daemon):
    sandbox = make()
    client.out(sandbox, "echo mine > a; rm dir/y")
    client.upload(codebase, "a", "theirs\n")
    client.upload(codebase, "dir/y", "again\n")
    before = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    for _ in range(3):
        client.out(sandbox, "true")
    after = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    assert before == after
    assert client.download(codebase, "a") == b"theirs\n"
    assert client.download(codebase, "dir/y") == b"again\n"


def test_E2_nothing_an_agent_names_deletes_base_content(client, codebase, make):
    sandbox = make()
    client.out(sandbox, "touch .wh.a .wh... .wh..wh..opq dir/.wh..wh..opq dir/.wh.x")
    assert files(client, codebase) == set(BASE) | {
        ".wh.a",
        ".wh...",
        ".wh..wh..opq",
        "dir/.wh..wh..opq",
        "dir/.wh.x",
    }
    assert client.download(codebase, "a") == b"a0\n"


def test_E1_E3_E4_links_are_committed_as_links(client, codebase, make, tmp_path):
    target = tmp_path / "host"
    target.mkdir()
    sandbox = make()
    client.out(sandbox, f"ln -s {target} out; ln -s /etc/passwd dir/pw; mv dir/pw pw")
    client.exec(sandbox, "echo x > out/evil")
    assert list(target.iterdir()) == []
    assert client.out(sandbox, "readlink out pw") == f"{target}\n/etc/passwd\n"
    expect(
        grpc.StatusCode.INVALID_ARGUMENT,
        client.download,
        codebase,
        "out/evil",
    )


def test_D4_D5_B6_B7_trees_are_committed_as_they_are(client, codebase, make):
    sandbox = make()
    client.out(sandbox, "mv dir moved; echo new > moved/new")
    assert files(client, codebase) == {"a", "moved/x", "moved/y", "moved/sub/z", "moved/new"}
    client.out(sandbox, "rm -rf moved; mkdir moved; rm a; mkdir a; echo i > a/in")
    assert files(client, codebase) == {"a/in"}
    assert client.out(sandbox, "ls moved | wc -l").strip() == "0"
    other = make()
    assert client.out(other, "ls; ls moved; cat a/in") == "a\nmoved\ni\n"
    assert counters(client, codebase) == recount(client, codebase)


def test_two_sandboxes_lose_none_of_each_other_s_files(client, codebase, make):
    one, two = make(), make()
    client.out(one, "mkdir -p both; echo 1 > both/one; echo 1 > one")
    client.out(two, "mkdir -p both; echo 2 > both/two; echo 2 > two")
    assert client.out(one, "cat both/* one two") == "1\n2\n1\n2\n"
    client.out(one, "rm -r dir/sub")
    assert not client.exec(two, "test ! -e dir/sub").exit_code


def test_B2_two_writers_under_load_never_mix(client, codebase, make):
    sandboxes = [make() for _ in range(3)]
    failed = []

    def write(number, sandbox):
        for i in range(15):
            line = f"mkdir -p shared w{number}; echo {number} > w{number}/f{i}"
            line += f"; echo {number} > shared/{number}-{i}; cat w{number}/* | sort -u"
            out = client.out(sandbox, line)
            if out != f"{number}\n":
                failed.append(out)

    threads = [
        threading.Thread(target=write, args=(n, sandbox)) for n, sandbox in enumerate(sandboxes)
    ]
    for thread in threads:
        thread.start()
    for i in range(15):
        client.upload(codebase, f"shared/up-{i}", "u\n")
    for thread in threads:
        thread.join()
    assert not failed
    want = {f"w{n}/f{i}" for n in range(3) for i in range(15)}
    want |= {f"shared/{n}-{i}" for n in range(3) for i in range(15)}
    want |= {f"shared/up-{i}" for i in range(15)}
    assert files(client, codebase) == set(BASE) | want
    assert counters(client, codebase) == recount(client, codebase)


def test_while_a_command_runs_it_sees_no_other_writer_and_is_not_pushed(client, codebase, make):
    sandbox = make()
    line = "echo half > slow; until test -e /tmp/go; do sleep 0.02; done; ls; echo whole > slow"
    call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command=line))
    eventually(lambda: client.exec(sandbox, "cat slow").stdout == "half\n")
    client.upload(codebase, "uploaded", "u\n")
    assert client.out(sandbox, "ls; echo q > quick") == "a\ndir\nslow\n"
    assert files(client, codebase) == set(BASE) | {"uploaded"}
    client.out(sandbox, "touch /tmp/go")
    assert call.result().stdout == "a\ndir\nquick\nslow\n"
    assert client.download(codebase, "slow") == b"whole\n"
    assert client.download(codebase, "quick") == b"q\n"
    assert client.out(sandbox, "cat uploaded") == "u\n"


def test_what_a_killed_command_wrote_is_pushed_too(client, codebase, make):
    sandbox = make()
    expect(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        client.exec,
        sandbox,
        "echo before > timed; sleep 60",
        timeout=0.5,
    )
    assert client.download(codebase, "timed") == b"before\n"


# ---- what survives in an idle session and in background processes


def test_an_idle_session_keeps_directory_files_and_maps_over_commit_and_rebase(
    client, codebase, make
):
    sandbox = make()
    shell = client.session(sandbox)
    client.turn(shell, "mkdir -p work/deep && cd work/deep && echo 1 > f && exec 5<>f")
    assert client.download(codebase, "work/deep/f") == b"1\n"
    inode = client.turn(shell, "stat -c %i f .")
    client.upload(codebase, "work/deep/up", "u\n")
    client.upload(codebase, "other/file", "o\n")
    assert client.turn(shell, "pwd; ls; cat up ../../other/file") == (
        "/workspace/work/deep\nf\nup\nu\no\n"
    )
    assert client.turn(shell, "stat -c %i f .") == inode
    client.turn(shell, "echo through the descriptor >&5")
    assert client.download(codebase, "work/deep/f") == b"through the descriptor\n"
    other = make()
    client.out(other, "echo by another > work/deep/new")
    assert client.turn(shell, "cat new; /bin/pwd") == "by another\n/workspace/work/deep\n"


MAPPER = """
import mmap, os, sys, time
f = open("mapped", "r+b")
m = mmap.mmap(f.fileno(), 8192)
n = 0
open("/tmp/mapped", "w")
while n == 0 or not os.path.exists("/tmp/stop"):
    n += 1
    m[0:8] = b"%08d" % n
    assert m[4096:4100] == b"keep", m[4096:4100]
    time.sleep(0.001)
m.flush()
f.seek(0)
open("/tmp/result", "wb").write(m[0:8] + b" " + f.read(8))
"""


def test_a_background_process_keeps_its_map_over_commits(client, codebase, make):
    client.upload(codebase, "mapped", b"\0" * 4096 + b"keep" + b"\0" * 4092)
    client.upload(codebase, "mapper.py", MAPPER)
    sandbox = make()
    shell = client.session(sandbox)
    client.turn(shell, "python3 mapper.py 2>/tmp/err &")
    eventually(lambda: client.exec(sandbox, "test -e /tmp/mapped").exit_code == 0)
    for i in range(10):
        client.out(sandbox, f"echo {i} > step{i}")
        client.upload(codebase, f"up{i}", "u\n")
    client.turn(shell, "touch /tmp/stop; wait; cat /tmp/err; cat /tmp/result")
    seen = client.turn(shell, "cat /tmp/err /tmp/result").split()
    assert len(seen) == 2 and seen[0] == seen[1] and int(seen[0]) > 0
    assert client.download(codebase, "mapped")[:8] == seen[0].encode()


def test_a_background_process_starts_on_the_head_and_its_files_are_pushed_at_its_end(
    client, codebase, make
):
    sandbox = make()
    client.out(sandbox, "true")
    client.upload(codebase, "late", "from above\n")
    process = start(client, sandbox, "cat late > seen; read x; echo $x > last", stdin=True)
    eventually(lambda: client.out(sandbox, "cat seen || true") == "from above\n")
    client.out(sandbox, "echo 1 > beside")  # pushed although the process runs
    assert files(client, codebase) == set(BASE) | {"late", "seen", "beside"}
    write(client, process, b"bye\n")
    assert wait(client, process).exit.exit_code == 0
    assert client.download(codebase, "last") == b"bye\n"


def test_an_open_terminal_holds_up_no_commit(client, codebase, make):
    sandbox = make()
    client.upload(codebase, "early", "seen by the shell\n")
    run = Run(client, sandbox, "cat early; while read x; do eval \"$x\"; done", terminal=(24, 80))
    run.expect(b"seen by the shell")
    client.out(sandbox, "echo 1 > one")
    assert client.download(codebase, "one") == b"1\n"
    client.upload(codebase, "two", "2\n")
    assert client.out(sandbox, "cat two") == "2\n"
    run.send(stdin=b"cat two > typed; echo was'' written\n")
    run.expect(b"was written")
    done = client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))
    assert done.entries == 1 and client.download(codebase, "typed") == b"2\n"
    run.send(stdin=b"echo bye > last; exit 3\n")
    assert run.finish() == (3, 0)
    assert client.download(codebase, "last") == b"bye\n"


def test_many_that_last_end_beside_commands_and_lose_no_file(client, codebase, make):
    sandbox = make()
    made = [start(client, sandbox, f"echo {i} > lasting{i}") for i in range(20)]
    for i in range(20):
        client.out(sandbox, f"echo {i} > short{i}")
    for process in made:
        assert wait(client, process).exit.exit_code == 0
    want = {f"{kind}{i}" for kind in ("lasting", "short") for i in range(20)}
    eventually(lambda: files(client, codebase) == set(BASE) | want)


def test_the_end_of_what_lasts_is_told_after_its_files_are_pushed_also_during_a_push(
    client, codebase, make
):
    sandbox = make()
    for i in range(5):
        # The second ends while what the first has written is pushed.
        slow = (f"echo $$ > /tmp/pid{i}; mkdir d{i}; (cd d{i}; seq 4000 | xargs touch); "
                "echo made; read x; exit 4")
        quick = (f"until test -s /tmp/pid{i}; do :; done; while kill -0 $(cat /tmp/pid{i}); do :; "
                 f"done 2>/dev/null; echo {i} > quick{i}; exit 5")
        processes = [start(client, sandbox, slow, stdin=True), start(client, sandbox, quick)]
        eventually(lambda: attach(client, processes[0], follow=False)[0] == b"made\n")  # noqa: B023
        client.upload(codebase, f"up{i}", "u\n")  # so that the push has every file to merge
        write(client, processes[0], b"end\n")
        assert wait(client, processes[1]).exit.exit_code == 5
        assert client.download(codebase, f"quick{i}") == f"{i}\n".encode()
        assert wait(client, processes[0]).exit.exit_code == 4
        assert client.download(codebase, f"d{i}/4000") == b""


def test_an_unlinked_open_file_is_kept_and_not_committed(client, codebase, make):
    sandbox = make()
    shell = client.session(sandbox)
    client.turn(shell, "exec 6<>gone; rm gone; echo kept >&6")
    assert files(client, codebase) == set(BASE)
    client.out(sandbox, "echo other > other")
    assert client.turn(shell, "python3 -c 'import os; print(os.pread(6, 9, 0).decode())'") == (
        "kept\n\n"
    )


# ---- the other policies


def test_a_manual_sandbox_keeps_its_base_until_it_is_asked(client, codebase, make):
    sandbox = make(manual=True)
    client.out(sandbox, "echo mine > mine; echo mine > a")
    client.upload(codebase, "up", "u\n")
    assert files(client, codebase) == set(BASE) | {"up"}
    assert client.exec(sandbox, "cat up").exit_code != 0
    moved = client.views.Rebase(sbpb.RebaseRequest(sandbox_id=sandbox))
    assert moved.moved and moved.conflicts == 0
    assert client.out(sandbox, "cat up mine a") == "u\nmine\nmine\n"
    assert not client.views.Rebase(sbpb.RebaseRequest(sandbox_id=sandbox)).moved
    done = client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))
    assert (done.entries, done.conflicts, done.merged) == (2, 0, False)
    assert client.download(codebase, "a") == b"mine\n"
    assert client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox)).entries == 0


def test_rollback_drops_the_changes_at_once(client, codebase, make):
    sandbox = make(manual=True)
    shell = client.session(sandbox)
    client.turn(shell, "cd dir; echo mine > x; rm y; touch new; ls")
    info = client.views.Rollback(sbpb.RollbackRequest(sandbox_id=sandbox))
    assert info.delta_inodes == 0
    assert client.turn(shell, "ls; cat x y; pwd") == "sub\nx\ny\nx0\ny0\n/workspace/dir\n"
    call = client.sandboxes.Exec.future(
        pb.ExecRequest(sandbox_id=sandbox, command="touch /tmp/up; sleep 60")
    )
    eventually(lambda: client.exec(sandbox, "test -e /tmp/up").exit_code == 0)
    details = expect(
        grpc.StatusCode.FAILED_PRECONDITION,
        client.views.Rollback,
        sbpb.RollbackRequest(sandbox_id=sandbox),
    )
    assert "running" in details
    call.cancel()


def test_E3_a_refused_conflict_is_reported_and_changes_nothing(client, codebase, make):
    sandbox = make(manual=True)
    client.out(sandbox, "echo mine > a; echo mine > mine")
    client.upload(codebase, "a", "theirs\n")
    details = expect(
        grpc.StatusCode.ABORTED,
        client.views.Commit,
        sbpb.CommitRequest(sandbox_id=sandbox, conflict_policy=sbpb.CONFLICT_POLICY_REFUSE),
    )
    assert "roll back" in details
    assert files(client, codebase) == set(BASE)
    assert client.download(codebase, "a") == b"theirs\n"
    client.set_policy(sandbox, conflict=sbpb.CONFLICT_POLICY_REFUSE)
    expect(
        grpc.StatusCode.ABORTED, client.views.Commit, sbpb.CommitRequest(sandbox_id=sandbox)
    )
    done = client.views.Commit(
        sbpb.CommitRequest(
            sandbox_id=sandbox, conflict_policy=sbpb.CONFLICT_POLICY_LAST_WRITER_WINS
        )
    )
    assert done.merged and done.conflicts == 1
    assert client.download(codebase, "a") == b"mine\n"


def test_on_destroy_commits_once_at_the_end(client, codebase):
    sandbox = client.sandbox(codebase)
    client.set_policy(sandbox, commit=sbpb.COMMIT_POLICY_ON_DESTROY)
    client.out(sandbox, "echo late > late")
    assert files(client, codebase) == set(BASE)
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    assert files(client, codebase) == set(BASE)
    client.destroy(sandbox)
    assert client.download(codebase, "late") == b"late\n"


def slow_end(client, count):
    """Destroys a sandbox whose end has `count` files to merge; the call, under way."""
    codebase = client.codebase(BASE)
    sandbox = client.sandbox(codebase)
    client.set_policy(sandbox, commit=sbpb.COMMIT_POLICY_ON_DESTROY)
    client.out(sandbox, f"seq {count} | xargs touch", timeout=300)
    client.upload(codebase, "above", "so that it is a merge\n")
    return client.sandboxes.DestroySandbox.future(pb.DestroySandboxRequest(sandbox_id=sandbox))


def test_a_slow_commit_at_a_sandboxs_end_holds_up_no_other_sandbox(client):
    for count in (5000, 20000, 80000):  # until it is slow enough on this machine
        call = slow_end(client, count)
        other = client.sandbox(client.codebase(BASE))
        assert client.out(other, "cat a") == "a0\n"
        client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=other))
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=other))
        client.destroy(other)
        overtaken = not call.done()
        call.result()
        if overtaken:
            return
    raise AssertionError("a start, a command, a stop and a destroy waited for another's commit")


def test_a_commit_to_a_deleted_codebase_loses_nothing(client, codebase, make):
    sandbox = make()
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=codebase))
    assert client.out(sandbox, "echo kept > kept; cat kept a") == "kept\na0\n"
    details = expect(
        grpc.StatusCode.FAILED_PRECONDITION,
        client.views.Commit,
        sbpb.CommitRequest(sandbox_id=sandbox),
    )
    assert "deleted" in details
    assert client.out(sandbox, "cat kept") == "kept\n"


# ---- crashes


def test_B9_a_push_survives_kill_9_and_is_whole(new_daemon):
    daemon = new_daemon()
    daemon.start()
    client = daemon.client()
    codebase = client.codebase(BASE)
    sandboxes = [client.sandbox(codebase) for _ in range(2)]
    told = [0, 0]

    def work(number):
        try:
            for i in range(10000):
                line = f"mkdir p{number}-{i}; echo {i} | tee p{number}-{i}/a p{number}-{i}/b"
                client.out(sandboxes[number], line)
                told[number] = i + 1
        except grpc.RpcError:
            pass  # the daemon is gone

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: min(told) >= 12)
    daemon.kill()
    for thread in threads:
        thread.join()
    client.close()
    daemon.start()
    client = daemon.client()
    found = files(client, codebase)
    for number in range(2):
        for i in range(told[number]):
            assert {f"p{number}-{i}/a", f"p{number}-{i}/b"} <= found
        one_more = {f"p{number}-{told[number]}/a", f"p{number}-{told[number]}/b"}
        assert one_more <= found or not one_more & found
    assert counters(client, codebase) == recount(client, codebase)
    client.close()
