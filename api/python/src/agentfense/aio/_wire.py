"""The asynchronous side of a call; the twin of agentfense._wire.

A cancelled task cancels its call, and so the command that it waits for. Local files are read in a
thread, so that the loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List, Optional, TypeVar

import grpc
import grpc.aio

from .. import _errors
from .._endpoint import Endpoint
from .._rpc import About, Call, Method
from .._wire import CLOSED, exit_of
from ..exceptions import ConnectionError, SandboxError
from ..types import OutputChunk

T = TypeVar("T")
EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_BATCH_BYTES = 2 << 20  # read ahead of an upload
_BATCH_MESSAGES = 256


def being_cancelled() -> bool:
    """Whether somebody cancelled the present task; never known before Python 3.11."""
    task = asyncio.current_task()
    if sys.version_info >= (3, 11) and task is not None:
        return task.cancelling() > 0
    return False


class AsyncWire:
    """A lazily opened channel and the ways to make a call on it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._channel: Any = None
        self._stubs: Dict[str, Any] = {}
        self._closed = False

    def _stub(self, method: Method[Any, Any]) -> Any:
        if self._closed:
            raise ConnectionError(self.endpoint.target, CLOSED)
        if self._channel is None:
            asyncio.get_running_loop()  # its error says more than gRPC's
            target, options = self.endpoint.target, self.endpoint.options()
            if self.endpoint.secure:
                credentials = grpc.ssl_channel_credentials(self.endpoint.root_certificates)
                self._channel = grpc.aio.secure_channel(target, credentials, options)
            else:
                self._channel = grpc.aio.insecure_channel(target, options)
        stub = self._stubs.get(method.path)
        if stub is None:
            kinds = {"u": "unary", "s": "stream"}
            name = f"{kinds[method.shape[0]]}_{kinds[method.shape[1]]}"
            stub = self._stubs[method.path] = getattr(self._channel, name)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return stub

    async def close(self) -> None:
        """Closes the channel; calls in flight fail. May be called again."""
        channel, self._channel = self._channel, None
        self._closed = True
        self._stubs = {}
        if channel is not None:
            await channel.close()

    @property
    def is_closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def start(self, method: Method[Any, Any], request: Any) -> Any:
        """Starts a call of any shape; returns gRPC's own call object."""
        stub = self._stub(method)
        try:
            return stub(request, metadata=self.endpoint.metadata())
        except grpc.aio.UsageError:
            raise ConnectionError(self.endpoint.target, CLOSED) from None

    async def error(self, cause: Any, about: About) -> SandboxError:
        """The documented exception for a failed call."""
        question = None if self._closed else _errors.question(cause.code(), about)
        answer = None
        if question is not None:
            try:
                answer = await self.start(question.method, question.request)
            except (grpc.RpcError, SandboxError):
                pass
        return _errors.to_error(cause.code(), cause.details(), about, self.endpoint.target, answer)

    def lost(self, running: Any) -> bool:
        """Whether a CancelledError means that the client was closed under the call."""
        return self._closed and running.cancelled() and not being_cancelled()

    async def call(self, call: Call[Any, Any, T]) -> T:
        """A unary call."""
        return call.convert(await self._reply(self.start(call.method, call.request), call))

    async def _reply(self, running: Any, call: Call[Any, Any, Any]) -> Any:
        try:
            return await running
        except grpc.RpcError as cause:
            raise await self.error(cause, call.about) from cause
        except asyncio.CancelledError:
            if self.lost(running):
                raise ConnectionError(self.endpoint.target, CLOSED) from None
            raise

    def stream(self, call: Call[Any, Any, T]) -> AsyncStream[T]:
        """A call whose reply is a stream; it begins now."""
        return AsyncStream(self, self.start(call.method, call.request), call)

    async def send(
        self,
        call: Call[Any, Any, T],
        messages: Callable[[], Iterator[Any]],
        tick: Optional[Callable[[], None]] = None,
    ) -> T:
        """A call whose request is a stream; the iterator runs in a thread.

        What the iterator or `tick` raises cancels the call and is raised here.
        """
        feed = _Feed(messages(), tick)
        running = self.start(call.method, feed.run())
        try:
            reply = await self._reply(running, call)
        except BaseException:
            if feed.failure is not None:
                raise feed.failure from None
            raise
        finally:
            running.cancel()  # nothing, once it has ended
            feed.stop()
        if tick is not None:
            tick()
        return call.convert(reply)


def _batch(messages: Iterator[Any]) -> List[Any]:
    """The next few messages; none at the end."""
    made: List[Any] = []
    size = 0
    for message in messages:
        made.append(message)
        size += message.ByteSize()
        if size >= _BATCH_BYTES or len(made) >= _BATCH_MESSAGES:
            break
    return made


class _Feed:
    """An asynchronous iterator over a blocking one, with one thread for it."""

    def __init__(self, messages: Iterator[Any], tick: Optional[Callable[[], None]]) -> None:
        self._messages = messages
        self._tick = tick
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "agentfense-upload")
        self.failure: Optional[BaseException] = None

    async def run(self) -> AsyncIterator[Any]:
        """The messages. Raising cancels the call, so that the daemon keeps nothing."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = await loop.run_in_executor(self._pool, _batch, self._messages)
                if not batch:
                    return
                for message in batch:
                    yield message
                if self._tick is not None:
                    self._tick()
        except GeneratorExit:
            raise
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self.failure = error
            raise

    def stop(self) -> None:
        """Closes the files that the iterator holds, after the batch that is being read."""
        close = getattr(self._messages, "close", None)
        if close is not None:
            self._pool.submit(close)
        self._pool.shutdown(wait=False)


class AsyncStream(AsyncIterator[T]):
    """The items of a streamed reply. Closing it early, or dropping it, cancels the call."""

    def __init__(self, wire: AsyncWire, running: Any, call: Call[Any, Any, T]) -> None:
        self._wire = wire
        self._running = running
        self._call = call
        self._ended = False

    def __aiter__(self) -> AsyncStream[T]:
        return self

    async def __anext__(self) -> T:
        if self._ended:
            raise StopAsyncIteration
        try:
            message = await self._running.read()
        except grpc.RpcError as cause:
            await self._finish()
            raise await self._wire.error(cause, self._call.about) from cause
        except asyncio.CancelledError:
            if self._wire.lost(self._running):
                raise ConnectionError(self._wire.endpoint.target, CLOSED) from None
            raise
        if message is EOF:
            await self._finish()
            raise StopAsyncIteration
        return self._call.convert(message)

    async def _finish(self) -> None:
        self._ended = True
        self._finished(await self._running.trailing_metadata())

    def _finished(self, trailers: Any) -> None:
        """The stream has ended by itself."""

    async def close(self) -> None:
        """Cancels what still runs. May be called again."""
        self._ended = True
        self._running.cancel()

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncExecStream(AsyncStream[OutputChunk]):
    """A command's output as it comes; the twin of agentfense.ExecStream."""

    exit_code: Optional[int] = None  # 128 + signal when a signal ended it
    signal: int = 0

    def _finished(self, trailers: Any) -> None:
        self.exit_code, self.signal = exit_of(trailers)

    async def read(self) -> List[OutputChunk]:
        """Everything until the end."""
        return [chunk async for chunk in self]
