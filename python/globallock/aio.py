"""The locks for asyncio: waiting costs no thread, and a cancelled wait leaves nothing in the store."""

from __future__ import annotations

import asyncio
import copy
import functools
import sys
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    List,
    Optional,
    TypeVar,
    Union,
)

from . import _rust
from .acquisitions import Acquisition, Holdings
from .addresses import Seconds
from .bodies import Body, limited
from .engine import Claim, Value, claims
from .exceptions import NotLocked
from .kinds import AllLocks, Taken, keep_nobody_out
from .loops import outcome
from .once import Once, Ran, TurnBase
from .onlooker import AsyncWatch, Summary, summaries

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from .base import GlobalLockManager
    from .native import LockRequest, NativeGlobalLock

    P = ParamSpec("P")

R = TypeVar("R")
T = TypeVar("T")

__all__ = [
    "AsyncAllLocks",
    "AsyncLock",
    "AsyncLocks",
    "AsyncOnce",
    "AsyncTurn",
    "enter",
    "give_back",
    "leave",
    "outcome",
    "release",
    "take",
]


async def take(
    lock: NativeGlobalLock, request: "Optional[LockRequest]" = None
) -> "Optional[Acquisition[_rust.Guard]]":
    """Acquires a lock for the running task; ``None`` if it was not granted in time."""
    request = lock._begin(request or lock.lock_request())
    native = lock.engine.native
    guard: Optional[_rust.Guard] = await outcome(lambda bridge: native.acquire_on(bridge, request))
    return None if guard is None else lock._granted(guard)


async def give_back(lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]") -> None:
    """Releases one acquisition. If cancelled, the release goes on in the background."""
    guard = lock._forget(acquisition)
    if guard is not None:
        lock._warn(await outcome(guard.release_on))


async def release(lock: NativeGlobalLock) -> None:
    """Releases a lock, as its ``release()`` does. If cancelled, the release goes on in the background."""
    acquisition = lock._to_release()
    if acquisition is not None:
        await give_back(lock, acquisition)


async def enter(lock: NativeGlobalLock, frame: FrameType) -> None:
    """Acquires a lock for the ``async with`` of a frame."""
    lock._holdings.enter(frame, await take(lock), [])


async def leave(lock: NativeGlobalLock, frame: FrameType) -> None:
    """Releases what the ``async with`` of a frame has acquired."""
    entered = left(lock._holdings, frame)
    await (release(lock) if entered is None else give_back(lock, entered))


def left(holdings: "Holdings[T]", frame: FrameType) -> "Optional[Acquisition[T]]":
    """What the ``async with`` of a frame has acquired, or was refused, and leaves now."""
    found: "List[Acquisition[T]]" = []
    holdings.find(frame, found)
    for acquisition in found:
        holdings.exit(acquisition)
        return acquisition
    return None


class AsyncLock:
    """A lock whose methods are awaited."""

    def __init__(self, lock: NativeGlobalLock) -> None:
        self.sync = lock

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
        return await take(self.sync) is not None

    async def release(self) -> None:
        """Releases the task's latest acquisition, as the ``release()`` for threads.

        If cancelled, it goes on in the background.
        """
        await release(self.sync)

    async def lost(self) -> Optional[str]:
        """Waits until the lock is lost and says why; ``None`` once it was released."""
        guard = self.sync._guard
        if guard is None:
            return None
        reason: Optional[str] = await outcome(guard.lost_on)
        return reason

    async def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        If cancelled, nothing is lost. Raises the same errors as the ``extend()`` for threads.
        """
        guard = self.sync._guard
        return guard is not None and bool(await outcome(guard.renew_on))

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
        return bool(await outcome(lambda bridge: guard.set_value_on(bridge, data, time)))

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

    async def __aenter__(self) -> "AsyncLock":
        await enter(self.sync, sys._getframe(1))
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await leave(self.sync, sys._getframe(1))

    def __copy__(self) -> "AsyncLock":
        return AsyncLock(copy.copy(self.sync))


class AsyncAllLocks:
    """Several locks, acquired all or none."""

    def __init__(self, locks: AllLocks) -> None:
        self.sync = locks

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

    async def __aenter__(self) -> "AsyncAllLocks":
        frame = sys._getframe(1)
        self.sync._holdings.enter(frame, await self._take(), [])
        return self

    async def __aexit__(self, *exception: Any) -> None:
        entered = left(self.sync._holdings, sys._getframe(1))
        await (self.release() if entered is None else _give_back_all(self.sync.taken_by(entered)))

    def __copy__(self) -> "AsyncAllLocks":
        return AsyncAllLocks(copy.copy(self.sync))


async def _give_back_all(taken: Taken) -> None:
    try:
        await asyncio.gather(*(give_back(lock, acquisition) for lock, acquisition in taken))
    finally:
        # A task that is cancelled before its first step does nothing.
        for lock, acquisition in taken:
            lock._forget(acquisition)
            acquisition.granted.let_go()


class AsyncOnce:
    """Work that is done once in a while, however many processes and hosts start it."""

    def __init__(self, once: Once) -> None:
        self.sync = once

    async def run(
        self, work: "Callable[P, Awaitable[R]]", *args: "P.args", **kwargs: "P.kwargs"
    ) -> "Ran[R]":
        """Awaits ``work`` under the lock, unless the last success began less than ``every`` ago.

        As the ``run()`` for threads. But the work is in a task of its own, which is cancelled when the lock
        ends, as by the ``run()`` of a lock.

        If cancelled, the work is cancelled, and nothing is recorded unless it had succeeded already.
        """
        async with AsyncTurn(self.sync, limited) as turn:
            if not turn.due:
                return Ran(False, began=turn.began)
            value = await Body(turn.lock.sync, turn.acquisition, work(*args, **kwargs)).outcome()
        return Ran(True, value)

    def turn(self) -> "AsyncTurn":
        """Makes the same for an ``async with`` block, which must look whether its work is due.

        ::

            async with lockman.aio.once("nightly-report", every=timedelta(hours=20)).turn() as turn:
                if turn.due:
                    await send_the_report(turn.lock.fencing_token)

        A block that ends without an exception, by ``return`` or ``break`` too, is a success. Nothing cancels
        it when the lock ends.
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


class AsyncTurn(TurnBase):
    """A block of work that may be due; see :meth:`AsyncOnce.turn`."""

    def __init__(
        self, once: Once, change: "Optional[Callable[[LockRequest], LockRequest]]" = None
    ) -> None:
        super().__init__(once)
        self._change = change

    @property
    def lock(self) -> AsyncLock:
        """The lock, which is held while the work is due."""
        return AsyncLock(self._lock)

    async def __aenter__(self) -> "AsyncTurn":
        frame = sys._getframe(1)
        (native, request), every = self._request(), self._every
        asked = request if self._change is None else self._change(request)
        self._begun(frame, await outcome(lambda bridge: native.begin_on(bridge, asked, every)), [])
        return self

    async def __aexit__(self, *exception: Any) -> None:
        leaving: "List[Any]" = []
        self._runs.find(sys._getframe(1), leaving)
        acquisition = self._ended(leaving)
        if acquisition is None:
            return
        try:
            if exception[0] is None:
                await outcome(self._held(acquisition).succeed_on)
        finally:
            await give_back(self._lock, acquisition)


class AsyncLocks:
    """A manager's locks for asyncio."""

    def __init__(self, manager: GlobalLockManager) -> None:
        self._manager = manager

    def lock(self, name: str, **options: Any) -> AsyncLock:
        """Makes a lock. Takes the options of the manager's ``lock()``."""
        return AsyncLock(self._manager.lock(name, **options))

    def read(self, name: str, **options: Any) -> AsyncLock:
        """Makes the read side of a read-write lock."""
        return self.lock(name, kind="read", **options)

    def write(self, name: str, **options: Any) -> AsyncLock:
        """Makes the write side of a read-write lock."""
        return self.lock(name, kind="write", **options)

    def semaphore(self, name: str, capacity: int, permits: int = 1, **options: Any) -> AsyncLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name."""
        return self.lock(name, kind="permits", permits=permits, capacity=capacity, **options)

    def lock_all(
        self, names: Iterable[str], blocking_timeout: Optional[Seconds] = None, **options: Any
    ) -> AsyncAllLocks:
        """Makes a lock of all ``names``, acquired all or none. Takes the options of ``lock()``."""
        return AsyncAllLocks(self._manager.lock_all(names, blocking_timeout, **options))

    def once(self, name: str, every: Seconds, **options: Any) -> AsyncOnce:
        """Makes work that is done once in a while. Takes the options of the manager's ``once()``."""
        return AsyncOnce(self._manager.once(name, every, **options))

    # `List`, because `list` is a method of this class.
    async def inspect(self, name: str) -> "List[Claim]":
        """Lists the holders and the waiters of a lock, oldest first."""
        lock = self._manager.lock(name)
        native, prefixed = lock.engine.native, lock.prefixed_name
        return claims(await outcome(lambda bridge: native.inspect_on(bridge, prefixed)))

    async def evict(self, name: str, claim: "Union[Claim, str]", reason: str = "") -> bool:
        """Takes a claim out of the queue of a lock, as the manager's ``evict()``.

        If cancelled, it may be done or not.
        """
        lock = self._manager.lock(name)
        native, eviction = lock.engine.native, lock.eviction(claim, reason)
        return bool(await outcome(lambda bridge: native.evict_on(bridge, *eviction)))

    async def list(self, prefix: str = "") -> "List[Summary]":
        """Sums up the names that have a holder or a waiter, sorted by name."""
        engine = self._manager.lock("any").engine
        native, prefix = engine.native, engine.add_prefix(prefix)
        return summaries(await outcome(lambda bridge: native.list_on(bridge, prefix)), engine)

    def watch(self, prefix: str = "", every: Seconds = 1.0) -> AsyncWatch:
        """Tells how the names that begin with ``prefix`` change, as the manager's ``watch()``.

        ::

            async with lockman.aio.watch("reports/") as changes:
                async for summary in changes:
                    print(summary.name, summary.holders)
        """
        return self._manager.lock("any").watch_async(prefix, every)

    async def names(self, prefix: str = "") -> "List[str]":
        """Lists the names that have a holder or a waiter."""
        engine = self._manager.lock("any").engine
        native, prefix = engine.native, engine.add_prefix(prefix)
        return engine.strip_prefix(await outcome(lambda bridge: native.names_on(bridge, prefix)))
