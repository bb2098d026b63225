"""What the locks of all engines have in common."""

from __future__ import annotations

import copy
import logging
import weakref
from typing import TYPE_CHECKING, Any, List, Optional, TypeVar

from .addresses import Seconds
from .exceptions import NotLocked

if TYPE_CHECKING:
    from .base import GlobalLockManager

L = TypeVar("L", bound="GlobalLockImplementationBase")

__all__ = ["GlobalLockImplementationBase"]

_logger = logging.getLogger("globallock.base")


class GlobalLockImplementationBase:
    """A lock of one engine. To write an engine, derive from this class and implement ``_do_acquire``.

    Times are in seconds, or a ``timedelta``. ``timeout`` is the max hold time: the longest that the lock is
    held. ``lock_ttl`` is the lease: how long the lock outlives its owner's last sign of life.
    ``blocking_timeout`` is the longest wait. ``sleep`` is accepted and has no effect, because waiters do not
    poll.

    >>> class InThisProcess(GlobalLockImplementationBase):
    ...     mutex = threading.Lock()
    ...     def _do_acquire(self):
    ...         self.lock = self.mutex  # is released by its release()
    ...         return self.mutex.acquire(blocking=self.blocking)
    >>> with GlobalLockManager({"global_lock_engine_class": InThisProcess}).hold("orders/7") as lock:
    ...     lock.is_locked
    True
    """

    #: Whether its ``with`` raises where it is not granted.
    _is_required = False

    def __init__(
        self,
        config: Any,
        name: str,
        timeout: Optional[Seconds] = None,
        sleep: Optional[float] = None,
        blocking: Optional[bool] = None,
        blocking_timeout: Optional[Seconds] = None,
        lock_ttl: Optional[Seconds] = None,
        **other_options: Any,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.sleep = sleep
        self.blocking = blocking
        self.blocking_timeout = blocking_timeout
        self.lock_ttl = lock_ttl
        self.other_options = other_options
        self.lock: Any = None
        self.config = config
        self._is_locked = False
        self._manager: Optional[weakref.ref[GlobalLockManager]] = None

    @property
    def lock_key(self) -> str:
        """The key of the lock in its store.

        >>> lockman.lock("orders/7").lock_key
        '_glocks:orders/7'
        """
        return str(self.config.global_lock_key_prefix) + self.name

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock now.

        >>> with lockman.lock("orders/7", blocking_timeout=5) as lock:
        ...     if lock.is_locked:
        ...         print("ships the order")
        ships the order
        """
        return self._is_locked

    def __enter__(self: L) -> L:
        self._is_locked = self.acquire()
        if self._is_required and not self._is_locked:
            raise NotLocked(self.name)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.release()

    def acquire(self) -> bool:
        """Acquires the lock and says whether it was granted; never raises because another owner has it.

        >>> lock = lockman.lock("orders/7", blocking=False)
        >>> if lock.acquire():
        ...     print("ships the order")
        ...     lock.release()
        ships the order
        """
        acquired = bool(self._do_acquire())
        if acquired:
            self._is_locked = True
            self._note(held=True)
        return acquired

    def _do_acquire(self) -> bool:
        raise NotImplementedError(f"{type(self).__name__} has no _do_acquire()")

    def hold(self: L) -> L:
        """Makes a lock of the same options whose ``with`` raises :class:`NotLocked` if it is not granted.

        >>> with lockman.lock("orders/7").hold(), lockman.lock("orders/7", blocking=False).hold():
        ...     print("ships it twice")
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'orders/7' was not granted
        """
        lock = copy.copy(self)
        lock._is_required = True
        lock._is_locked, lock.lock = False, None
        return lock

    def release(self) -> None:
        """Releases the lock, if it is held. Warns in the log if that fails, and never raises.

        >>> lock = lockman.lock("orders/7")
        >>> lock.acquire()
        True
        >>> lock.release()
        >>> lock.is_locked
        False
        """
        if self._is_locked and self.lock:
            try:
                self.lock.release()
            except Exception as error:  # noqa: BLE001 - whatever the engine's own client raises
                _logger.warning("release of lock %r failed: %s", self.name, error)
            self._is_locked = False
            self._note(held=False)

    def renew(self) -> bool:
        """Says whether the lock is still held. An engine that can ask its store overrides this.

        >>> with lockman.hold("orders/7") as lock:
        ...     lock.renew()
        True
        """
        return True

    # The next are for the engines of this package, which have a record of each acquisition.

    def _request_within(self, limit: Optional[float]) -> Any:
        """What is to be acquired, in this time."""
        if limit is not None:
            self.blocking_timeout = limit

    def _refuse_to_wait(self, request: Any, is_confirmed: bool) -> None:
        """Refuses a wait for the caller itself, which only the engines of this package find."""

    def _take(self, request: Any, taken: "List[Any]") -> Any:
        """Acquires, and returns what was acquired; ``None`` if it was refused."""
        return self if self.acquire() else None

    def _keep_nobody_out(self, acquisition: Any) -> None:
        """Forgets ``hold_at_least``, which only the engines of this package have."""

    def _give_back(self, acquisition: Any) -> None:
        """Releases one acquisition."""
        self.release()

    def _undo(self, frame: Any, noted: "List[Any]") -> None:
        """Releases what an interrupted call has acquired."""
        if self in noted:
            self.release()

    def _holds(self, acquisition: Any) -> bool:
        """Whether one acquisition holds the lock now."""
        return self.is_locked

    def _is_asked(self, acquisition: Any) -> bool:
        """Whether the owner should end its work now."""
        return False

    def _note(self, held: bool) -> None:
        """Informs the manager, which releases held locks when it is closed."""
        manager = self._manager() if self._manager is not None else None
        if manager is not None:
            manager._track(self, held)
