"""Several locks for asyncio."""

from __future__ import annotations

import asyncio
import copy
from types import FrameType
from typing import Any, List, Optional

from .. import _rust
from ..acquisitions import Acquisition
from ..bodies import Ending
from ..exceptions import InvalidOption
from ..kinds import AllLocks, Taken, keep_nobody_out
from .tasks import give_back, take

__all__ = ["AsyncAllLocks"]


class AsyncAllLocks(_rust.AsyncShield):
    """Several locks, acquired all or none.

    >>> async def main():
    ...     async with lockman.aio.hold("accounts/9"):
    ...         both = lockman.aio.lock_all(["accounts/7", "accounts/9"], blocking=False)
    ...         return await both.acquire(), await lockman.aio.names()
    >>> asyncio.run(main())
    (False, ['accounts/9'])
    """

    def __init__(self, locks: AllLocks, cancel_on_loss: bool = False) -> None:
        self.sync = locks
        #: Whether an ``async with`` block is cancelled when one of them ends.
        self.cancel_on_loss = cancel_on_loss

    @property
    def is_locked(self) -> bool:
        """Whether all of them are held now.

        >>> async def main():
        ...     async with lockman.aio.lock_all(["accounts/7", "accounts/9"], blocking_timeout=5) as both:
        ...         if both.is_locked:
        ...             print("moves the money")
        >>> asyncio.run(main())
        moves the money
        """
        return self.sync.is_locked

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner of one of them should end its work now.

        >>> async def main():
        ...     async with lockman.aio.lock_all(["a", "b"], timeout=0.1, grace=30).hold() as both:
        ...         while not both.asked_to_end:
        ...             await asyncio.sleep(0)  # indexes the next document
        ...         return both.is_locked
        >>> asyncio.run(main())
        True
        """
        return self.sync.asked_to_end

    # Coroutine functions, because frameworks ask whether they are.

    async def acquire(self) -> bool:
        """Acquires all of them, or none, and says whether it was granted.

        If cancelled, it leaves nothing in the store. Raises the same errors as the ``acquire()`` for threads.

        >>> async def main():
        ...     lock = lockman.aio.lock_all(["accounts/7", "accounts/9"], blocking_timeout=5)
        ...     if await lock.acquire():
        ...         print("ships the order")
        ...         await lock.release()
        >>> asyncio.run(main())
        ships the order
        """
        return await super().acquire()

    async def release(self) -> None:
        """Releases the task's latest acquisition, as the ``release()`` for threads.

        If cancelled, it goes on in the background.

        >>> async def main():
        ...     lock = lockman.aio.lock_all(["accounts/7", "accounts/9"])
        ...     acquired = await lock.acquire()
        ...     await lock.release()
        ...     return acquired, lock.is_locked
        >>> asyncio.run(main())
        (True, False)
        """
        await super().release()

    # What follows is called by the core, as that of locks for threads.

    async def _aacquire(self, frame: None, taken: "List[Any]") -> bool:
        if self.cancel_on_loss:
            raise InvalidOption("cancel_on_loss needs a block: use async with")
        return await self._take(taken) is not None

    async def _take(self, taken: "List[Any]") -> "Optional[Acquisition[Taken]]":
        several: Taken = []
        self.sync._holdings.begin()
        until = self.sync._until()
        for lock in self.sync.locks:
            acquisition = await take(lock, taken, self.sync._request(lock, until))
            if acquisition is None:
                keep_nobody_out(several)
                await _give_back_all(several)
                return None
            taken.append((lock, acquisition))
            several.append((lock, acquisition))
        return self.sync._holdings.add(several)

    async def _arelease(self, frame: Optional[FrameType], leaving: "List[Any]", exception: Any) -> None:
        several = self.sync._to_release()
        if several is not None:
            leaving.append(several)
            await _give_back_all(self.sync._taken_by(several))

    def _find(self, frame: Optional[FrameType], leaving: "List[Any]") -> None:
        self.sync._find(frame, leaving)

    def _undo(self, frame: Optional[FrameType], noted: "List[Any]") -> None:
        self.sync._undo(frame, noted)

    def hold(self) -> "AsyncAllLocks":
        """Makes the same, whose ``async with`` raises :class:`NotLocked` where not all are granted.

        >>> async def main():
        ...     async with lockman.aio.hold("b"), lockman.aio.lock_all(["a", "b"], blocking=False).hold():
        ...         print("moves the money")
        >>> asyncio.run(main())
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'a, b' was not granted: another owner has one of these
        """
        return AsyncAllLocks(self.sync.hold(), self.cancel_on_loss)

    async def _aenter(self, frame: FrameType, taken: "List[Any]") -> None:
        several = await self._take(taken)
        if several is None and self.sync._is_required:
            raise self.sync._refusal()
        if several is not None and self.cancel_on_loss:
            several.ending = Ending(several.granted or [])
        self.sync._holdings.enter(frame, several, taken)

    async def _aexit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self.sync._holdings.find(frame, leaving)
        if not leaving:
            await self._arelease(frame, leaving, exception)
            return
        entered = leaving[0]
        self.sync._holdings.exit(entered)
        self.sync._warn_of_refused(entered)
        try:
            if entered.ending is not None:
                await entered.ending.leave(exception)
        finally:
            await _give_back_all(self.sync._taken_by(entered))

    def __copy__(self) -> "AsyncAllLocks":
        return AsyncAllLocks(copy.copy(self.sync), self.cancel_on_loss)

    def __repr__(self) -> str:
        return f"<AsyncAllLocks of {self.sync!r}>"


async def _give_back_all(taken: Taken) -> None:
    try:
        await asyncio.gather(*(give_back(lock, acquisition) for lock, acquisition in taken))
    finally:
        # A task that is cancelled before its first step does nothing.
        for lock, acquisition in taken:
            lock._forget(acquisition)
            acquisition.granted.let_go()
