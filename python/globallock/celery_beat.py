"""Several ``celery beat``, of which one sends the tasks.

::

    app.conf.global_lock_config = "redis://127.0.0.1:6379"
    app.conf.beat_scheduler = "globallock.celery_beat:LeaderScheduler"
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Dict, Optional

from .addresses import seconds
from .celery import manager_of
from .exceptions import GlobalLockError
from .frameworks import imported

if TYPE_CHECKING:
    from .native import NativeGlobalLock

__all__ = ["Leader", "LeaderScheduler"]

_beat: Any = imported("celery.beat", "globallock.celery_beat", "celery")
_logger: Any = imported("celery.utils.log", "globallock.celery_beat", "celery").get_logger(__name__)

#: How long one wait for the lead lasts, in seconds: beat looks between two of them whether it is to end.
WAIT = 5.0
#: How long beat pauses where the store does not answer, in seconds.
PAUSE = 1.0
#: How long the time at which an entry was sent is kept: the longest that the store keeps a value.
KEEP = 365 * 86400.0


class Leader:
    """Has a scheduler of beat lead before it sends: to be mixed in before another scheduler.

    ::

        class Scheduler(Leader, DatabaseScheduler): ...

    Of all beats of an app, one leads. The others wait in the queue of its lock, and the first of them leads
    as soon as the lease of a leader that has died has expired, or at once where it ends by itself. When each
    entry was sent last is kept in the store. So the next leader sends what has become due meanwhile, and
    nothing twice. That is looked at under a lock of each entry, so that a leader that was suspended for
    longer than its lease sends nothing that another one has sent.

    Settings of the app: ``global_lock_config``; ``beat_leader_name``, the name of the lock, ``celery-beat``
    and the app's name by default; ``beat_leader_lock_ttl``, the lease in seconds, 10 by default.
    """

    app: Any
    schedule: Any
    _heap: Any

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        self._leading: "Optional[NativeGlobalLock]" = None
        self._is_closed = False
        super().__init__(app, *args, **kwargs)  # type: ignore[call-arg]

    @property
    def _name(self) -> str:
        given = self.app.conf.get("beat_leader_name")
        return str(given or f"celery-beat/{self.app.main or 'celery'}")

    @property
    def _options(self) -> "Dict[str, Any]":
        lease = self.app.conf.get("beat_leader_lock_ttl")
        return {} if lease is None else {"lock_ttl": seconds("beat_leader_lock_ttl", lease)}

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Sends one task that is due if this beat leads; otherwise waits for the lead."""
        if self._is_closed:
            # Celery closes the scheduler where SIGTERM arrives, and raises SystemExit there. In the middle of
            # sending, its broker's client may raise another error in place of that, and beat would go on.
            raise SystemExit
        try:
            if not self._lead():
                return 0
        except GlobalLockError as error:
            _logger.error("beat: no task is sent, because it is not known who leads: %s", error)
            return PAUSE
        return super().tick(*args, **kwargs)  # type: ignore[misc]

    def _lead(self) -> bool:
        """Whether this beat leads; waits for a time if another one does."""
        if self._leading is not None:
            if self._leading.is_locked:
                return True
            _logger.warning("beat: the lead is lost, so no task is sent until this beat leads again")
            self._step_back()
        lock = manager_of(self.app).lock(self._name, blocking_timeout=WAIT, **self._options)
        if not lock.acquire():
            return False
        self._leading = lock
        try:
            self._take_over()
        except BaseException:
            self._step_back()
            raise
        _logger.info("beat: this beat leads now")
        return True

    def _take_over(self) -> None:
        """Sets all entries to when they were sent last, by whichever beat."""
        for entry in list(self.schedule.values()):
            with self._entry_lock(entry) as lock:
                self._adopt(entry, lock)
        self._heap = None

    def _entry_lock(self, entry: Any) -> "NativeGlobalLock":
        """The lock of one entry, with when it was sent last as its value."""
        name = f"{self._name}/{entry.name}"
        return manager_of(self.app).lock(name, with_value=True, blocking_timeout=WAIT, **self._options)

    @staticmethod
    def _adopt(entry: Any, lock: "NativeGlobalLock") -> bool:
        """Sets an entry to when it was sent last, if that is known."""
        if lock.value is None:
            return False
        now = entry.default_now()
        entry.last_run_at = datetime.fromtimestamp(float(lock.value.data), now.tzinfo)
        return True

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Sends an entry that is due, unless another beat has done so."""
        reserved = self.schedule[entry.name]
        try:
            with self._entry_lock(entry) as lock:
                if not lock.is_locked:
                    raise GlobalLockError("another beat has it")
                if self._adopt(entry, lock) and not self.is_due(entry)[0]:  # type: ignore[attr-defined]
                    _logger.warning("beat: %s is not sent, because another beat has sent it", entry.name)
                    reserved.last_run_at = entry.last_run_at
                    return
                # Before it is sent: a beat that is killed here leaves it out once, rather than send it twice.
                lock.set_value(repr(entry.default_now().timestamp()).encode(), keep=KEEP)
                super().apply_entry(entry, producer=producer)  # type: ignore[misc]
        except GlobalLockError as error:
            _logger.error("beat: %s is not sent now: %s", entry.name, error)
            reserved.last_run_at = entry.last_run_at
            # The lead may be lost. Who leads looks at all entries again.
            self._step_back()

    def _step_back(self) -> None:
        leading, self._leading, self._heap = self._leading, None, None
        if leading is not None:
            leading.release()

    def close(self) -> None:
        """Ends the scheduler. The next beat in the queue leads at once."""
        self._is_closed = True
        try:
            super().close()  # type: ignore[misc]
        finally:
            self._step_back()


class LeaderScheduler(Leader, _beat.Scheduler):  # type: ignore[misc, unused-ignore]
    """The scheduler of Celery's own setting ``beat_schedule``, for several beats. It keeps no file."""
