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
from .tasks import enter, leave

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
    "enter",
    "leave",
]


class AsyncLocks:
    """A manager's locks for asyncio."""

    def __init__(self, manager: GlobalLockManager) -> None:
        self._manager = manager

    def lock(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock. Takes the options of the manager's ``lock()``, and ``cancel_on_loss``.

        ::

            async with lockman.aio.lock("nightly-report", cancel_on_loss=True) as lock:
                if lock.is_locked:
                    await write_report(lock.fencing_token)

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

        ::

            async with lockman.aio.hold("nightly-report", blocking_timeout=5) as lock:
                await write_report(lock.fencing_token)
        """
        lock = self.lock(name, **options)
        lock.sync._is_required = True
        return lock

    def rwlock(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncReadWriteLock:
        """Makes a read-write lock: many readers or one writer, and neither starves the other."""
        return AsyncReadWriteLock(self, name, options)

    def read(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes the read side of a read-write lock."""
        return self._made(name, {"kind": "read"}, options)

    def write(self, name: str, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes the write side of a read-write lock."""
        return self._made(name, {"kind": "write"}, options)

    def semaphore(
        self, name: str, capacity: int, permits: int = 1, **options: Unpack[AsyncLockOptions]
    ) -> AsyncLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name."""
        return self._made(name, {"kind": "permits", "permits": permits, "capacity": capacity}, options)

    def lock_all(
        self,
        names: Iterable[str],
        blocking_timeout: Optional[Seconds] = None,
        **options: Unpack[AsyncAllOptions],
    ) -> AsyncAllLocks:
        """Makes a lock of all ``names``, acquired all or none. Takes the options of ``lock()``."""
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
        """Makes a decorator, as the manager's ``locked()``, for coroutine functions and async generators."""
        return Locked(self._manager, name, on_busy, cancel_on_loss, options, is_async=True)

    def once(self, name: str, every: Seconds, **options: Unpack[OnceOptions]) -> AsyncOnce:
        """Makes work that is done once in a while. Takes the options of the manager's ``once()``."""
        return AsyncOnce(self._manager.once(name, every, **options))

    # `List`, because `list` is a method of this class.
    async def inspect(self, name: str) -> "List[Claim]":
        """Lists the holders and the waiters of a lock, oldest first."""
        return await self._manager._engine.inspect(name).answer_async()

    async def evict(self, name: str, claim: "Union[Claim, str]", reason: str = "") -> bool:
        """Takes a claim out of the queue of a lock, as the manager's ``evict()``.

        If cancelled, it may be done or not.
        """
        return await self._manager._engine.evict(name, claim, reason).answer_async()

    async def list(self, prefix: str = "") -> "List[Summary]":
        """Sums up the names that have a holder or a waiter, sorted by name."""
        return await self._manager._engine.list(prefix).answer_async()

    def watch(self, prefix: str = "", every: Seconds = 1.0) -> AsyncWatch:
        """Tells how the names that begin with ``prefix`` change, as the manager's ``watch()``.

        ::

            async with lockman.aio.watch("reports/") as changes:
                async for summary in changes:
                    print(summary.name, summary.holders)
        """
        return self._manager._engine.watch_async(prefix, every)

    async def names(self, prefix: str = "") -> "List[str]":
        """Lists the names that have a holder or a waiter."""
        return await self._manager._engine.names(prefix).answer_async()


class AsyncReadWriteLock:
    """A read-write lock for asyncio: many readers, or one writer."""

    def __init__(self, locks: AsyncLocks, name: str, options: AsyncLockOptions) -> None:
        self._locks, self._name, self._options = locks, name, options

    def read(self, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock that many readers hold together."""
        return self._locks.read(self._name, **both(self._options, options))

    def write(self, **options: Unpack[AsyncLockOptions]) -> AsyncLock:
        """Makes a lock that one writer holds alone."""
        return self._locks.write(self._name, **both(self._options, options))
