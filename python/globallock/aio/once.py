"""Work for asyncio that is done once in a while."""

from __future__ import annotations

import functools
from types import FrameType
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Coroutine, List, Optional, TypeVar

from .. import _rust
from ..bodies import Body, limited
from ..loops import outcome
from ..once import Once, Ran, TurnBase
from ..oneself import confirm_by_task
from .lock import AsyncLock
from .tasks import give_back

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ..engine import LockRequest

    P = ParamSpec("P")

R = TypeVar("R")

__all__ = ["AsyncOnce", "AsyncTurn"]


class AsyncOnce:
    """Work that is done once in a while, however many processes and hosts start it.

    >>> async def send_the_report():
    ...     return "sent"
    >>> nightly = lockman.aio.once("nightly-report", every=timedelta(hours=20))
    >>> [asyncio.run(nightly.run(send_the_report)).done for host in range(3)]
    [True, False, False]
    """

    def __init__(self, once: Once) -> None:
        self.sync = once

    async def run(
        self, work: "Callable[P, Awaitable[R]]", *args: "P.args", **kwargs: "P.kwargs"
    ) -> "Ran[R]":
        """Awaits ``work`` under the lock, unless the last success began less than ``every`` ago.

        As the ``run()`` for threads. But the work is in a task of its own, which is cancelled when the lock
        ends, as by the ``run()`` of a lock.

        If cancelled, the work is cancelled, and nothing is recorded unless it had succeeded already.

        >>> async def send_the_report():
        ...     return "sent"
        >>> ran = asyncio.run(lockman.aio.once("nightly-report", every=3600).run(send_the_report))
        >>> ran.done, ran.value
        (True, 'sent')
        """
        async with AsyncTurn(self.sync, limited) as turn:
            if not turn.due:
                return Ran(False, began=turn.began)
            value = await Body(turn.lock.sync, turn._acquisition, work(*args, **kwargs)).outcome()
            self.sync._refuse_unfinished(value)
        return Ran(True, value)

    def turn(self) -> "AsyncTurn":
        """Makes the same for an ``async with`` block, which must look whether its work is due.

        One that does not look while its work is not due runs without the lock, and is told in the log.

        A block that ends without an exception, by ``return`` or ``break`` too, is a success. Nothing cancels
        it when the lock ends.

        >>> async def main():
        ...     async with lockman.aio.once("nightly-report", every=timedelta(hours=20)).turn() as turn:
        ...         if turn.due:
        ...             print("sends the report with fencing token", turn.lock.fencing_token)
        >>> asyncio.run(main())
        sends the report with fencing token 1
        """
        return AsyncTurn(self.sync)

    def __call__(
        self, function: "Callable[P, Awaitable[R]]"
    ) -> "Callable[P, Coroutine[Any, Any, Ran[R]]]":
        """Makes a coroutine function that does its work once in a while: a decorator."""

        @functools.wraps(function)
        async def run(*args: "P.args", **kwargs: "P.kwargs") -> "Ran[R]":
            return await self.run(function, *args, **kwargs)

        return run


class AsyncTurn(_rust.AsyncBlock, TurnBase):
    """A block of work that may be due; see :meth:`AsyncOnce.turn`.

    >>> async def main():
    ...     async with lockman.aio.once("nightly-report", every=3600).turn() as turn:
    ...         if turn.due:
    ...             print("sends the report")
    >>> asyncio.run(main())
    sends the report
    """

    def __init__(
        self, once: Once, change: "Optional[Callable[[LockRequest], LockRequest]]" = None
    ) -> None:
        super().__init__(once)
        self._change = change

    @property
    def lock(self) -> AsyncLock:
        """The lock, which is held while the work is due.

        >>> async def main():
        ...     async with lockman.aio.once("nightly-report", every=3600).turn() as turn:
        ...         return turn.lock.is_locked
        >>> asyncio.run(main())
        True
        """
        return AsyncLock(self._lock)

    # What follows is called by the core, as that of a turn for threads.

    async def _aenter(self, frame: FrameType, taken: "List[Any]") -> None:
        request, every = self._lock._lock_request(), self._every
        await confirm_by_task(self._lock, request)
        native = self._begin(request)
        asked = request if self._change is None else self._change(request)
        self._begun(frame, asked, await outcome(native.begin(asked, every), taken), taken)

    async def _aexit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self._runs.find(frame, leaving)
        acquisition = self._ended(leaving)
        if acquisition is None:
            return
        try:
            if exception[0] is None:
                await outcome(self._held(acquisition).succeed())
        finally:
            await give_back(self._lock, acquisition)
