"""Events of a sandbox or codebase as an iterator that goes on until it is left."""

from __future__ import annotations

from typing import Any

from ._rpc import Call
from ._wire import Stream, T, Wire
from .exceptions import SandboxError


class Events(Stream[T]):
    """What happens in a sandbox or codebase, as it happens: `client.watch`, `client.trace`.

    Nothing is missed from its making on; what came faster than it was taken is told by `lost`.
    Ends when the sandbox or codebase is removed, or by close(), also from another thread.
    """

    def __init__(self, wire: Wire, call: Call[Any, Any, T]) -> None:
        super().__init__(wire, wire.start(call.method, call.request), call)
        self._left = False
        super().__next__()  # the daemon says that it is ready

    def __next__(self) -> T:
        try:
            return super().__next__()
        except SandboxError:
            if self._left:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Ends the iteration. May be called again, and from any thread."""
        self._left = True
        super().close()
