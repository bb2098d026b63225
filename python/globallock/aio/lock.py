"""A lock for asyncio."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Awaitable, Callable, List, Optional, Tuple, TypeVar

from .. import _rust
from ..acquisitions import Acquisition
from ..addresses import Seconds
from ..bodies import Body, limited
from ..engine import Value
from ..exceptions import Reason, reason_of
from ..loops import outcome
from .tasks import Held, give_back, take

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ..native import NativeGlobalLock

    P = ParamSpec("P")

R = TypeVar("R")

__all__ = ["AsyncLock"]


class AsyncLock(Held):
    """A lock whose methods are awaited.

    >>> async def main():
    ...     async with lockman.aio.lock("orders/7", blocking_timeout=5) as lock:
    ...         if lock.is_locked:
    ...             print("ships the order")
    >>> asyncio.run(main())
    ships the order
    """

    def __init__(self, lock: NativeGlobalLock, cancel_on_loss: bool = False) -> None:
        self.sync: NativeGlobalLock = lock
        self.cancel_on_loss = cancel_on_loss

    @property
    def name(self) -> str:
        """The name of the lock.

        >>> lockman.aio.lock("orders/7").name
        'orders/7'
        """
        return self.sync.name

    @property
    def is_locked(self) -> bool:
        """Whether the running task holds the lock now, as the ``is_locked`` of the lock for threads.

        >>> async def main():
        ...     lock = lockman.aio.lock("orders/7")
        ...     async with lock:
        ...         inside = lock.is_locked
        ...     return inside, lock.is_locked
        >>> asyncio.run(main())
        (True, False)
        """
        return self.sync.is_locked

    @property
    def fencing_token(self) -> Optional[int]:
        """The fencing token of this grant; ``None`` while the lock is not held.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7") as lock:
        ...         earlier = lock.fencing_token
        ...     async with lockman.aio.hold("orders/7") as lock:
        ...         return lock.fencing_token > earlier
        >>> asyncio.run(main())
        True
        """
        return self.sync.fencing_token

    def _take(self, taken: "List[Any]") -> "Awaitable[Optional[Acquisition[_rust.Guard]]]":
        return take(self.sync, taken)

    def _give_back(self, acquisition: "Acquisition[_rust.Guard]") -> "Awaitable[None]":
        return give_back(self.sync, acquisition)

    def _parts(
        self, acquisition: "Acquisition[_rust.Guard]"
    ) -> "List[Tuple[NativeGlobalLock, Acquisition[_rust.Guard]]]":
        return [(self.sync, acquisition)]

    @property
    def loss(self) -> Optional[Reason]:
        """Why the lock is lost, as the ``loss`` of the lock for threads.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7", timeout=0.1) as lock:
        ...         await lock.lost()
        ...         return lock.loss.loss
        >>> asyncio.run(main())
        <Loss.HELD_TOO_LONG: 'held_too_long'>
        """
        return self.sync.loss

    async def lost(self) -> Optional[Reason]:
        """Waits until the lock is lost and says why; ``None`` once it was released.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7", timeout=0.1) as lock:
        ...         return (await lock.lost()).loss
        >>> asyncio.run(main())
        <Loss.HELD_TOO_LONG: 'held_too_long'>
        """
        guard = self.sync._guard
        return None if guard is None else reason_of(await outcome(guard.lost()))

    async def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        If cancelled, nothing is lost. Raises the same errors as the ``extend()`` for threads.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7") as lock:
        ...         if await lock.extend():
        ...             print("sends the parcel")
        >>> asyncio.run(main())
        sends the parcel
        """
        self.sync._holdings.note_asked()
        guard = self.sync._guard
        return guard is not None and await outcome(guard.renew())

    @property
    def kept_for(self) -> Optional[float]:
        """For how long others would be kept out now, as the ``kept_for`` of the lock for threads.

        >>> async def main():
        ...     async with lockman.aio.hold("rotate-logs", hold_at_least=60) as lock:
        ...         return 0 < lock.kept_for <= 60
        >>> asyncio.run(main())
        True
        """
        return self.sync.kept_for

    @property
    def value(self) -> Optional[Value]:
        """The value of the name, as the ``value`` of the lock for threads.

        >>> async def main():
        ...     async with lockman.aio.hold("import", with_value=True) as lock:
        ...         await lock.set_value(b"row 7", keep=timedelta(days=7))
        ...     async with lockman.aio.hold("import", with_value=True) as lock:
        ...         return lock.value.data
        >>> asyncio.run(main())
        b'row 7'
        """
        return self.sync.value

    async def set_value(self, data: bytes, keep: Seconds) -> bool:
        """Leaves a value beside the lock, as the ``set_value()`` for threads.

        If cancelled, it may be written or not.

        >>> async def main():
        ...     async with lockman.aio.hold("import", with_value=True) as lock:
        ...         row = int(lock.value.data) if lock.value else 0
        ...         return await lock.set_value(b"%d" % (row + 1), keep=timedelta(days=7))
        >>> asyncio.run(main())
        True
        """
        guard, data, time = self.sync._write_request(data, keep)
        return await outcome(guard.set_value(data, time))

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner should end its work now, as the ``asked_to_end`` of the lock for threads.

        >>> async def main():
        ...     async with lockman.aio.hold("reindex", timeout=0.1, grace=30) as lock:
        ...         while not lock.asked_to_end:
        ...             await asyncio.sleep(0)  # indexes the next document
        ...         return lock.is_locked
        >>> asyncio.run(main())
        True
        """
        return self.sync.asked_to_end

    async def run(self, work: "Callable[P, Awaitable[R]]", *args: "P.args", **kwargs: "P.kwargs") -> R:
        """Acquires the lock, awaits ``work`` in a task of its own, and releases the lock.

        The work is cancelled when the lock is lost. With ``grace``, its end at ``timeout`` is a planned one:
        it is cancelled, and the lock is kept while it cleans up. After the grace it is cancelled once more.
        If it ignores that too for a second, it is left, with a warning in the log, and may go on beside the
        next owner. Only then the lock is released, and the next owner is let in.

        If cancelled, the work is cancelled, and the lock is released when it has ended.

        >>> async def send_the_report(to):
        ...     return f"sent to {to}"
        >>> lock = lockman.aio.lock("nightly-report", timeout=3600, grace=30)
        >>> asyncio.run(lock.run(send_the_report, "all"))
        'sent to all'

        :raises NotLocked: the lock was not granted in time.
        :raises HeldTooLong: the work was ended, or was left, because its max hold time had passed.
        :raises LockLost: the lock was lost before the work had ended.
        """
        async with _Run(self.sync) as run:
            return await Body(self.sync, run.acquisition, work(*args, **kwargs)).outcome()

    def hold(self) -> "AsyncLock":
        """Makes a lock of this recipe whose ``async with`` raises :class:`NotLocked` if it is not granted.

        >>> async def main():
        ...     async with lockman.aio.lock("orders/7").hold():
        ...         async with lockman.aio.lock("orders/7", blocking=False).hold():
        ...             print("ships it twice")
        >>> asyncio.run(main())
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'orders/7' was not granted
        """
        return AsyncLock(self.sync.hold(), self.cancel_on_loss)

    def __copy__(self) -> "AsyncLock":
        return AsyncLock(copy.copy(self.sync), self.cancel_on_loss)

    def __repr__(self) -> str:
        return f"<AsyncLock of {self.sync!r}>"


class _Run(AsyncLock):
    """The block of a body, which ends its lock by itself."""

    #: What the body holds.
    acquisition: "Acquisition[_rust.Guard]"

    async def _take(self, taken: "List[Any]") -> "Acquisition[_rust.Guard]":
        acquisition = await take(self.sync, taken, limited(self.sync._lock_request()))
        if acquisition is None:
            raise self.sync._refusal()
        self.acquisition = acquisition
        return acquisition
