"""Locks that are made of other locks."""

from __future__ import annotations

import copy
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

from .acquisitions import Acquisition, Holdings
from .addresses import Seconds, seconds
from .clock import now

if TYPE_CHECKING:
    from .base import GlobalLockManager
    from .native import LockRequest, NativeGlobalLock

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


#: What one acquisition of several locks holds: each lock, with its own acquisition.
Taken = List[Tuple["NativeGlobalLock", Any]]


class AllLocks:
    """Several locks, acquired all or none. Threads, tasks and greenlets may share this object."""

    def __init__(self, locks: "List[NativeGlobalLock]", blocking_timeout: Optional[Seconds]) -> None:
        self.locks = locks
        self.blocking_timeout = blocking_timeout
        self._holdings: "Holdings[Taken]" = Holdings()

    @property
    def is_locked(self) -> bool:
        """Whether the caller holds all of them now."""
        taken = self._taken
        return bool(taken) and all(lock._holds(acquisition) for lock, acquisition in taken)

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner of one of them should end its work now."""
        return any(lock._is_asked(acquisition) for lock, acquisition in self._taken)

    @property
    def _taken(self) -> Taken:
        current = self._holdings.current()
        return [] if current is None or current.granted is None else current.granted

    def requests(self) -> "Iterator[Tuple[NativeGlobalLock, LockRequest]]":
        """The locks in order, each with what is left of the common time limit as its own."""
        limit = self.blocking_timeout
        until = None if limit is None else now() + seconds("blocking_timeout", limit)
        for lock in self.locks:
            left = None if until is None else max(0.0, until - now())
            yield lock, lock._request_within(left)

    def acquire(self) -> bool:
        """Acquires all of them, or none, and says which."""
        return self._take() is not None

    def _take(self) -> "Optional[Acquisition[Taken]]":
        taken: Taken = []
        self._holdings.begin()
        try:
            for lock, request in self.requests():
                acquisition = lock._take(request)
                if acquisition is None:
                    keep_nobody_out(taken)
                    _give_back(taken)
                    return None
                taken.append((lock, acquisition))
        except BaseException:
            keep_nobody_out(taken)
            _give_back(taken)
            raise
        return self._holdings.add(taken)

    def release(self) -> None:
        """Releases the caller's latest acquisition of them, as the ``release()`` of one lock."""
        _give_back(self.taken_to_release())

    def taken_to_release(self) -> Taken:
        """What the caller may release."""
        names = ", ".join(lock.name for lock in self.locks)
        anyones = all(lock._is_anyones() for lock in self.locks)
        return self._taken_by(self._holdings.to_release(names, anyones))

    def taken_in(self, frame: FrameType) -> Taken:
        """What the ``with`` of a frame has acquired."""
        entered = self._holdings.exit(frame)
        return self.taken_to_release() if entered is None else self._taken_by(entered)

    def _taken_by(self, acquisition: "Optional[Acquisition[Taken]]") -> Taken:
        if acquisition is None or not self._holdings.remove(acquisition):
            return []
        return acquisition.granted or []

    def __enter__(self) -> "AllLocks":
        self._holdings.enter(sys._getframe(1), self._take())
        return self

    def __exit__(self, *exception: Any) -> None:
        _give_back(self.taken_in(sys._getframe(1)))

    def __copy__(self) -> "AllLocks":
        return AllLocks([copy.copy(lock) for lock in self.locks], self.blocking_timeout)

    def __deepcopy__(self, memo: "Dict[int, Any]") -> "AllLocks":
        return AllLocks([copy.deepcopy(lock, memo) for lock in self.locks], self.blocking_timeout)

    def __reduce__(self) -> Any:
        return (AllLocks, (self.locks, self.blocking_timeout))


def keep_nobody_out(taken: Taken) -> None:
    """Has ``hold_at_least`` keep nobody out, because not all of the locks were granted."""
    for lock, acquisition in taken:
        lock._keep_nobody_out(acquisition)


def _give_back(taken: Taken) -> None:
    for lock, acquisition in reversed(taken):
        lock._give_back(acquisition)
