"""Moments at which neither Ctrl-C nor a cancellation may come: a call has made something that
nobody would remove, or gRPC is left half set up and waits for ever when it is closed.

Both are put off, not lost, and not for long: GRACE_S at most.
"""

from __future__ import annotations

import _thread
import asyncio
import signal
import threading
import time
from typing import Any, Awaitable, Callable, Optional, Type, TypeVar

T = TypeVar("T")
GRACE_S = 2.0


class uninterrupted:
    """A block at whose end a Ctrl-C that came in it is raised.

    Earlier at the second Ctrl-C, or when the block lasts GRACE_S more. It does nothing in other
    threads, which Ctrl-C does not reach, nor where the program handles SIGINT in its own way.
    """

    def __enter__(self) -> None:
        self._noted = self._over = False
        self._holds = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._holds:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, _frame: Any) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
        # Not threading's: the handler may have come while its locks are held.
        _thread.start_new_thread(self._end_grace, ())

    def _end_grace(self) -> None:
        time.sleep(GRACE_S)
        if not self._over:
            _thread.interrupt_main()

    def __exit__(self, kind: Optional[Type[BaseException]], *exc: object) -> None:
        if not self._holds:
            return
        self._over = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._noted and kind is not KeyboardInterrupt:
            raise KeyboardInterrupt


async def made(work: Awaitable[T], keep: Callable[[T], None]) -> T:
    """The result of a call that makes something; `keep` sees it even when the task is cancelled.

    The cancellation is raised then. A call that takes GRACE_S more is cancelled as well.
    """
    task = asyncio.ensure_future(work)
    try:
        result = await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await _grace(task)
        if not task.cancelled() and task.exception() is None:
            keep(task.result())
        raise
    keep(result)
    return result


async def _grace(task: asyncio.Future[Any]) -> None:
    """Waits for a task, whatever cancellations come meanwhile; in the end it is cancelled."""
    loop = asyncio.get_running_loop()
    late = loop.call_later(GRACE_S, task.cancel)
    try:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
    finally:
        late.cancel()
