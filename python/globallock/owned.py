"""What the owner of a lock asks of it, and is told."""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional

from . import _rust
from .acquisitions import Holdings
from .addresses import Seconds, seconds
from .callbacks import call_back
from .engine import Value
from .exceptions import InvalidOption, NotLocked, Reason, reason_of
from .greenlets import ask
from .implementation import GlobalLockImplementationBase

__all__ = ["OwnedLock"]


class OwnedLock(GlobalLockImplementationBase):
    """What the owner of a lock of the Rust core asks of it."""

    _holdings: "Holdings[_rust.Guard]"
    #: Whether its grant comes with the value of the name.
    _wants_value: bool

    @property
    def _guard(self) -> Optional[_rust.Guard]:
        """What the caller was granted last, by this object."""
        acquisition = self._holdings.current()
        if acquisition is None:
            return None
        acquisition.is_known = True
        return acquisition.granted

    @property
    def is_locked(self) -> bool:
        """Whether the caller holds the lock now, by this object.

        False as soon as it is lost, and in a forked child. A thread, task or greenlet that has never used
        this object to acquire sees what another one holds by it, if that is one acquisition. So do all
        properties.
        """
        guard = self._guard
        return guard is not None and guard.is_held()

    @property
    def fencing_token(self) -> Optional[int]:
        """The fencing token of this grant, which is higher than all before it; ``None`` while not held."""
        guard = self._guard
        return guard.fencing_token if guard is not None else None

    @property
    def remaining(self) -> Optional[float]:
        """How many seconds it stays held without another renewal; ``None`` if until the process ends."""
        guard = self._guard
        return guard.remaining() if guard is not None else 0.0

    @property
    def kept_for(self) -> Optional[float]:
        """For how many seconds others would be kept out if the lock were released now (``hold_at_least``).

        ``None`` if they would be let in, and while the lock is not acquired. Where the store does not keep
        them out, they are let in as soon as this process ends or its manager is closed.
        """
        guard = self._guard
        return guard.kept_for() if guard is not None else None

    @property
    def value(self) -> Optional[Value]:
        """The value of the name, as it was at the grant or as this lock has set it since.

        ``None`` where there is none, and while the lock is not held. For a lock that was made with
        ``with_value=True``.
        """
        if not self._wants_value:
            raise InvalidOption(f"the lock {self.name!r} reads no value: make it with with_value=True")
        guard = self._guard
        fields = guard.value() if guard is not None else None
        return None if fields is None else Value(*fields)

    def set_value(self, data: bytes, keep: Seconds) -> bool:
        """Leaves at most 1 KiB beside the lock for those that hold it later.

        It outlives this owner, and ends by itself once it was not set for the time ``keep``. The store takes
        it only from the very grant that holds. False if, of several that hold together such as readers, one
        with a higher fencing token has set it.

        :param keep: how long it stays, in seconds or as a ``timedelta``: from 1 ms to a year.
        :raises LockLost: the lock is not held any more, and nothing was written.
        :raises NotLocked: it was not acquired, or is released.
        :raises StoreUnavailable: it may be written or not; to set it again has the effect of once.
        """
        guard, data, time = self._write_request(data, keep)
        return bool(ask(guard.set_value(data, time)))

    def _write_request(self, data: bytes, keep: Seconds) -> "tuple[_rust.Guard, bytes, float]":
        """What the core must write, and by which grant."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidOption(f"the value is of type {type(data).__name__}: give bytes")
        time = seconds("keep", keep)
        guard = self._guard
        if guard is None:
            raise NotLocked(self.name, "is not held, so it cannot set its value")
        return guard, bytes(data), time

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner should end its work now.

        True once the max hold time has passed of a lock with ``grace``, which is kept for that long; and once
        the lock is lost. False after its release.
        """
        guard = self._guard
        return guard is not None and guard.is_asked_to_end()

    def on_asked_to_end(self, callback: "Callable[[Reason], Any]") -> None:
        """Calls ``callback`` with the reason when the owner is asked to end its work.

        One thread calls the functions of all locks, one after the other.
        """
        call_back(self.name, self._held_guard("on_asked_to_end").asked(), callback)

    def asked_to_end_event(self) -> threading.Event:
        """Makes an event that is set when the owner is asked to end its work."""
        event = threading.Event()
        guard = self._held_guard("asked_to_end_event")
        call_back(self.name, guard.asked(), lambda _: event.set(), is_quick=True)
        return event

    def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        Locks are renewed automatically. This is for an owner that must be sure before a step that cannot be
        undone.
        """
        guard = self._guard
        return guard is not None and bool(ask(guard.renew()))

    def renew(self) -> bool:
        """Does the same as ``extend()``; release 0.2.0 has this name."""
        return self.extend()

    @property
    def loss(self) -> Optional[Reason]:
        """Why the lock is lost; ``None`` while it is held, and once it was released."""
        guard = self._guard
        return None if guard is None else reason_of(guard.loss())

    def wait_lost(self, timeout: Optional[Seconds] = None) -> Optional[Reason]:
        """Waits until the lock is lost and says why; ``None`` if it was not lost by then, or was released."""
        guard, limit = self._guard, None if timeout is None else seconds("timeout", timeout)
        return None if guard is None else reason_of(ask(guard.lost(), limit=limit))

    def on_lost(self, callback: "Callable[[Reason], Any]") -> None:
        """Calls ``callback`` with the reason if the lock is lost before its release.

        One thread calls the functions of all locks, one after the other.
        """
        call_back(self.name, self._held_guard("on_lost").lost(), callback)

    def lost_event(self) -> threading.Event:
        """Makes an event that is set if the lock is lost before its release."""
        event = threading.Event()
        guard = self._held_guard("lost_event")
        call_back(self.name, guard.lost(), lambda _: event.set(), is_quick=True)
        return event

    def _held_guard(self, what: str) -> _rust.Guard:
        guard = self._guard
        if guard is None:
            raise InvalidOption(f"{what}() needs a lock that is held")
        return guard
