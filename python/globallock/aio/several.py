"""Several locks for asyncio."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, List, Optional

from ..acquisitions import Acquisition
from ..kinds import AllLocks, Taken, keep_nobody_out
from ..oneself import confirm_by_task
from .tasks import Held, give_back, take

__all__ = ["AsyncAllLocks"]


class AsyncAllLocks(Held):
    """Several locks, acquired all or none.

    >>> async def main():
    ...     async with lockman.aio.hold("accounts/9"):
    ...         both = lockman.aio.lock_all(["accounts/7", "accounts/9"], blocking=False)
    ...         return await both.acquire(), await lockman.aio.names()
    >>> asyncio.run(main())
    (False, ['accounts/9'])
    """

    def __init__(self, locks: AllLocks, cancel_on_loss: bool = False) -> None:
        self.sync: AllLocks = locks
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

    async def _take(self, taken: "List[Any]") -> "Optional[Acquisition[Taken]]":
        several: Taken = []
        self.sync._holdings.begin()
        until = self.sync._until()
        for lock in self.sync.locks if until is None else ():
            await confirm_by_task(lock, self.sync._request(lock, None))
        self.sync._refuse_to_wait(until, is_confirmed=True)
        for lock in self.sync.locks:
            acquisition = await take(lock, taken, self.sync._request(lock, until))
            if acquisition is None:
                keep_nobody_out(several)
                await _give_back_all(several)
                return None
            taken.append((lock, acquisition))
            several.append((lock, acquisition))
        return self.sync._holdings.add(several)

    async def _give_back(self, acquisition: "Acquisition[Taken]") -> None:
        await _give_back_all(self.sync._taken_by(acquisition))

    def _parts(self, acquisition: "Acquisition[Taken]") -> Taken:
        return acquisition.granted or []

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
