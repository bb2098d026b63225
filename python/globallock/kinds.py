"""Locks that are made of other locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Optional

from .addresses import Seconds, seconds
from .clock import now

if TYPE_CHECKING:
    from .base import GlobalLockManager
    from .native import NativeGlobalLock

__all__ = ["AllLocks", "ReadWriteLock"]


class ReadWriteLock:
    """A read-write lock: many readers, or one writer."""

    def __init__(self, manager: GlobalLockManager, name: str, options: "dict[str, Any]") -> None:
        self._manager, self._name, self._options = manager, name, options

    def read(self, **options: Any) -> NativeGlobalLock:
        """Makes a lock that many readers hold together."""
        return self._manager.lock(self._name, kind="read", **{**self._options, **options})

    def write(self, **options: Any) -> NativeGlobalLock:
        """Makes a lock that one writer holds alone."""
        return self._manager.lock(self._name, kind="write", **{**self._options, **options})


class AllLocks:
    """Several locks, acquired all or none."""

    def __init__(self, locks: "list[NativeGlobalLock]", blocking_timeout: Optional[Seconds]) -> None:
        self.locks = locks
        self.blocking_timeout = blocking_timeout

    @property
    def is_locked(self) -> bool:
        """Whether all of them are held now."""
        return bool(self.locks) and all(lock.is_locked for lock in self.locks)

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner of one of them should end its work now."""
        return any(lock.asked_to_end for lock in self.locks)

    def in_turn(self) -> "Iterator[NativeGlobalLock]":
        """The locks in order, each with what is left of the common time limit as its own."""
        limit = self.blocking_timeout
        until = None if limit is None else now() + seconds("blocking_timeout", limit)
        for lock in self.locks:
            if until is not None:
                lock.blocking_timeout = max(0.0, until - now())
            yield lock

    def acquire(self) -> bool:
        """Acquires all of them, or none, and says which."""
        try:
            acquired = all(lock.acquire() for lock in self.in_turn())
        except BaseException:
            self.keep_nobody_out()
            self.release()
            raise
        if not acquired:
            self.keep_nobody_out()
            self.release()
        return acquired

    def keep_nobody_out(self) -> None:
        """Has ``hold_at_least`` keep nobody out, because not all of the locks were granted."""
        for lock in self.locks:
            lock._keep_nobody_out()

    def release(self) -> None:
        """Releases those that are held."""
        for lock in reversed(self.locks):
            lock.release()

    def __enter__(self) -> "AllLocks":
        self.acquire()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.release()
