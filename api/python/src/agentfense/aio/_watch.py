"""Events of a sandbox or codebase as an asynchronous iterator; the twin of agentfense._watch."""

from __future__ import annotations

import asyncio
from typing import Any

from .._rpc import Call
from ..exceptions import SandboxError
from ._wire import AsyncStream, AsyncWire, T


class AsyncEvents(AsyncStream[T]):
    """What happens in a sandbox or codebase, as it happens: `client.watch`, `client.trace`.

    Nothing is missed from the beginning of its `async with` block on, or from its first item when
    there is none; what came faster than it was taken is told by `lost`. Ends when the sandbox or
    codebase is removed, or by close(), also from another task.
    """

    def __init__(self, wire: AsyncWire, call: Call[Any, Any, T]) -> None:
        super().__init__(wire, wire.start(call.method, call.request), call)
        self._is_ready = False
        self._left = False

    async def ready(self) -> None:
        """Waits for the daemon's word that it watches."""
        if not self._is_ready:
            await super().__anext__()
            self._is_ready = True

    async def __anext__(self) -> T:
        try:
            await self.ready()
            return await super().__anext__()
        except SandboxError:
            if self._left:
                raise StopAsyncIteration from None
            raise
        except asyncio.CancelledError:
            if self._left and self._running.cancelled():
                raise StopAsyncIteration from None
            raise

    async def close(self) -> None:
        """Ends the iteration. May be called again."""
        self._left = True
        await super().close()

    async def __aenter__(self) -> AsyncEvents[T]:
        await self.ready()
        return self
