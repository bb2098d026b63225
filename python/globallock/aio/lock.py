"""A lock for asyncio."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Optional, TypeVar

from ..addresses import Seconds
from ..bodies import Body, limited
from ..engine import Value
from ..exceptions import InvalidOption, NotLocked, Reason
from ..loops import outcome
from .tasks import enter, give_back, leave, release, take

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ..native import NativeGlobalLock

    P = ParamSpec("P")

R = TypeVar("R")

__all__ = ["AsyncLock"]


class AsyncLock:
    """A lock whose methods are awaited."""

    def __init__(self, lock: NativeGlobalLock, cancel_on_loss: bool = False) -> None:
        self.sync = lock
        #: Whether an ``async with`` block is cancelled when the lock ends.
        self.cancel_on_loss = cancel_on_loss

    @property
    def name(self) -> str:
        """The name of the lock."""
        return self.sync.name

    @property
    def is_locked(self) -> bool:
        """Whether the running task holds the lock now, as the ``is_locked`` of the lock for threads."""
        return self.sync.is_locked

    @property
    def fencing_token(self) -> Optional[int]:
        """The fencing token of this grant; ``None`` while the lock is not held."""
        return self.sync.fencing_token

    async def acquire(self) -> bool:
        """Acquires the lock and says whether it was granted.

        If cancelled, it leaves nothing in the store. Raises the same errors as the ``acquire()`` for threads.
        """
        if self.cancel_on_loss:
            raise InvalidOption("cancel_on_loss needs a block: use async with")
        return await take(self.sync) is not None

    async def release(self) -> None:
        """Releases the task's latest acquisition, as the ``release()`` for threads.

        If cancelled, it goes on in the background.
        """
        await release(self.sync)

    @property
    def loss(self) -> Optional[Reason]:
        """Why the lock is lost, as the ``loss`` of the lock for threads."""
        return self.sync.loss

    async def lost(self) -> Optional[Reason]:
        """Waits until the lock is lost and says why; ``None`` once it was released."""
        guard = self.sync._guard
        return None if guard is None else Reason.made_of(await outcome(guard.lost()))

    async def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        If cancelled, nothing is lost. Raises the same errors as the ``extend()`` for threads.
        """
        guard = self.sync._guard
        return guard is not None and await outcome(guard.renew())

    @property
    def kept_for(self) -> Optional[float]:
        """For how long others would be kept out now, as the ``kept_for`` of the lock for threads."""
        return self.sync.kept_for

    @property
    def value(self) -> Optional[Value]:
        """The value of the name, as the ``value`` of the lock for threads."""
        return self.sync.value

    async def set_value(self, data: bytes, keep: Seconds) -> bool:
        """Leaves a value beside the lock, as the ``set_value()`` for threads.

        If cancelled, it may be written or not.
        """
        guard, data, time = self.sync.write_request(data, keep)
        return await outcome(guard.set_value(data, time))

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner should end its work now, as the ``asked_to_end`` of the lock for threads."""
        return self.sync.asked_to_end

    async def run(self, work: "Callable[P, Awaitable[R]]", *args: "P.args", **kwargs: "P.kwargs") -> R:
        """Acquires the lock, awaits ``work`` in a task of its own, and releases the lock.

        ::

            lock = lockman.aio.lock("nightly-report", timeout=3600, grace=30)
            await lock.run(send_the_report)

        The work is cancelled when the lock is lost. With ``grace``, its end at ``timeout`` is a planned one:
        it is cancelled, and the lock is kept while it cleans up. After the grace it is cancelled once more.
        If it ignores that too for a second, it is left, with a warning in the log, and may go on beside the
        next owner. Only then the lock is released, and the next owner is let in.

        If cancelled, the work is cancelled, and the lock is released when it has ended.

        :raises NotLocked: the lock was not granted in time.
        :raises HeldTooLong: the work was ended, or was left, because its max hold time had passed.
        :raises LockLost: the lock was lost before the work had ended.
        """
        acquisition = await take(self.sync, limited(self.sync.lock_request()))
        if acquisition is None:
            raise NotLocked(self.name)
        try:
            return await Body(self.sync, acquisition, work(*args, **kwargs)).outcome()
        finally:
            await give_back(self.sync, acquisition)

    def hold(self) -> "AsyncLock":
        """Makes a lock of this recipe whose ``async with`` raises :class:`NotLocked` if it is not granted."""
        return AsyncLock(self.sync.hold(), self.cancel_on_loss)

    async def __aenter__(self) -> "AsyncLock":
        await enter(self.sync, sys._getframe(1), self.cancel_on_loss)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await leave(self.sync, sys._getframe(1), exception)

    def __copy__(self) -> "AsyncLock":
        return AsyncLock(copy.copy(self.sync), self.cancel_on_loss)

    def __repr__(self) -> str:
        return f"<AsyncLock of {self.sync!r}>"
