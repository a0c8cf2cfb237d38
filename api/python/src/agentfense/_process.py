"""A command that a program talks to while it runs: stdin as a stream, a terminal, signals."""

from __future__ import annotations

import queue
from typing import Any, Iterator, List, Optional, Union

import grpc

from . import _calls_v1 as v1
from . import _convert as cv
from . import _rpc as rpc
from ._proto import agentfense_process_pb2 as proc
from ._rpc import Call
from ._wire import Wire
from .exceptions import CommandTimeoutError, SandboxError
from .extensions import ProcessExit
from .types import OutputChunk

STDIN_BYTES = 256 * 1024  # of one message


def output(m: proc.ProcessOutput) -> Optional[OutputChunk]:
    """The chunk in a message; None when it carries something else."""
    kind = m.WhichOneof("output")
    if kind == "stdout":
        return OutputChunk(m.stdout, "stdout")
    if kind == "stderr":
        return OutputChunk(m.stderr, "stderr")
    return None


def stdin_messages(data: Union[str, bytes]) -> List[proc.ProcessInput]:
    """Bytes for stdin as messages."""
    raw = cv.raw(data, "data")
    return [
        proc.ProcessInput(stdin=raw[at : at + STDIN_BYTES])
        for at in range(0, len(raw), STDIN_BYTES)
    ]


class SandboxProcess(Iterator[OutputChunk]):
    """A running command. Iterate over its output; then `exit` is there.

    Leaving the with block early, close(), or dropping it kills the command and everything that it
    started. One thread may read while another writes.
    """

    def __init__(self, wire: Wire, spec: proc.ProcessSpec) -> None:
        self._wire = wire
        self._about = v1.about_process(spec)
        self._inputs: queue.SimpleQueue[Optional[proc.ProcessInput]] = queue.SimpleQueue()
        self._inputs.put(proc.ProcessInput(start=spec))
        self._running = wire.start(rpc.PROCESS_RUN, iter(self._inputs.get, None))
        self._ended = False
        self.exit: Optional[ProcessExit] = None
        self.id = ""  # proc_..., once it has started

    def write(self, data: Union[str, bytes]) -> None:
        """Bytes (or text as UTF-8) for its stdin; needs `stdin=True` or a terminal."""
        self._check_open()
        for message in stdin_messages(data):
            self._inputs.put(message)

    def close_stdin(self) -> None:
        """End of file on its stdin."""
        self._check_open()
        self._inputs.put(proc.ProcessInput(eof=True))

    def resize(self, rows: int, columns: int) -> None:
        """A new size of its terminal."""
        self._check_open()
        self._inputs.put(proc.ProcessInput(resize=v1.terminal_message(rows, columns)))

    def send_signal(self, signal: int) -> None:
        """Sends a signal (a number or signal.SIGINT) to its leader."""
        self._check_open()
        self._inputs.put(proc.ProcessInput(signal=int(signal)))

    def _check_open(self) -> None:
        if self._ended:
            raise SandboxError("The process has ended", self._about.command)

    def __iter__(self) -> SandboxProcess:
        return self

    def __next__(self) -> OutputChunk:
        while not self._ended:
            try:
                message = next(self._running)
            except StopIteration:
                break
            except grpc.RpcError as cause:
                self._end()
                raise self._wire.error(cause, self._about) from cause
            kind = message.WhichOneof("output")
            if kind == "started":
                self.id = message.started.id
            elif kind == "exit":
                self.exit = v1.process_exit(message.exit)
            chunk = output(message)
            if chunk is not None:
                return chunk
        self._end()
        raise StopIteration

    def _end(self) -> None:
        self._ended = True
        self._inputs.put(None)

    def wait(self) -> ProcessExit:
        """Reads what is left, drops it, and tells how the process ended.

        CommandTimeoutError when it ran into its timeout.
        """
        for _ in self:
            pass
        if self.exit is None:
            raise SandboxError("The process was ended before it told how", self._about.command)
        if self.exit.timed_out:
            raise CommandTimeoutError(self._about.command, None)
        return self.exit

    def communicate(self, stdin: Union[str, bytes] = b"") -> bytes:
        """Sends stdin and its end, and returns all of the output, both streams as they came."""
        if stdin:
            self.write(stdin)
        self.close_stdin()
        return b"".join(self)

    def close(self) -> None:
        """Kills it if it still runs. May be called again."""
        self._end()
        self._running.cancel()

    def __enter__(self) -> SandboxProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # the interpreter is going down, or it never started
            pass


class Attachment(Iterator[OutputChunk]):
    """The output of a background process; `exit` is there when it has ended."""

    def __init__(self, wire: Wire, call: Call[Any, Any, Any]) -> None:
        self._stream = wire.stream(call)
        self.exit: Optional[ProcessExit] = None
        self.skipped = 0  # bytes that came before and were no longer kept

    def __iter__(self) -> Attachment:
        return self

    def __next__(self) -> OutputChunk:
        while True:
            message = next(self._stream)
            kind = message.WhichOneof("output")
            if kind == "exit":
                self.exit = v1.process_exit(message.exit)
            elif kind == "skipped":
                self.skipped += message.skipped
            chunk = output(message)
            if chunk is not None:
                return chunk

    def close(self) -> None:
        """Stops reading; the process goes on."""
        self._stream.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
