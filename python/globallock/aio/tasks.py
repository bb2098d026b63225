"""What a task acquires and releases.

An asynchronous exception may interrupt it at any instruction. So what is held stands in the list `taken` or
`leaving` first: from there the core releases it then, as it does for threads.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any, Awaitable, List, Optional, Tuple

from .. import _rust
from ..acquisitions import Acquisition
from ..bodies import Ending
from ..exceptions import InvalidOption
from ..loops import outcome
from ..oneself import confirm_by_task

if TYPE_CHECKING:
    from ..engine import LockRequest
    from ..native import NativeGlobalLock

__all__ = ["Held", "give_back", "take"]


async def take(
    lock: NativeGlobalLock, taken: "List[Any]", request: "Optional[LockRequest]" = None
) -> "Optional[Acquisition[_rust.Guard]]":
    """Acquires a lock for the running task; ``None`` if it was not granted in time."""
    asked = request or lock._lock_request()
    if lock._engine.native.holds(asked) is not None:
        await confirm_by_task(lock, asked)
    lock._begin(asked)
    guard = await outcome(lock._engine.native.acquire(asked), taken)
    return None if guard is None else lock._granted(guard, asked)


async def give_back(lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]") -> None:
    """Releases one acquisition. If cancelled, the release goes on in the background."""
    guard = lock._forget(acquisition)
    if guard is not None:
        lock._warn(await outcome(guard.release()))


class Held(_rust.AsyncShield):
    """What tasks acquire and release: one lock, or several."""

    #: The same for threads.
    sync: Any
    #: Whether an ``async with`` block is cancelled when what it holds ends.
    cancel_on_loss = False

    def _take(self, taken: "List[Any]") -> "Awaitable[Optional[Acquisition[Any]]]":
        """Acquires it for the running task; ``None`` if it was not granted in time."""
        raise NotImplementedError

    def _give_back(self, acquisition: "Acquisition[Any]") -> "Awaitable[None]":
        """Releases one acquisition."""
        raise NotImplementedError

    def _parts(self, acquisition: "Acquisition[Any]") -> "List[Tuple[NativeGlobalLock, Acquisition[Any]]]":
        """Each lock of an acquisition, with its own acquisition."""
        raise NotImplementedError

    # Coroutine functions, because frameworks ask whether they are.

    async def acquire(self) -> bool:
        """Acquires it, or all of several locks, and says whether it was granted.

        If cancelled, it leaves nothing in the store. Raises the same errors as the ``acquire()`` for threads.

        >>> async def main():
        ...     lock = lockman.aio.lock("orders/7", blocking_timeout=5)
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
        ...     both = lockman.aio.lock_all(["accounts/7", "accounts/9"])
        ...     acquired = await both.acquire()
        ...     await both.release()
        ...     return acquired, both.is_locked
        >>> asyncio.run(main())
        (True, False)
        """
        await super().release()

    # What follows is called by the core, as that of a lock for threads.

    async def _aacquire(self, frame: None, taken: "List[Any]") -> bool:
        if self.cancel_on_loss:
            raise InvalidOption("cancel_on_loss needs a block: use async with")
        return await self._take(taken) is not None

    async def _arelease(self, frame: Optional[FrameType], leaving: "List[Any]", exception: Any) -> None:
        acquisition = self.sync._to_release()
        if acquisition is not None:
            leaving.append(acquisition)
            await self._give_back(acquisition)

    async def _aenter(self, frame: FrameType, taken: "List[Any]") -> None:
        acquisition = await self._take(taken)
        if acquisition is None and self.sync._is_required:
            raise self.sync._refusal()
        if acquisition is not None and self.cancel_on_loss:
            acquisition.ending = Ending(self._parts(acquisition))
        self.sync._holdings.enter(frame, acquisition, taken)

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
            await self._give_back(entered)

    def _find(self, frame: Optional[FrameType], leaving: "List[Any]") -> None:
        self.sync._find(frame, leaving)

    def _undo(self, frame: Optional[FrameType], noted: "List[Any]") -> None:
        self.sync._undo(frame, noted)
