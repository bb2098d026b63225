"""The locks for asyncio: waiting costs no thread, and a cancelled wait leaves nothing in the store."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any, Optional

from . import _rust

if TYPE_CHECKING:
    from .base import GlobalLockManager
    from .native import NativeGlobalLock

__all__ = ["AsyncLock", "AsyncLocks", "acquire", "release"]

_logger = logging.getLogger("globallock.base")


class _Loop:
    """One event loop's way to the core, in one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.bridge = _rust.Bridge()
        self._waiting: "dict[int, asyncio.Future[Any]]" = {}
        loop.add_reader(self.bridge.fileno(), self._drain)

    def _drain(self) -> None:
        for number, succeeded, value in self.bridge.drain():
            future = self._waiting.pop(number, None)
            if future is None or future.done():
                # Nobody waits any more: a guard that is dropped here releases its lock.
                continue
            if succeeded:
                future.set_result(value)
            else:
                future.set_exception(value)

    def _poll(self) -> None:
        # To be woken by another thread takes longer than an answer that comes soon.
        if self.bridge.poll():
            self._loop.call_soon(self._poll)
        else:
            self._drain()

    async def outcome(self, number: int) -> Any:
        """Waits for the outcome of a request, and gives that up when the wait is cancelled."""
        future: "asyncio.Future[Any]" = self._loop.create_future()
        self._waiting[number] = future
        if self.bridge.polls():
            self._loop.call_soon(self._poll)
        try:
            return await future
        finally:
            if self._waiting.pop(number, None) is not None:
                self.bridge.cancel(number)


_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop]" = weakref.WeakKeyDictionary()


def _current() -> _Loop:
    loop = asyncio.get_running_loop()
    known = _loops.get(loop)
    if known is None or not known.bridge.is_here():
        known = _loops[loop] = _Loop(loop)
    return known


async def acquire(lock: NativeGlobalLock) -> bool:
    """Takes a lock, as its ``acquire()`` does."""
    loop = _current()
    guard: Optional[_rust.Guard] = await loop.outcome(lock.engine.native.acquire_on(loop.bridge, lock.wish()))
    if guard is None:
        return False
    lock._hold(guard)
    return True


async def release(lock: NativeGlobalLock) -> None:
    """Gives a lock back, as its ``release()`` does. Cancelled, it goes on in the background."""
    guard = lock._let_go()
    if guard is None:
        return
    loop = _current()
    try:
        lock._warn(await loop.outcome(guard.release_on(loop.bridge)))
    except Exception as error:  # noqa: BLE001 - a release never raises
        _logger.warning("release of lock %r failed, and goes on in the background: %s", lock.name, error)


class AsyncLock:
    """A lock whose verbs are awaited."""

    def __init__(self, lock: NativeGlobalLock) -> None:
        self.sync = lock

    @property
    def name(self) -> str:
        """What it is called."""
        return self.sync.name

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock now."""
        return self.sync.is_locked

    @property
    def fencing_token(self) -> Optional[int]:
        """The number of this grant; ``None`` while the lock is not held."""
        return self.sync.fencing_token

    async def acquire(self) -> bool:
        """Takes the lock and says whether that worked.

        Cancelled, it leaves nothing behind. Raises as the ``acquire()`` for threads.
        """
        return await acquire(self.sync)

    async def release(self) -> None:
        """Gives the lock back, if it is held; never raises. Cancelled, it goes on in the background."""
        await release(self.sync)

    async def lost(self) -> Optional[str]:
        """Waits until the lock is lost and says why; ``None`` once it was released."""
        guard = self.sync._guard
        if guard is None:
            return None
        loop = _current()
        reason: Optional[str] = await loop.outcome(guard.lost_on(loop.bridge))
        return reason

    async def __aenter__(self) -> "AsyncLock":
        await self.acquire()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self.release()


class AsyncLocks:
    """A manager's locks for asyncio."""

    def __init__(self, manager: GlobalLockManager) -> None:
        self._manager = manager

    def lock(self, name: str, **options: Any) -> AsyncLock:
        """Makes a lock. Options as of the manager's ``lock()``."""
        return AsyncLock(self._manager.lock(name, **options))

    def read(self, name: str, **options: Any) -> AsyncLock:
        """Makes a reader's lock of a read-write lock."""
        return self.lock(name, kind="read", **options)

    def write(self, name: str, **options: Any) -> AsyncLock:
        """Makes a writer's lock of a read-write lock."""
        return self.lock(name, kind="write", **options)

    def semaphore(self, name: str, capacity: int, permits: int = 1, **options: Any) -> AsyncLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name."""
        return self.lock(name, kind="permits", permits=permits, capacity=capacity, **options)
