"""Locks that are made of other locks."""

from __future__ import annotations

import copy
from types import FrameType
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from . import _rust
from .acquisitions import Acquisition, Holdings
from .addresses import Seconds, seconds
from .clock import now
from .exceptions import NotLocked
from .options import both

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import GlobalLockManager
    from .native import LockRequest, NativeGlobalLock
    from .options import LockOptions

__all__ = ["AllLocks", "ReadWriteLock"]


class ReadWriteLock:
    """A read-write lock: many readers, or one writer.

    >>> catalogue = lockman.rwlock("catalogue", timeout=60)
    >>> with catalogue.read().hold(), catalogue.read().hold():
    ...     catalogue.write(blocking=False).acquire()
    False
    """

    def __init__(self, manager: GlobalLockManager, name: str, options: LockOptions) -> None:
        self._manager, self._name, self._options = manager, name, options
        # What is wrong in the options is told here, and not at the first use.
        check = getattr(self.read(), "_check", None)
        if check is not None:
            check()

    def read(self, **options: Unpack[LockOptions]) -> NativeGlobalLock:
        """Makes a lock that many readers hold together.

        >>> catalogue = lockman.rwlock("catalogue")
        >>> with catalogue.read().hold() as one, catalogue.read().hold() as another:
        ...     one.is_locked, another.is_locked
        (True, True)
        """
        return self._manager.lock(self._name, **both(self._options, options), kind="read")

    def write(self, **options: Unpack[LockOptions]) -> NativeGlobalLock:
        """Makes a lock that one writer holds alone.

        >>> catalogue = lockman.rwlock("catalogue")
        >>> with catalogue.write().hold():
        ...     catalogue.read(blocking=False).acquire()
        False
        """
        return self._manager.lock(self._name, **both(self._options, options), kind="write")

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self._name!r}>"


#: What one acquisition of several locks holds: each lock, with its own acquisition.
Taken = List[Tuple["NativeGlobalLock", Any]]


class AllLocks(_rust.Shield):
    """Several locks, acquired all or none. Threads, tasks and greenlets may share this object.

    >>> with lockman.hold("accounts/9"):
    ...     both = lockman.lock_all(["accounts/7", "accounts/9"], blocking=False)
    ...     both.acquire(), lockman.names()
    (False, ['accounts/9'])
    """

    #: Whether its ``with`` raises where they are not granted.
    _is_required = False

    def __init__(self, locks: "List[NativeGlobalLock]", blocking_timeout: Optional[Seconds]) -> None:
        self.locks = locks
        self.blocking_timeout = blocking_timeout
        self._holdings: "Holdings[Taken]" = Holdings()

    @property
    def is_locked(self) -> bool:
        """Whether the caller holds all of them now.

        >>> with lockman.lock_all(["accounts/7", "accounts/9"], blocking_timeout=5) as both:
        ...     if both.is_locked:
        ...         print("moves the money")
        moves the money
        """
        self._holdings.note_asked()
        return self._holds_all()

    def _holds_all(self) -> bool:
        taken = self._taken
        return bool(taken) and all(lock._holds(acquisition) for lock, acquisition in taken)

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner of one of them should end its work now.

        >>> with lockman.lock_all(["accounts/7", "accounts/9"], timeout=0.1, grace=30).hold() as both:
        ...     both.locks[0].asked_to_end_event().wait(30), both.asked_to_end
        (True, True)
        """
        return any(lock._is_asked(acquisition) for lock, acquisition in self._taken)

    @property
    def _taken(self) -> Taken:
        current = self._holdings.current()
        return [] if current is None else current.granted or []

    # No generator: what is raised in one that is closed unfinished, as where a lock is refused, is swallowed.

    def _until(self) -> Optional[float]:
        """When the common time limit ends, if there is one."""
        limit = self.blocking_timeout
        return None if limit is None else now() + seconds("blocking_timeout", limit)

    @staticmethod
    def _request(lock: NativeGlobalLock, until: Optional[float]) -> LockRequest:
        """What the core must acquire for one of the locks, with what is left of the common time limit."""
        return lock._request_within(None if until is None else max(0.0, until - now()))

    def _refuse_to_wait(self, until: Optional[float], is_confirmed: bool = False) -> None:
        """Refuses a wait for the caller itself before any of the locks is acquired."""
        for lock in self.locks if until is None else ():
            lock._refuse_to_wait(self._request(lock, None), is_confirmed)

    # What follows is called by the core, as that of one lock.

    def _acquire(self, frame: None, taken: "List[Any]") -> bool:
        return self._take(taken) is not None

    def _take(self, taken: "List[Any]") -> "Optional[Acquisition[Taken]]":
        several: Taken = []
        self._holdings.begin()
        until = self._until()
        self._refuse_to_wait(until)
        for lock in self.locks:
            acquisition = lock._take(self._request(lock, until), taken)
            if acquisition is None:
                keep_nobody_out(several)
                _give_back(several)
                return None
            taken.append((lock, acquisition))
            several.append((lock, acquisition))
        return self._holdings.add(several)

    def _enter(self, frame: FrameType, taken: "List[Any]") -> None:
        acquisition = self._take(taken)
        if acquisition is None and self._is_required:
            raise self._refusal()
        self._holdings.enter(frame, acquisition, taken)

    def _exit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self._holdings.find(frame, leaving)
        if not leaving:
            self.release()
            return
        self._holdings.exit(leaving[0])
        self._warn_of_refused(leaving[0])
        _give_back(self._taken_by(leaving[0]))

    def _release(self, frame: None, leaving: "List[Any]", exception: Any) -> None:
        acquisition = self._to_release()
        if acquisition is not None:
            leaving.append(acquisition)
            _give_back(self._taken_by(acquisition))

    def _find(self, frame: Optional[FrameType], leaving: "List[Any]") -> None:
        if frame is not None:
            self._holdings.find(frame, leaving)
        elif not leaving:
            leaving.extend(filter(None, [self._to_release()]))

    def _undo(self, frame: Optional[FrameType], noted: "List[Any]") -> None:
        for several in [*self._holdings.all(), *noted]:
            if isinstance(several, Acquisition):
                taken = several.granted or []
                if several in noted or any(acquisition.granted in noted for _, acquisition in taken):
                    self._holdings.exit(several)
                    self._holdings.remove(several)
                    noted.extend(taken)
        for lock in self.locks:
            lock._undo(None, [*noted, *(each[1] for each in noted if isinstance(each, tuple))])

    @property
    def _names(self) -> str:
        """The names of the locks."""
        return ", ".join(lock.name for lock in self.locks)

    def hold(self) -> "AllLocks":
        """Makes the same, whose ``with`` raises :class:`NotLocked` where not all of them are granted.

        >>> with lockman.hold("b"), lockman.lock_all(["a", "b"], blocking=False).hold():
        ...     print("moves the money")
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'a, b' was not granted: another owner has one of these
        """
        locks = copy.copy(self)
        locks._is_required = True
        return locks

    def _refusal(self) -> NotLocked:
        """Makes the error where not all of them were granted."""
        return NotLocked(self._names, "was not granted: another owner has one of these")

    def _to_release(self) -> "Optional[Acquisition[Taken]]":
        """What the caller may release."""
        return self._holdings.to_release(self._names, all(lock._is_anyones() for lock in self.locks))

    def _warn_of_refused(self, left: "Acquisition[Taken]") -> None:
        for lock in self.locks[:1]:
            lock._warn_of_refused(left)

    def __repr__(self) -> str:
        return f"<AllLocks {self._names}, {'held' if self._holds_all() else 'not held'}>"

    def _taken_by(self, several: "Acquisition[Taken]") -> Taken:
        """What is to be released of an acquisition, which is forgotten here."""
        return (several.granted or []) if self._holdings.remove(several) else []

    def __copy__(self) -> "AllLocks":
        return _made([copy.copy(lock) for lock in self.locks], self.blocking_timeout, self._is_required)

    def __deepcopy__(self, memo: "Dict[int, Any]") -> "AllLocks":
        locks = [copy.deepcopy(lock, memo) for lock in self.locks]
        return _made(locks, self.blocking_timeout, self._is_required)

    def __reduce__(self) -> Any:
        return (_made, (self.locks, self.blocking_timeout, self._is_required))


def _made(
    locks: "List[NativeGlobalLock]", blocking_timeout: Optional[Seconds], is_required: bool
) -> AllLocks:
    made = AllLocks(locks, blocking_timeout)
    made._is_required = is_required
    return made


def keep_nobody_out(taken: Taken) -> None:
    """Has ``hold_at_least`` keep nobody out, because not all of the locks were granted."""
    for lock, acquisition in taken:
        lock._keep_nobody_out(acquisition)


def _give_back(taken: Taken) -> None:
    for lock, acquisition in reversed(taken):
        lock._give_back(acquisition)
