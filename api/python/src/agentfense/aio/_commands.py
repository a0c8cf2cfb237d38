"""Commands that run while their owner does other things: started at once, waited for at its end."""

from __future__ import annotations

import asyncio
from typing import Any, Coroutine, Set, TypeVar

T = TypeVar("T")


class Commands:
    """The running commands of a sandbox or session."""

    def __init__(self) -> None:
        self._running: Set[asyncio.Task[Any]] = set()

    def start(self, command: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts one; the task gives its result, any number of times, before or after the end."""
        try:
            task = asyncio.ensure_future(command)
        except RuntimeError:  # no event loop runs: tell so, without a second warning
            command.close()
            raise
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, cancel: bool) -> None:
        """Returns when none runs any more. cancel: ends them instead of waiting for them.

        Being cancelled meanwhile ends them, too. Their results and errors stay with their tasks.
        """
        while self._running:
            running = list(self._running)
            if cancel:
                for task in running:
                    task.cancel()
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError:
                for task in running:
                    task.cancel()
                raise
