"""The locks for asyncio: waiting costs no thread, and a cancelled wait leaves nothing in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Optional, TypeVar, Union, overload

from ..addresses import Seconds
from ..decorators import Locked, Name, OnBusy
from ..engine import Claim
from ..native import flag, native
from ..onlooker import AsyncWatch, Summary
from ..options import both
from .lock import AsyncLock
from .once import AsyncOnce, AsyncTurn
from .several import AsyncAllLocks

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import ParamSpec, Unpack

    from ..base import GlobalLockManager
    from ..options import AsyncAllOptions, AsyncLockOptions, LockOptions, OnceOptions

    P = ParamSpec("P")

F = TypeVar("F", bound="Callable[..., Any]")

__all__ = [
    "AsyncAllLocks",
    "AsyncLock",
    "AsyncLocks",
    "AsyncOnce",
    "AsyncReadWriteLock",
    "AsyncTurn",
]


class AsyncLocks:
    """A manager's locks for asyncio.

    >>> async def main():
    ...     async with lockman.aio.hold("orders/7", blocking_timeout=5) as lock:
    ...         return lock.fencing_token
    >>> asyncio.run(main())
    1
    """

    def __init__(self, manager: GlobalLockManager) -> None:
        self._manager = manager

    def lock(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock. Takes the options of the manager's ``lock()``, and ``cancel_on_loss``.

        >>> async def main():
        ...     async with lockman.aio.lock("nightly-report", cancel_on_loss=True) as lock:
        ...         if lock.is_locked:
        ...             print("writes the report")
        >>> asyncio.run(main())
        writes the report

        :param cancel_on_loss: whether the ``async with`` block is cancelled when the lock is lost, and at its
            planned end (``grace``). Out of the block comes :class:`LockLost`, or :class:`HeldTooLong`. Other
            tasks that the block has started are not cancelled, but those of a task group in it are.
        """
        return self._made(name, {}, options)

    def _made(self, name: str, kind: "dict[str, Any]", options: AsyncLockOptions) -> AsyncLock:
        given = dict(options)
        cancel_on_loss = flag("cancel_on_loss", given.pop("cancel_on_loss", False))
        lock: Any = self._manager.lock(name, **given, **kind)  # type: ignore[arg-type]
        return AsyncLock(native(lock), cancel_on_loss)

    def hold(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock whose ``async with`` raises :class:`NotLocked` where it is not granted.

        >>> async def main():
        ...     async with lockman.aio.hold("nightly-report"):
        ...         async with lockman.aio.hold("nightly-report", blocking_timeout=0.1):
        ...             print("writes it twice")
        >>> asyncio.run(main())
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'nightly-report' was not granted
        """
        lock = self.lock(name, **options)
        lock.sync._is_required = True
        return lock

    def rwlock(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncReadWriteLock:
        """Makes a read-write lock: many readers or one writer, and neither starves the other.

        >>> async def main():
        ...     catalogue = lockman.aio.rwlock("catalogue")
        ...     async with catalogue.read().hold(), catalogue.read().hold():
        ...         return await catalogue.write(blocking=False).acquire()
        >>> asyncio.run(main())
        False
        """
        return AsyncReadWriteLock(self, name, options)

    def read(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes the read side of a read-write lock.

        >>> async def main():
        ...     async with lockman.aio.read("catalogue").hold(), lockman.aio.read("catalogue").hold():
        ...         return (await lockman.aio.list("catalogue"))[0].holders
        >>> asyncio.run(main())
        2
        """
        return self._made(name, {"kind": "read"}, options)

    def write(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes the write side of a read-write lock.

        >>> async def main():
        ...     async with lockman.aio.write("catalogue").hold():
        ...         return await lockman.aio.read("catalogue", blocking=False).acquire()
        >>> asyncio.run(main())
        False
        """
        return self._made(name, {"kind": "write"}, options)

    def semaphore(
        self, name: str, capacity: int, permits: int = 1, **options: Unpack[AsyncLockOptions]
    ) -> AsyncLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name.

        >>> async def main():
        ...     imports = lockman.aio.semaphore("imports", 2, blocking=False)
        ...     async with imports.hold(), imports.hold():
        ...         return await imports.acquire()
        >>> asyncio.run(main())
        False
        """
        return self._made(name, {"kind": "permits", "permits": permits, "capacity": capacity}, options)

    def lock_all(
        self,
        names: Iterable[str],
        blocking_timeout: Optional[Seconds] = None,
        **options: Unpack[AsyncAllOptions],
    ) -> AsyncAllLocks:
        """Makes a lock of all ``names``, acquired all or none. Takes the options of ``lock()``.

        >>> async def main():
        ...     async with lockman.aio.lock_all(["accounts/9", "accounts/7"], blocking_timeout=5).hold():
        ...         return await lockman.aio.names("accounts/")
        >>> asyncio.run(main())
        ['accounts/7', 'accounts/9']
        """
        given: Any = dict(options)
        cancel_on_loss = flag("cancel_on_loss", given.pop("cancel_on_loss", False))
        return AsyncAllLocks(self._manager.lock_all(names, blocking_timeout, **given), cancel_on_loss)

    @overload
    def locked(
        self,
        name: Name = None,
        *,
        on_busy: "Literal['raise']" = "raise",
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> "Callable[[F], F]": ...

    @overload
    def locked(
        self,
        name: Name = None,
        *,
        on_busy: OnBusy,
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> "Callable[[Callable[P, Any]], Callable[P, Any]]": ...

    def locked(
        self,
        name: Name = None,
        *,
        on_busy: OnBusy = "raise",
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> Any:
        """Makes a decorator, as the manager's ``locked()``, for coroutine functions and async generators.

        >>> @lockman.aio.locked("order/{order_id}", cancel_on_loss=True)
        ... async def ship(order_id):
        ...     return await lockman.aio.names()
        >>> asyncio.run(ship(7))
        ['order/7']
        """
        return Locked(self._manager, name, on_busy, cancel_on_loss, options, is_async=True)

    def once(self, name: str, every: Seconds, **options: Unpack[OnceOptions]) -> AsyncOnce:
        """Makes work that is done once in a while. Takes the options of the manager's ``once()``.

        >>> async def send_the_report():
        ...     return "sent"
        >>> nightly = lockman.aio.once("nightly-report", every=timedelta(hours=20))
        >>> [asyncio.run(nightly.run(send_the_report)).done for host in range(3)]
        [True, False, False]
        """
        return AsyncOnce(self._manager.once(name, every, **options))

    # `List`, because `list` is a method of this class.
    async def inspect(self, name: str) -> "List[Claim]":
        """Lists the holders and the waiters of a lock, oldest first.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7"):
        ...         return [claim.held for claim in await lockman.aio.inspect("orders/7")]
        >>> asyncio.run(main())
        [True]
        """
        return await self._manager._engine.inspect(name).answer_async()

    async def evict(self, name: str, claim: "Union[Claim, str]", reason: str = "") -> bool:
        """Takes a claim out of the queue of a lock, as the manager's ``evict()``.

        If cancelled, it may be done or not.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7") as lock:
        ...         [holder] = await lockman.aio.inspect("orders/7")
        ...         await lockman.aio.evict("orders/7", holder, reason="it hangs")
        ...         return (await lock.lost()).loss
        >>> asyncio.run(main())
        <Loss.EVICTED: 'evicted'>
        """
        return await self._manager._engine.evict(name, claim, reason).answer_async()

    async def list(self, prefix: str = "") -> "List[Summary]":
        """Sums up the names that have a holder or a waiter, sorted by name.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7"):
        ...         return [(summary.name, summary.holders) for summary in await lockman.aio.list("orders/")]
        >>> asyncio.run(main())
        [('orders/7', 1)]
        """
        return await self._manager._engine.list(prefix).answer_async()

    def watch(self, prefix: str = "", every: Seconds = 1.0) -> AsyncWatch:
        """Tells how the names that begin with ``prefix`` change, as the manager's ``watch()``.

        >>> async def main():
        ...     async with lockman.aio.hold("reports/7"), lockman.aio.watch("reports/") as changes:
        ...         async for summary in changes:
        ...             return summary.name, summary.holders
        >>> asyncio.run(main())
        ('reports/7', 1)
        """
        return self._manager._engine.watch_async(prefix, every)

    async def names(self, prefix: str = "") -> "List[str]":
        """Lists the names that have a holder or a waiter.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7"), lockman.aio.hold("reports/1"):
        ...         return await lockman.aio.names("orders/")
        >>> asyncio.run(main())
        ['orders/7']
        """
        return await self._manager._engine.names(prefix).answer_async()


class AsyncReadWriteLock:
    """A read-write lock for asyncio: many readers, or one writer.

    >>> async def main():
    ...     catalogue = lockman.aio.rwlock("catalogue", timeout=60)
    ...     async with catalogue.read().hold(), catalogue.read().hold():
    ...         return await catalogue.write(blocking=False).acquire()
    >>> asyncio.run(main())
    False
    """

    def __init__(self, locks: AsyncLocks, name: str, options: AsyncLockOptions) -> None:
        self._locks, self._name, self._options = locks, name, options
        # What is wrong in the options is told here, and not at the first use.
        self.read().sync._check()

    def read(self, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock that many readers hold together.

        >>> async def main():
        ...     catalogue = lockman.aio.rwlock("catalogue")
        ...     async with catalogue.read().hold() as one, catalogue.read().hold() as another:
        ...         return one.is_locked, another.is_locked
        >>> asyncio.run(main())
        (True, True)
        """
        return self._locks.read(self._name, **both(self._options, options))

    def write(self, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock that one writer holds alone.

        >>> async def main():
        ...     catalogue = lockman.aio.rwlock("catalogue")
        ...     async with catalogue.write().hold():
        ...         return await catalogue.read(blocking=False).acquire()
        >>> asyncio.run(main())
        False
        """
        return self._locks.write(self._name, **both(self._options, options))
