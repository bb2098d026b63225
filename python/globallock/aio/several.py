"""Several locks for asyncio."""

from __future__ import annotations

import asyncio
import copy
import sys
from typing import Any, Optional

from ..acquisitions import Acquisition
from ..bodies import Ending
from ..exceptions import InvalidOption
from ..kinds import AllLocks, Taken, keep_nobody_out
from .tasks import give_back, left, take

__all__ = ["AsyncAllLocks"]


class AsyncAllLocks:
    """Several locks, acquired all or none."""

    def __init__(self, locks: AllLocks, cancel_on_loss: bool = False) -> None:
        self.sync = locks
        #: Whether an ``async with`` block is cancelled when one of them ends.
        self.cancel_on_loss = cancel_on_loss

    @property
    def is_locked(self) -> bool:
        """Whether all of them are held now."""
        return self.sync.is_locked

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner of one of them should end its work now."""
        return self.sync.asked_to_end

    async def acquire(self) -> bool:
        """Acquires all of them, or none, and says which. If cancelled, it leaves nothing in the store."""
        if self.cancel_on_loss:
            raise InvalidOption("cancel_on_loss needs a block: use async with")
        return await self._take() is not None

    async def _take(self) -> "Optional[Acquisition[Taken]]":
        taken: Taken = []
        self.sync._holdings.begin()
        try:
            until = self.sync.until()
            for lock in self.sync.locks:
                request = self.sync.request(lock, until)
                acquisition = await take(lock, request)
                if acquisition is None:
                    await self._give_back_partly(taken)
                    return None
                taken.append((lock, acquisition))
        except BaseException:
            await self._give_back_partly(taken)
            raise
        return self.sync._holdings.add(taken)

    async def _give_back_partly(self, taken: Taken) -> None:
        keep_nobody_out(taken)
        await _give_back_all(taken)

    async def release(self) -> None:
        """Releases the task's latest acquisition, as the ``release()`` for threads.

        If cancelled, it goes on in the background.
        """
        several = self.sync.to_release()
        if several is not None:
            await _give_back_all(self.sync.taken_by(several))

    def hold(self) -> "AsyncAllLocks":
        """Makes the same, whose ``async with`` raises :class:`NotLocked` where not all are granted."""
        return AsyncAllLocks(self.sync.hold(), self.cancel_on_loss)

    async def __aenter__(self) -> "AsyncAllLocks":
        frame = sys._getframe(1)
        several = await self._take()
        if several is None and self.sync._is_required:
            raise self.sync.refusal()
        if several is not None and self.cancel_on_loss:
            several.ending = Ending(several.granted or [])
        self.sync._holdings.enter(frame, several, [])
        return self

    async def __aexit__(self, *exception: Any) -> None:
        entered = left(self.sync._holdings, sys._getframe(1))
        if entered is None:
            await self.release()
            return
        self.sync._warn_of_refused(entered)
        try:
            if entered.ending is not None:
                await entered.ending.leave(exception)
        finally:
            await _give_back_all(self.sync.taken_by(entered))

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
