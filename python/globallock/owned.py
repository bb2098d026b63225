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
from .lock_options import LONGEST_VALUE, limit

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
        return None if acquisition is None else acquisition.granted

    @property
    def is_locked(self) -> bool:
        """Whether the caller holds the lock now, by this object.

        False as soon as it is lost, and in a forked child. A thread, task or greenlet that has never used
        this object to acquire sees what another one holds by it, if that is one acquisition. So do all
        properties.

        >>> with lockman.lock("orders/7", blocking_timeout=5) as lock:
        ...     if lock.is_locked:
        ...         print("ships the order")
        ships the order
        """
        self._holdings.note_asked()
        guard = self._guard
        return guard is not None and guard.is_held()

    @property
    def fencing_token(self) -> Optional[int]:
        """The fencing token of this grant, which is higher than all before it; ``None`` while not held.

        To read it is not to ask whether the lock was granted: a refused block that looks at nothing else is
        warned of.

        >>> with lockman.hold("orders/7") as lock:
        ...     earlier = lock.fencing_token
        >>> with lockman.hold("orders/7") as lock:
        ...     lock.fencing_token > earlier
        True
        """
        guard = self._guard
        return guard.fencing_token if guard is not None else None

    @property
    def remaining(self) -> Optional[float]:
        """How many seconds it stays held without another renewal; ``None`` if until the process ends.

        >>> with lockman.hold("orders/7", lock_ttl=30) as lock:
        ...     0 < lock.remaining <= 30
        True
        """
        self._holdings.note_asked()
        guard = self._guard
        return guard.remaining() if guard is not None else 0.0

    @property
    def kept_for(self) -> Optional[float]:
        """For how many seconds others would be kept out if the lock were released now (``hold_at_least``).

        ``None`` if they would be let in, and while the lock is not acquired. Where the store does not keep
        them out, they are let in as soon as this process ends or its manager is closed.

        >>> with lockman.hold("rotate-logs", hold_at_least=60) as lock:
        ...     0 < lock.kept_for <= 60
        True
        """
        guard = self._guard
        return guard.kept_for() if guard is not None else None

    @property
    def value(self) -> Optional[Value]:
        """The value of the name, as it was at the grant or as this lock has set it since.

        ``None`` where there is none, and while the lock is not held. For a lock that was made with
        ``with_value=True``.

        >>> with lockman.hold("import", with_value=True) as lock:
        ...     lock.set_value(b"row 7", keep=timedelta(days=7))
        True
        >>> with lockman.hold("import", with_value=True) as lock:
        ...     lock.value.data
        b'row 7'
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

        >>> with lockman.hold("import", with_value=True) as lock:
        ...     row = int(lock.value.data) if lock.value else 0
        ...     lock.set_value(b"%d" % (row + 1), keep=timedelta(days=7))
        True

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
        data = bytes(data)
        if len(data) > LONGEST_VALUE:
            raise InvalidOption(f"the value has {len(data)} bytes, and {LONGEST_VALUE} are the most")
        time = seconds("keep", keep)
        guard = self._guard
        if guard is None:
            raise NotLocked(self.name, "is not held, so it cannot set its value")
        return guard, data, time

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner should end its work now.

        True once the max hold time has passed of a lock with ``grace``, which is kept for that long; and once
        the lock is lost. False after its release.

        >>> with lockman.hold("reindex", timeout=0.1, grace=30) as lock:
        ...     while not lock.asked_to_end:
        ...         pass  # indexes the next document
        ...     lock.is_locked
        True
        """
        guard = self._guard
        return guard is not None and guard.is_asked_to_end()

    def on_asked_to_end(self, callback: "Callable[[Reason], Any]") -> None:
        """Calls ``callback`` with the reason when the owner is asked to end its work.

        One thread calls the functions of all locks, one after the other.

        >>> reasons = queue.Queue()
        >>> with lockman.hold("reindex", timeout=0.1, grace=30) as lock:
        ...     lock.on_asked_to_end(reasons.put)
        ...     print(reasons.get(timeout=30))
        its max hold time has passed: it is kept for its grace
        """
        call_back(self.name, self._held_guard("on_asked_to_end").asked(), callback)

    def asked_to_end_event(self) -> threading.Event:
        """Makes an event that is set when the owner is asked to end its work.

        >>> with lockman.hold("reindex", timeout=0.1, grace=30) as lock:
        ...     lock.asked_to_end_event().wait(30), lock.is_locked
        (True, True)
        """
        event = threading.Event()
        guard = self._held_guard("asked_to_end_event")
        call_back(self.name, guard.asked(), lambda _: event.set(), is_quick=True)
        return event

    def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        Locks are renewed automatically. This is for an owner that must be sure before a step that cannot be
        undone.

        >>> with lockman.hold("orders/7") as lock:
        ...     if lock.extend():
        ...         print("sends the parcel")
        sends the parcel
        """
        self._holdings.note_asked()
        guard = self._guard
        return guard is not None and bool(ask(guard.renew()))

    def renew(self) -> bool:
        """Does the same as ``extend()``; release 0.2.0 has this name.

        >>> with lockman.hold("orders/7") as lock:
        ...     lock.renew()
        True
        """
        return self.extend()

    @property
    def loss(self) -> Optional[Reason]:
        """Why the lock is lost; ``None`` while it is held, and once it was released.

        >>> with lockman.hold("orders/7") as lock:
        ...     lock.loss is None, lockman.evict("orders/7", lock.claims()[0])
        ...     lock.lost_event().wait(30), lock.loss.loss
        (True, True)
        (True, <Loss.EVICTED: 'evicted'>)
        """
        guard = self._guard
        return None if guard is None else reason_of(guard.loss())

    def wait_lost(self, timeout: Optional[Seconds] = None) -> Optional[Reason]:
        """Waits until the lock is lost and says why; ``None`` if it was not lost by then, or was released.

        >>> with lockman.hold("orders/7", timeout=0.1) as lock:
        ...     lock.wait_lost(timeout=30).loss
        <Loss.HELD_TOO_LONG: 'held_too_long'>
        """
        guard, within = self._guard, limit("timeout of wait_lost()", timeout)
        return None if guard is None else reason_of(ask(guard.lost(), limit=within))

    def on_lost(self, callback: "Callable[[Reason], Any]") -> None:
        """Calls ``callback`` with the reason if the lock is lost before its release.

        One thread calls the functions of all locks, one after the other.

        >>> reasons = queue.Queue()
        >>> with lockman.hold("orders/7", timeout=0.1) as lock:
        ...     lock.on_lost(reasons.put)
        ...     reasons.get(timeout=30).loss
        <Loss.HELD_TOO_LONG: 'held_too_long'>
        """
        call_back(self.name, self._held_guard("on_lost").lost(), callback)

    def lost_event(self) -> threading.Event:
        """Makes an event that is set if the lock is lost before its release.

        >>> with lockman.hold("orders/7", timeout=0.1) as lock:
        ...     lock.lost_event().wait(30)
        True
        """
        event = threading.Event()
        guard = self._held_guard("lost_event")
        call_back(self.name, guard.lost(), lambda _: event.set(), is_quick=True)
        return event

    def _held_guard(self, what: str) -> _rust.Guard:
        guard = self._guard
        if guard is None:
            raise InvalidOption(f"{what}() needs a lock that is held")
        return guard
