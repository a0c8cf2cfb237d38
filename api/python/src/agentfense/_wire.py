"""The synchronous side of a call: one channel, made at first use, safe to share between threads.

A channel does not live through fork(): the child gets one of its own, the parent's is left alone.
Errors are the documented exceptions. Ctrl-C while a call waits cancels it, then is raised.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

import grpc

from . import _errors
from ._endpoint import Endpoint
from ._interrupts import uninterrupted
from ._rpc import About, Call, Method
from .exceptions import ConnectionError, SandboxError
from .types import OutputChunk

T = TypeVar("T")
_POLL_S = 0.1  # how often a waiting upload reports its progress
CLOSED = "this client is closed: make another one"


def exit_of(trailers: Any) -> Tuple[Optional[int], int]:
    """The exit code and signal in a stream's trailing metadata."""
    found = {key: value for key, value in (trailers or ())}
    try:
        code = int(found["agentfense-exit-code"])
        return code, int(found.get("agentfense-signal", 0))
    except (KeyError, ValueError):
        return None, 0


class Wire:
    """A lazily opened channel and the ways to make a call on it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._channel: Any = None
        self._stubs: Dict[str, Any] = {}
        self._closed = False

    def _stub(self, method: Method[Any, Any]) -> Any:
        with self._lock:
            if self._closed:
                raise ConnectionError(self.endpoint.target, CLOSED)
            if self._channel is None or self._pid != os.getpid():
                self._open()
            stub = self._stubs.get(method.path)
            if stub is None:
                stub = self._stubs[method.path] = self._make_stub(method)
            return stub

    def _open(self) -> None:
        target, options = self.endpoint.target, self.endpoint.options()
        if self.endpoint.secure:
            credentials = grpc.ssl_channel_credentials(self.endpoint.root_certificates)
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._pid = os.getpid()
        self._stubs = {}

    def _make_stub(self, method: Method[Any, Any]) -> Any:
        kinds = {"u": "unary", "s": "stream"}
        maker = getattr(self._channel, f"{kinds[method.shape[0]]}_{kinds[method.shape[1]]}")
        return maker(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def close(self) -> None:
        """Closes the channel; calls in flight are cancelled. May be called again."""
        with self._lock:
            channel, self._channel = self._channel, None
            self._closed = True
            self._stubs = {}
            mine = self._pid == os.getpid()
        if channel is not None and mine:
            channel.close()

    @property
    def is_closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def start(self, method: Method[Any, Any], request: Any, as_future: bool = False) -> Any:
        """Starts a call of any shape; returns gRPC's own call object or reply."""
        stub = self._stub(method)
        try:
            if method.shape == "uu" and not as_future:
                return stub(request, metadata=self.endpoint.metadata())
            with uninterrupted():  # a channel with half a call never closes
                send = stub.future if as_future else stub
                return send(request, metadata=self.endpoint.metadata())
        except ValueError:  # closed by another thread meanwhile: gRPC's word for it
            raise ConnectionError(self.endpoint.target, CLOSED) from None

    def error(self, cause: Any, about: About) -> SandboxError:
        """The documented exception for a failed call."""
        if self._closed:
            return ConnectionError(self.endpoint.target, CLOSED, cause.code())
        question = _errors.question(cause.code(), about)
        answer = None
        if question is not None:
            try:
                answer = self.start(question.method, question.request)
            except (grpc.RpcError, SandboxError):
                pass
        return _errors.to_error(cause.code(), cause.details(), about, self.endpoint.target, answer)

    def call(self, call: Call[Any, Any, T]) -> T:
        """A unary call."""
        try:
            reply = self.start(call.method, call.request)
        except grpc.RpcError as cause:
            raise self.error(cause, call.about) from cause
        return call.convert(reply)

    def stream(self, call: Call[Any, Any, T]) -> Stream[T]:
        """A call whose reply is a stream; it begins now."""
        return Stream(self, self.start(call.method, call.request), call)

    def send(
        self,
        call: Call[Any, Any, T],
        messages: Callable[[], Iterator[Any]],
        tick: Optional[Callable[[], None]] = None,
    ) -> T:
        """A call whose request is a stream. The iterator runs in a thread of gRPC's.

        What the iterator raises cancels the call (so the daemon keeps nothing) and is raised here.
        tick: called in this thread every now and then until the end; may raise as well.
        """
        feed = _Feed(messages())
        try:
            with uninterrupted():
                feed.running = running = self.start(call.method, feed, as_future=True)
            feed.may_run.set()
            while True:
                if tick is not None:
                    tick()
                try:
                    reply = running.result(timeout=_POLL_S)
                    break
                except grpc.FutureTimeoutError:
                    continue
        except (grpc.RpcError, grpc.FutureCancelledError) as cause:
            if feed.failure is not None:
                raise feed.failure from None
            if isinstance(cause, grpc.RpcError):
                raise self.error(cause, call.about) from cause
            raise ConnectionError(self.endpoint.target, "the call was cancelled") from cause
        finally:
            if feed.running is not None:
                feed.running.cancel()  # nothing, once it has ended
            feed.stop()
        if tick is not None:
            tick()
        return call.convert(reply)


class _Feed:
    """An iterator for gRPC's thread whose end is a half-close only when all went well."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self._stopped = False
        self._lock = threading.Lock()
        self.running: Any = None
        self.may_run = threading.Event()
        self.failure: Optional[BaseException] = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Any:
        self.may_run.wait()
        with self._lock:
            if self._stopped:
                raise StopIteration
            try:
                return next(self._messages)
            except StopIteration:
                raise
            except BaseException as error:
                self.failure = error
                self.running.cancel()  # first, so that the end that follows commits nothing
                raise StopIteration from None

    def stop(self) -> None:
        """No further message; closes the files that the iterator holds."""
        self.may_run.set()
        with self._lock:
            self._stopped = True
            close = getattr(self._messages, "close", None)
            if close is not None:
                close()


class Stream(Iterator[T]):
    """The items of a streamed reply. Closing it early, or dropping it, cancels the call."""

    def __init__(self, wire: Wire, running: Any, call: Call[Any, Any, T]) -> None:
        self._wire = wire
        self._running = running
        self._call = call
        self._ended = False

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        try:
            return self._call.convert(next(self._running))
        except StopIteration:
            self._ended = True
            self._finished()
            raise
        except grpc.RpcError as cause:
            self._ended = True
            self._finished()
            raise self._wire.error(cause, self._call.about) from cause

    def _finished(self) -> None:
        """The stream has ended by itself; its trailers are there."""

    def close(self) -> None:
        """Cancels what still runs. May be called again."""
        self._ended = True
        self._running.cancel()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self._running.cancel()
        except Exception:  # the interpreter is going down
            pass


class ExecStream(Stream[OutputChunk]):
    """A command's output as it comes; `exit_code` and `signal` are there after the last chunk.

    Each item is bytes and knows its `stream`. Leaving it early (close(), a with block, dropping
    it) kills the command and everything that it started. A timeout is raised by the iteration,
    after everything that was printed.
    """

    exit_code: Optional[int] = None  # 128 + signal when a signal ended it
    signal: int = 0

    def _finished(self) -> None:
        self.exit_code, self.signal = exit_of(self._running.trailing_metadata())

    def read(self) -> List[OutputChunk]:
        """Everything until the end."""
        return list(self)
