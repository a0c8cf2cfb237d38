"""Trees of processes that race their own end: nothing is left of them, and others do not notice."""

import threading

import grpc
import pytest

from harness import ROOT, eventually, expect, pb
from processes import Run, alive_with, attach, get, kill, start, unique
from test_limits import needs_cgroups

Code = grpc.StatusCode
CHAINS = 60  # outrun an init that kills one by one
BOMB = (ROOT / "tests/faults/fork_bomb.c").read_bytes()


@pytest.fixture(scope="module")
def codebase(client):
    return client.codebase({"bomb.c": BOMB}, name="bombs")


def armed(client, codebase, **fields):
    """A running sandbox with the program."""
    made = client.sandbox(codebase, manual=True, **fields)
    client.out(made, "gcc -O1 -o bomb bomb.c")
    return made


@pytest.fixture
def sandbox(client, codebase):
    made = armed(client, codebase, resources=pb.ResourceLimits())
    yield made
    client.destroy(made)


def bomb(mark, chains=CHAINS):
    return f"./bomb {chains} {mark}"


def by_timeout(client, daemon, sandbox, mark):
    text = expect(Code.DEADLINE_EXCEEDED, client.exec, sandbox, bomb(mark), timeout=2)
    assert "going" in text


def by_cancel(client, daemon, sandbox, mark):
    run = Run(client, sandbox, bomb(mark))
    run.expect(b"going")
    run.call.cancel()
    run.close()


def by_disconnect(client, daemon, sandbox, mark):
    other = daemon.client()
    run = Run(other, sandbox, bomb(mark))
    run.expect(b"going")
    other.close()
    run.close()


def by_closing_its_session(client, daemon, sandbox, mark):
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox)).id
    request = pb.SessionExecRequest(session_id=session, command=bomb(mark))
    call = client.sandboxes.SessionExec.future(request)
    eventually(lambda: alive_with(mark))
    client.sandboxes.DestroySession(pb.DestroySessionRequest(session_id=session))
    assert not alive_with(mark)
    assert call.code() == Code.CANCELLED


def by_the_end_of_its_leader(client, daemon, sandbox, mark):
    begun = f"{bomb(mark)} > said & until grep -q going said; do :; done; echo done"
    assert client.out(sandbox, begun) == "done\n"


ENDS = [by_timeout, by_cancel, by_disconnect, by_closing_its_session, by_the_end_of_its_leader]


@pytest.mark.parametrize("end", ENDS, ids=[end.__name__ for end in ENDS])
def test_X6_X7_a_fork_bomb_ends_whole_and_alone(client, daemon, sandbox, end):
    """Without a limit of its own."""
    mark, still = unique(f"bomb-{end.__name__}"), unique("31341.5")
    # The sleep bounds how much it says, and each is a child that the end of the bomb must spare.
    beside = start(client, sandbox, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
    stopped = start(client, sandbox, ["sleep", still])
    eventually(lambda: alive_with(still))
    kill(client, stopped, 19)  # SIGSTOP; nothing of this may set it going
    end(client, daemon, sandbox, mark)
    eventually(lambda: not alive_with(mark))
    assert client.out(sandbox, "echo alive") == "alive\n", "the sandbox was lost"
    assert not get(client, beside).HasField("exit") and not get(client, stopped).HasField("exit")
    lines = attach(client, beside, follow=False)[0].split()
    assert lines == [str(i + 1).encode() for i in range(len(lines))]
    eventually(lambda: len(attach(client, beside, follow=False)[0].split()) > len(lines))
    state = client.out(sandbox, f"grep -l '[3]{still[1:]}' /proc/[0-9]*/cmdline | head -1")
    text = client.out(sandbox, f"cut -d' ' -f3 {state.strip().replace('cmdline', 'stat')}")
    assert text == "T\n"


@needs_cgroups
def test_X6_a_fork_bomb_at_its_process_limit_ends_whole(client, daemon, codebase):
    limited = armed(client, codebase, resources=pb.ResourceLimits(pids_limit=100))
    mark = unique("bomb-limited")
    by_timeout(client, daemon, limited, mark)
    assert not alive_with(mark)
    assert client.out(limited, "echo alive") == "alive\n"
    client.destroy(limited)


@pytest.mark.parametrize("apart", [0, 2], ids=["at_once", "one_after_the_other"])
def test_X7_two_fork_bombs_end_each_for_itself(client, daemon, sandbox, apart):
    """The second forks on while the first is ended, and its end comes in turn."""
    texts, marks = {}, [unique("bomb-one"), unique("bomb-two")]

    def run(mark, timeout):
        texts[mark] = expect(
            Code.DEADLINE_EXCEEDED, client.exec, sandbox, bomb(mark, CHAINS // 3), timeout=timeout)

    threads = [threading.Thread(target=run, args=(mark, 1 + i * apart))
               for i, mark in enumerate(marks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 2
    assert not any(alive_with(mark) for mark in marks)
    assert client.out(sandbox, "echo alive") == "alive\n"


@pytest.mark.parametrize("call", ["StopSandbox", "DestroySandbox"])
def test_X7_a_fork_bomb_ends_with_its_sandbox(client, daemon, codebase, call):
    made = armed(client, codebase)
    mark = unique(f"bomb-{call}")
    run = Run(client, made, bomb(mark))
    run.expect(b"going")
    getattr(client.sandboxes, call)(getattr(pb, call + "Request")(sandbox_id=made))
    assert not alive_with(mark)
    run.close()
    if call == "StopSandbox":
        client.destroy(made)
