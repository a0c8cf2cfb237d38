"""What makes an object: `await it`, or `async with it as made`."""

from __future__ import annotations

from typing import Any, Awaitable, Callable, Generator, Generic, TypeVar

T = TypeVar("T")


class Opening(Generic[T]):
    """A call that has not begun. Awaited it gives the object; as a context also its end."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._made: Any = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._make().__await__()

    async def __aenter__(self) -> T:
        self._made = await self._make()
        entered: T = await self._made.__aenter__()
        return entered

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._made.__aexit__(*exc)
