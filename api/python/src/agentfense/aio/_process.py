"""The twin of agentfense._process: a command that a program talks to while it runs."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Optional, Union

import grpc
import grpc.aio

from .. import _calls_v1 as v1
from .. import _rpc as rpc
from .._process import output, stdin_messages
from .._proto import agentfense_process_pb2 as proc
from .._rpc import Call
from .._wire import CLOSED
from ..exceptions import CommandTimeoutError, ConnectionError, SandboxError
from ..extensions import ProcessExit
from ..types import OutputChunk
from ._wire import EOF, AsyncWire


class AsyncSandboxProcess(AsyncIterator[OutputChunk]):
    """A running command; see agentfense.SandboxProcess. It starts when it is made."""

    def __init__(self, wire: AsyncWire, spec: proc.ProcessSpec) -> None:
        self._wire = wire
        self._about = v1.about_process(spec)
        self._inputs: asyncio.Queue[Optional[proc.ProcessInput]] = asyncio.Queue()
        self._inputs.put_nowait(proc.ProcessInput(start=spec))
        self._running = wire.start(rpc.PROCESS_RUN, self._feed())
        self._ended = False
        self.exit: Optional[ProcessExit] = None
        self.id = ""  # proc_..., once it has started

    async def _feed(self) -> AsyncIterator[proc.ProcessInput]:
        while True:
            message = await self._inputs.get()
            if message is None:
                return
            yield message

    def _put(self, message: proc.ProcessInput) -> None:
        if self._ended:
            raise SandboxError("The process has ended", self._about.command)
        self._inputs.put_nowait(message)

    def write(self, data: Union[str, bytes]) -> None:
        """Bytes (or text as UTF-8) for its stdin; needs `stdin=True` or a terminal."""
        for message in stdin_messages(data):
            self._put(message)

    def close_stdin(self) -> None:
        """End of file on its stdin."""
        self._put(proc.ProcessInput(eof=True))

    def resize(self, rows: int, columns: int) -> None:
        """A new size of its terminal."""
        self._put(proc.ProcessInput(resize=v1.terminal_message(rows, columns)))

    def send_signal(self, signal: int) -> None:
        """Sends a signal (a number or signal.SIGINT) to its leader."""
        self._put(proc.ProcessInput(signal=int(signal)))

    def __aiter__(self) -> AsyncSandboxProcess:
        return self

    async def __anext__(self) -> OutputChunk:
        while not self._ended:
            try:
                message = await self._running.read()
            except grpc.RpcError as cause:
                self._end()
                raise await self._wire.error(cause, self._about) from cause
            except asyncio.CancelledError:
                if self._wire.lost(self._running):
                    raise ConnectionError(self._wire.endpoint.target, CLOSED) from None
                raise
            if message is EOF:
                break
            kind = message.WhichOneof("output")
            if kind == "started":
                self.id = message.started.id
            elif kind == "exit":
                self.exit = v1.process_exit(message.exit)
            chunk = output(message)
            if chunk is not None:
                return chunk
        self._end()
        raise StopAsyncIteration

    def _end(self) -> None:
        self._ended = True
        self._inputs.put_nowait(None)

    async def wait(self) -> ProcessExit:
        """Reads what is left, drops it, and tells how the process ended.

        CommandTimeoutError when it ran into its timeout.
        """
        async for _ in self:
            pass
        if self.exit is None:
            raise SandboxError("The process was ended before it told how", self._about.command)
        if self.exit.timed_out:
            raise CommandTimeoutError(self._about.command, None)
        return self.exit

    async def communicate(self, stdin: Union[str, bytes] = b"") -> bytes:
        """Sends stdin and its end, and returns all of the output, both streams as they came."""
        if stdin:
            self.write(stdin)
        self.close_stdin()
        return b"".join([chunk async for chunk in self])

    async def close(self) -> None:
        """Kills it if it still runs. May be called again."""
        self._end()
        self._running.cancel()

    async def __aenter__(self) -> AsyncSandboxProcess:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncAttachment(AsyncIterator[OutputChunk]):
    """The output of a background process; `exit` is there when it has ended."""

    def __init__(self, wire: AsyncWire, call: Call[Any, Any, Any]) -> None:
        self._stream = wire.stream(call)
        self.exit: Optional[ProcessExit] = None
        self.skipped = 0  # bytes that came before and were no longer kept

    def __aiter__(self) -> AsyncAttachment:
        return self

    async def __anext__(self) -> OutputChunk:
        while True:
            message = await self._stream.__anext__()
            kind = message.WhichOneof("output")
            if kind == "exit":
                self.exit = v1.process_exit(message.exit)
            elif kind == "skipped":
                self.skipped += message.skipped
            chunk = output(message)
            if chunk is not None:
                return chunk

    async def close(self) -> None:
        """Stops reading; the process goes on."""
        await self._stream.close()

    async def __aenter__(self) -> AsyncAttachment:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
