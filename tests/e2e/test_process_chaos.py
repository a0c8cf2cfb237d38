"""What clients do to commands in odd orders costs no sandbox and leaves nothing.

Six clients at once, on three sandboxes, each in a seeded order of its own. A fault of one command
shows in others: after ten seconds its sandbox ends, and with it the witness that was started first.
Two moments are met by construction, at any speed of the machine: a cancel that comes when a command
has exited behind a reader that has enough, and signals that come with an end.
"""

import contextlib
import os
import random
import threading
import time

import grpc
import pytest

from harness import FULL, eventually, expect, pb, procpb
from processes import Run, alive_with, get, kill, own_uids, start, unique, wait, write
from test_leaks import Counter
from test_limits import controllers

CLIENTS = 6
LONG = bool(os.environ.get("AGENTFENSE_LONG"))
SEED = os.environ.get("AGENTFENSE_SEED")
SEEDS = [int(SEED)] if SEED else range(2, 8) if LONG else [1]
ROUNDS = 12 if LONG else 4
CALL_S = 120  # ends a call that hangs, and is no expected end
TALK_S = [0.02, 0.2, 0.6]  # what a client gives a command that may say nothing
# What it leaves is a full pipe: it exits when its writer stands still, for which it looks twice, a
# tenth of a second apart. That waits for a condition; a writer that merely got no processor is
# taken for one that stands still, and then the round misses what it is for (see `held`).
FILL_AND_EXIT = """
    yes &
    until now=$(grep wchar /proc/$!/io); [ "$now" = "$last" ]; do last=$now; sleep 0.1; done
    kill -9 $!; wait; exit 0
"""
SIGNALS_AT_END = 60
# A control group for each sandbox, where there are some.
LIMITS = {"resources": pb.ResourceLimits(memory_bytes=1 << 30)} if "memory" in controllers() else {}
COMMANDS = [
    "true", "sleep 5", "yes", "yes >&2", "cat", "exec 1>&-; sleep 0.2", "(sleep 3 &); echo a",
    "yes & yes >&2", "kill -9 $$", "head -c 300000 /dev/zero; sleep 0.1", "kill -STOP $$",
    "for i in $(seq 9); do sleep 100 & done; exit 0", "nosuch", "kill -9 $PPID; sleep 100",
]
SIGNALS = [1, 2, 9, 13, 15, 18, 19]
# It was cancelled, has ended, was closed or never was; the sandbox has as many as it may have.
EXPECTED = {"OK", "CANCELLED", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT",
            "RESOURCE_EXHAUSTED"}


class Actor:
    """A client and what it does, in an order that its seed decides."""

    def __init__(self, daemon, failures, sandboxes, codebase, seed):
        self.daemon, self.failures, self.sandboxes = daemon, failures, sandboxes
        self.codebase, self.seed = codebase, seed
        self.rng = random.Random(seed)
        self.client = self.connect()
        self.held = 0  # cancels of what had exited behind a reader that had enough
        self.acts = 0

    def connect(self):
        return self.daemon.client(("grpc.http2.bdp_probe", 0))  # else a window may grow

    def run(self):
        """Everything, ROUNDS times; what is not expected is told in `failures`."""
        acts = [self.cancel_what_has_exited, self.signal_what_ends, self.signal_what_ends_behind,
                self.disconnect, self.destroy] + [self.talk] * 6 + [self.start_and_talk] * 4
        try:
            for _ in range(ROUNDS):
                for act in self.rng.sample(acts, len(acts)):
                    self.acts += 1
                    self.expecting(act)
        except Exception as error:  # a thread's own would be lost
            self.failures.append(f"client {self.seed}, act {self.acts}: {error!r}")
        self.client.close()

    def expecting(self, act, *args):
        try:
            act(*args)
        except grpc.RpcError as error:
            self.judge(error, f"{act.__name__} {args}")

    def judge(self, call, what):
        """How a call ended: one of the expected statuses."""
        killed_supervisor = "PPID" in what and call.code() == grpc.StatusCode.ABORTED
        if call.code().name not in EXPECTED and not killed_supervisor:
            self.failures.append(f"client {self.seed}, act {self.acts}, {what}: "
                                 f"{call.code().name} {call.details()}")

    def sandbox(self):
        return self.rng.choice(self.sandboxes)

    def any_command(self):
        return self.rng.choice(COMMANDS)

    def terminal(self):
        return {"terminal": (24, 80)} if self.rng.random() < 0.3 else {}

    def open(self, client, sandbox, command, timeout_s=CALL_S, **fields):
        return Run(client, sandbox, command, timeout_s=timeout_s, **fields)

    def end(self, run, command=""):
        """Cancels a Run, if it has not ended; its status is one of the expected ones."""
        run.call.cancel()
        run.close()
        self.judge(run.call, command)

    # ---- moments that are met by construction

    def cancel_what_has_exited(self):
        marker = unique(f"chaos-{self.seed}-{self.acts}-")
        argv = ["sh", "-c", FILL_AND_EXIT, marker]
        with contextlib.closing(self.connect()) as client:
            run = self.open(client, self.sandbox(), argv, stdin=False)
            run.step()
            eventually(lambda: not alive_with(marker))
            with contextlib.suppress(grpc.RpcError):  # it has been over
                self.held += get(client, run.started.id).running
            if self.rng.random() < 0.5:
                run.call.cancel()
        self.end(run)

    def signal_what_ends(self):
        """Many, one after the other: some come when the command has ended, and nobody knows yet."""
        number = self.rng.choice([18, 28])
        command, end = self.rng.choice([("exit 7", (7, 0)), ("kill -9 $$", (137, 9)),
                                        ("true & true & exec sh -c 'exit 5'", (5, 0))])
        run = self.open(self.client, self.sandbox(), command)
        for _ in range(SIGNALS_AT_END):
            run.send(signal=number)
        assert run.finish() == end, command

    def signal_what_ends_behind(self):
        process = start(self.client, self.sandbox(), "read x; exit 7", stdin=True)
        request = procpb.SignalProcessRequest(process_id=process, signal=18, all=True)
        write(self.client, process, b"go\n")
        calls = [self.client.processes.Signal.future(request, timeout=CALL_S)
                 for _ in range(SIGNALS_AT_END // 4)]
        for call in calls:
            self.judge(call, "signal")
        assert wait(self.client, process).exit.exit_code == 7

    # ---- odd orders

    def say(self, run):
        """One thing that a client may say to its command, or hear of it."""
        kind = self.rng.randrange(7)
        if kind == 0:
            run.send(stdin=b"x" * self.rng.choice([1, 70_000, 400_000]))
        elif kind == 1:
            run.send(signal=self.rng.choice(SIGNALS))
        elif kind == 2:
            run.send(resize=procpb.Terminal(rows=self.rng.randrange(65536), columns=80))
        elif kind == 3 and run.started:
            self.expecting(self.close_output, run.started.id)
        elif kind == 4 and run.started:
            self.expecting(kill, self.client, run.started.id, self.rng.choice(SIGNALS), True)
        elif kind == 5:
            time.sleep(self.rng.random() * 0.01)  # for no condition: another order
        else:
            run.step()

    def close_output(self, process):
        self.client.processes.CloseOutput(procpb.CloseOutputRequest(
            process_id=process, stdout=self.rng.random() < 0.6, stderr=self.rng.random() < 0.5))

    def talk(self):
        """A command of this client's own, up to a point."""
        command = self.any_command()
        fields = {"stdin": self.rng.random() < 0.7, **self.terminal(),
                  "timeout": self.rng.choice([None, 0.001, 0.05, 0.5])}
        run = self.open(self.client, self.sandbox(), command, self.rng.choice(TALK_S), **fields)
        with contextlib.suppress(grpc.RpcError):  # judged below
            if self.rng.random() < 0.2:
                run.call.cancel()
            for _ in range(self.rng.randrange(6)):
                self.say(run)
            if self.rng.random() < 0.5:
                run.send(eof=True)
            while self.rng.random() < 0.9 and run.step():
                pass
        run.call.cancel()
        run.close()
        if run.call.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            self.judge(run.call, command)

    def start_and_talk(self):
        self.expecting(self.talk_behind, self.any_command())

    def talk_behind(self, command):
        """A background process that is attached to, written to, resized, closed and killed."""
        process = start(self.client, self.sandbox(), command, stdin=True, **self.terminal())
        request = procpb.AttachProcessRequest(process_id=process, follow=True)
        attached = [self.client.processes.Attach(request, timeout=CALL_S)
                    for _ in range(self.rng.randrange(3))]
        calls = []
        data = procpb.WriteStdinRequest(process_id=process, data=b"x" * 200_000)
        size = procpb.ResizeProcessRequest(process_id=process, size=procpb.Terminal(rows=9))
        if self.rng.random() < 0.5:
            calls.append(self.client.processes.WriteStdin.future(data, timeout=CALL_S))
        if self.rng.random() < 0.5:
            calls.append(self.client.processes.Resize.future(size, timeout=CALL_S))
        if self.rng.random() < 0.5:
            self.expecting(self.close_output, process)
        self.expecting(kill, self.client, process, 9, self.rng.random() < 0.5)
        for call in attached + calls:
            if self.rng.random() < 0.5:
                call.cancel()
        self.expecting(kill, self.client, process, 9, True)
        for call in attached:
            with contextlib.suppress(grpc.RpcError):
                for _ in call:
                    pass
        for call in attached + calls:
            self.judge(call, f"background {command}")

    def disconnect(self):
        """A connection that goes with all its commands."""
        commands = [self.any_command() for _ in range(3)]
        with contextlib.closing(self.connect()) as client:
            runs = [self.open(client, self.sandbox(), each, **self.terminal()) for each in commands]
            for run in runs:
                with contextlib.suppress(grpc.RpcError):
                    run.step()
        for run, command in zip(runs, commands):
            self.end(run, command)

    def destroy(self):
        """A sandbox of this client's own, which goes with all its commands."""
        sandbox = self.client.sandbox(self.codebase, FULL, manual=True, **LIMITS)
        process = start(self.client, sandbox, "yes")
        runs = [self.open(self.client, sandbox, each) for each in ("yes", "sleep 100", "cat")]
        for run in runs:
            run.step()
        if self.rng.random() < 0.5:
            self.client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
        self.client.destroy(sandbox)
        expect(grpc.StatusCode.NOT_FOUND, get, self.client, process)
        for run in runs:
            with contextlib.suppress(grpc.RpcError):
                while run.step():
                    pass
            self.end(run)


def end_all(client, sandbox, witness):
    """Kills what runs but the witness; whether there was nothing."""
    listed = client.processes.List(procpb.ListProcessesRequest(sandbox_id=sandbox)).processes
    running = [p.id for p in listed if p.running and p.id != witness]
    for process in running:
        with contextlib.suppress(grpc.RpcError):  # has ended
            kill(client, process, 9, everything=True)
    return not running


def survives(client, sandbox, witness):
    """Ends what is left in a sandbox; raises unless it and its witness are as they were."""
    eventually(lambda: end_all(client, sandbox, witness))
    assert client.out(sandbox, "echo alive") == "alive\n"
    assert get(client, witness).running
    client.destroy(sandbox)


@pytest.mark.parametrize("seed", SEEDS)
def test_X7_X8_commands_in_odd_orders_cost_no_sandbox_and_leave_nothing(new_daemon, seed):
    low, high, options = own_uids()
    daemon = new_daemon(*options, "--exec-pool", "0").start()
    client, count = daemon.client(), Counter(daemon, low, high)
    codebase = client.codebase({"a": "x"})
    client.destroy(client.sandbox(codebase, FULL, **LIMITS))
    before = count.steady()
    sandboxes = [client.sandbox(codebase, FULL, manual=True, **LIMITS) for _ in range(3)]
    witnesses = [start(client, sandbox, "sleep 100000") for sandbox in sandboxes]
    failures = []
    actors = [Actor(daemon, failures, sandboxes, codebase, seed * 100 + i) for i in range(CLIENTS)]
    threads = [threading.Thread(target=actor.run) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not any(actor.held for actor in actors):
        failures.append("no command was cancelled when it had exited behind its reader")
    for sandbox, witness in zip(sandboxes, witnesses):
        try:
            survives(client, sandbox, witness)
        except AssertionError as error:
            failures.append(f"sandbox {sandbox}: {error}")
        except grpc.RpcError as error:
            failures.append(f"sandbox {sandbox}: {error.code().name} {error.details()}")
    assert not failures, "\n".join([f"seed {seed}:", *failures])
    try:
        eventually(lambda: count() == before)
    except AssertionError:
        pytest.fail(f"seed {seed}: {count()} is left, {before} was before")
    assert daemon.stop() == 0
