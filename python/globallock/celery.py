"""Locks for Celery: tasks that run one at a time, and tasks that are queued once.

::

    app.conf.global_lock_config = "redis://127.0.0.1:6379"

    @app.task
    @exclusive("import/{account}", on_busy="retry", countdown=30)
    def import_account(account): ...

    @app.task(base=UniqueTask, unique_name="report/{day}", unique_for=3600)
    def report(day): ...

``celery beat`` on several hosts: see :mod:`globallock.celery_beat`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import weakref
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional, Union

from .addresses import Seconds, likeliest, seconds
from .base import GlobalLockManager
from .constants import DEFAULT_LEASE
from .decorators import Name, namer
from .deferred import begins_later, refuse_unfinished, shown
from .early import refuse_lockman, refuse_name, refuse_options
from .exceptions import GlobalLockError, InvalidOption, NotLocked
from .frameworks import Lockman, imported, managed

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from .native import NativeGlobalLock

    P = ParamSpec("P")

__all__ = ["UniqueTask", "current_lock", "exclusive", "manager_of"]

_celery: Any = imported("celery", "globallock.celery", "celery")
_exceptions: Any = imported("celery.exceptions", "globallock.celery", "celery")
_signals: Any = imported("celery.signals", "globallock.celery", "celery")
_logger: Any = imported("celery.utils.log", "globallock.celery", "celery").get_task_logger(__name__)

#: How much longer than a lease is waited for a lock that may be a dead worker's, in seconds.
MARGIN = 1.0
#: How long a task that is to be queued waits for others that are queued at this moment, in seconds.
QUEUEING = 10.0
#: How long the record of a task that runs is kept. What says that it runs is its lease.
RUNNING = 30 * 86400.0

_ON_BUSY = ("skip", "retry", "wait", "raise", "ignore")
_ON_DUPLICATE = ("first", "raise")
#: The options of ``exclusive()`` besides those of ``lock()``, and the attributes of unique tasks.
_OF_EXCLUSIVE = ("countdown", "lockman", "max_retries", "on_busy")
_OF_UNIQUE = ("lockman", "on_duplicate", "unique_for", "unique_name")
#: What is told when a task has ended, by the option of ``apply_async()`` that says so.
_FOLLOWS = {
    "chain": "chain", "chord": "chord", "group_id": "group", "link": "link", "link_error": "link_error",
}  # fmt: skip

_lock: "contextvars.ContextVar[Optional[NativeGlobalLock]]" = contextvars.ContextVar(
    "globallock_celery_lock", default=None
)


def current_lock() -> "Optional[NativeGlobalLock]":
    """The lock that the running task holds by :func:`exclusive`, for its fencing token; ``None`` outside."""
    return _lock.get()


_managers: "weakref.WeakKeyDictionary[Any, GlobalLockManager]" = weakref.WeakKeyDictionary()


def manager_of(app: Any) -> GlobalLockManager:
    """The manager of a Celery app, from ``app.conf.global_lock_config``: an address, or a dict.

    It is made once. Each process connects for itself, also one that was forked.
    """
    found = _managers.get(app)
    if found is None:
        config = app.conf.get("global_lock_config")
        if config is None:
            raise InvalidOption(
                "Celery's setting global_lock_config is missing: set app.conf.global_lock_config to an "
                "address such as redis://127.0.0.1:6379, or give lockman=…"
            )
        found = _managers.setdefault(app, GlobalLockManager(config))
    return found


def exclusive(
    name: Name,
    on_busy: "Union[str, Callable[..., Any]]" = "skip",
    *,
    lockman: Optional[Lockman] = None,
    blocking_timeout: Optional[Seconds] = None,
    countdown: Seconds = 10.0,
    max_retries: Optional[int] = None,
    **options: Any,
) -> "Callable[[Callable[P, Any]], Callable[P, Any]]":
    """Makes a decorator for the function of a task: the task holds a lock while it runs.

    ::

        @app.task(bind=True, acks_late=True)
        @exclusive("import/{account}", on_busy="retry", countdown=30, max_retries=20)
        def import_account(self, account): ...

    A message that is delivered once more, because the worker that had it has died, waits for the lease of
    that worker before it finds the lock busy. So it is not skipped because of the dead one. If the lock is
    busy even then, the worker lives most likely and the broker has lost patience: ``"skip"`` then ends
    without a result, which is that worker's to give.

    :param name: the name of the lock. It may have fields of the arguments, or be a function of them.
    :param on_busy: what becomes of a task while another one has the lock. ``"skip"``: it succeeds with the
        result ``None``. ``"retry"``: it is tried again after ``countdown``, as by its own ``retry()``.
        ``"wait"``: it waits for ``blocking_timeout`` and fails with :class:`NotLocked` then. ``"raise"``: it
        fails at once. ``"ignore"``: it ends without a result, as by Celery's ``Ignore``: whoever waits for
        its result waits for ever. A function: it is called with the arguments, and its result is the task's.
    :param lockman: a manager, or what makes one. Default: that of ``app.conf.global_lock_config``.
    :param blocking_timeout: how long to wait before the lock is busy. Default: not at all.
    :param countdown: after how long a retry is due, in seconds or as a ``timedelta``.
    :param max_retries: how many retries, all in all. Default: the ``max_retries`` of the task, which is 3 for
        Celery. After that it fails with :class:`NotLocked`.
    :param options: those of ``lock()``. One of an engine of your own needs the manager itself as ``lockman``.
    :raises InvalidOption: an option, or the name, is wrong.
    :raises TypeError: what does not do its work while it is called: a coroutine or generator function, or a
        class. A function that returns a coroutine or a generator raises it when it is called.
    """
    if not callable(on_busy) and on_busy not in _ON_BUSY:
        raise InvalidOption(f"on_busy is {on_busy!r}: give one of {', '.join(_ON_BUSY)}, or a function")
    if on_busy == "wait" and blocking_timeout is None:
        raise InvalidOption('on_busy="wait" needs a blocking_timeout: tasks could fill all workers for ever')
    if "blocking" in options:
        raise InvalidOption("exclusive() has no option 'blocking': give a blocking_timeout to wait")
    if "cancel_on_loss" in options:
        raise InvalidOption("exclusive() has no option 'cancel_on_loss': nothing can cancel a task")
    is_number = isinstance(max_retries, int) and not isinstance(max_retries, bool)
    if max_retries is not None and not (is_number and max_retries >= 0):
        raise InvalidOption(f"the option max_retries is {max_retries!r}: give a whole number from 0 on")
    if isinstance(name, str):
        refuse_name(name)
    refuse_options("exclusive", options, _OF_EXCLUSIVE, lockman)
    wait = 0.0 if blocking_timeout is None else seconds("blocking_timeout", blocking_timeout)
    pause = seconds("countdown", countdown)

    def decorate(function: "Callable[P, Any]") -> "Callable[P, Any]":
        _refuse_deferred(function)
        named = namer(function, name)

        @functools.wraps(function)
        def run(*args: "P.args", **kwargs: "P.kwargs") -> Any:
            current: Any = _celery.current_task
            task = current._get_current_object() if current else None
            app = task.app if task is not None else _celery.current_app
            manager = manager_of(app) if lockman is None else managed(lockman)
            full = named(args, kwargs)
            lock = manager.lock(full, **_waiting(manager, task, wait, options), **options)
            with lock:
                if lock.is_locked:
                    token = _lock.set(lock)
                    try:
                        return refuse_unfinished(function, function(*args, **kwargs))
                    finally:
                        _lock.reset(token)
            if callable(on_busy):
                return on_busy(*args, **kwargs)
            return _is_busy(on_busy, full, task, pause, max_retries)

        # Celery checks the arguments of a call by it, and does not look behind a decorator.
        run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return run

    return decorate


def _waiting(
    manager: GlobalLockManager, task: Any, wait: float, options: "dict[str, Any]"
) -> "dict[str, Any]":
    """How long the lock of a task is waited for."""
    if _is_redelivered(task):
        # The worker that had this message may be dead, and the lock be its own: until its lease expires.
        lease = options.get("lock_ttl")
        lease = manager.config.get("lock_ttl") if lease is None else lease
        wait = max(wait, MARGIN + (DEFAULT_LEASE if lease is None else seconds("lock_ttl", lease)))
    return {"blocking": wait > 0, "blocking_timeout": wait if wait > 0 else None}


def _is_redelivered(task: Any) -> bool:
    return task is not None and bool((task.request.delivery_info or {}).get("redelivered"))


def _is_busy(on_busy: str, name: str, task: Any, pause: float, max_retries: Optional[int]) -> None:
    """What becomes of a task whose lock another one has."""
    if on_busy == "retry" and task is not None:
        why = NotLocked(name, "is held by another task")
        raise task.retry(countdown=pause, max_retries=max_retries, exc=why)
    if on_busy == "ignore" or (on_busy == "skip" and _is_redelivered(task)):
        _logger.info("ignored, because another task has the lock %r", name)
        raise _exceptions.Ignore
    if on_busy != "skip":
        raise NotLocked(name, "is held by another task")
    _logger.info("skipped, because another task has the lock %r", name)


def _refuse_deferred(function: "Callable[..., Any]") -> None:
    if isinstance(function, type):
        raise TypeError(f"{function.__name__} is a class: decorate its run(), or the function of a task")
    if not callable(function):
        raise TypeError(f"a lock cannot be held by a {type(function).__name__}: decorate a function")
    if begins_later(function):
        why = "is a coroutine or generator function, whose call does nothing yet"
        raise TypeError(f"{shown(function)} {why}")
    if hasattr(function, "apply_async"):
        raise TypeError("exclusive() is for the function of a task: write it below @app.task, not above")


class UniqueTask(_celery.Task):  # type: ignore[misc, unused-ignore]
    """The base of tasks that are queued once: another ``apply_async()`` of the name gives the first's result.

    ::

        @app.task(base=UniqueTask, unique_name="report/{day}", unique_for=3600)
        def report(day): ...

        first, second = report.delay("monday"), report.delay("monday")
        assert first.id == second.id  # and the report is made once

    That is so from ``apply_async()`` until the task has ended, with a retry too. While it is queued, there is
    a record in the store that ends by itself after ``unique_for``, so that a message that was lost does not
    keep others out for ever. While it runs, the worker holds a lease. If the worker is killed, another one
    may be queued as soon as its lease has expired. A task that was queued all the same never runs beside the
    other: it is skipped, and succeeds with the result ``None``.

    Tasks that are sent by name (``app.send_task()``), or called, are not refused.

    Where something follows the task, such as the rest of a chain, a group, a chord or a ``link``, it cannot
    be given to one that is queued already. Then ``apply_async()`` raises :class:`NotLocked`.

    Attributes that are misspelt or wrong are refused when the class is made, which for ``@app.task`` is when
    the task is first used or the worker starts.
    """

    abstract = True

    #: The name, with fields of the arguments, or a function of them.
    unique_name: Optional[Name] = None
    #: The longest that a queued task keeps others out, from when it is due: in seconds, or a ``timedelta``.
    unique_for: Seconds = 86400.0
    #: What ``apply_async()`` does if one is queued: ``"first"`` gives the first's ``AsyncResult``;
    #: ``"raise"`` raises :class:`NotLocked`, and so does either where something follows the task.
    on_duplicate = "first"
    #: A manager, or what makes one; otherwise that of ``app.conf.global_lock_config``.
    lockman: Optional[Lockman] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _check_unique(cls)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: Optional[str] = None, **options: Any
    ) -> Any:
        """Queues the task, unless one of its name is queued or running."""
        record, own = self._record(args, kwargs), task_id or _celery.uuid()
        first = record.queue(own, self._keep(options))
        if first is not None:
            why = f"is taken: the task {first} is queued or running"
            follows = _following(own, task_id is not None, options)
            if follows:
                raise NotLocked(
                    record.name,
                    f"{why}, so this one is not sent, and what was to follow it would never come "
                    f"({follows}): on_duplicate='first' is for tasks that nothing follows",
                )
            if self.on_duplicate == "raise":
                raise NotLocked(record.name, why)
            _logger.info("not queued, because the task %s has the name %r", first, record.name)
            return self.AsyncResult(first)
        try:
            return super().apply_async(args, kwargs, task_id=own, **options)
        except BaseException:
            record.clear(own)
            raise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly or getattr(request, "globallock_runs", False):
            return super().__call__(*args, **kwargs)
        record = self._record(args, kwargs)
        running, has_ended = record.running(self), True
        try:
            with running:
                if running.is_locked:
                    record.start(request.id)
                    request.globallock_runs = True
                    return refuse_unfinished(self.run, self.run(*args, **kwargs))
                if not record.is_of(request.id):
                    _logger.info("skipped, because another task has the name %r", record.name)
                    return None
                # It was delivered twice, and the result is the other's to give.
                has_ended = False
                _logger.info("ignored, because this task runs already, with the name %r", record.name)
                raise _exceptions.Ignore
        except _exceptions.Retry:
            # It is queued again already, with the same id.
            has_ended = False
            raise
        except _exceptions.Reject as error:
            if error.requeue:
                has_ended = False
                record.queue(request.id, self._keep({}))
            raise
        finally:
            # Not before the lease has ended: who is queued now must not find it, and be skipped.
            if has_ended:
                self._clear(record, request.id)

    @staticmethod
    def _clear(record: "_Record", own: str) -> None:
        try:
            record.clear(own)
        except GlobalLockError as error:
            # What the task has done is done. Without the lease, the record of one that ran has no effect.
            _logger.warning("the record of %r was not cleared: %s", record.name, error)

    def _record(self, args: Any, kwargs: Any) -> "_Record":
        # Of the class itself: a function would be bound as a method.
        name, lockman = (inspect.getattr_static(self, each) for each in ("unique_name", "lockman"))
        if name is None:
            raise InvalidOption(
                f"the task {self.name} has no unique_name: give it to @app.task(base=UniqueTask, …)"
            )
        manager = manager_of(self.app) if lockman is None else managed(lockman)
        return _Record(manager, namer(self.run, name)(tuple(args or ()), dict(kwargs or {})))

    def _keep(self, options: "dict[str, Any]") -> float:
        """How long the record of a task that is queued now is kept."""
        keep, delay = seconds("unique_for", self.unique_for), options.get("countdown")
        eta = options.get("eta")
        if delay is None and isinstance(eta, datetime):
            now = datetime.now(timezone.utc)
            # Celery reads a time without a zone in the one of the app.
            now = now if eta.tzinfo is not None else self.app.now().replace(tzinfo=None)
            delay = max(0.0, (eta - now).total_seconds())
        return keep + float(delay or 0.0)


def _check_unique(task: type) -> None:
    """Refuses attributes of a unique task that are misspelt, or have a value that is none."""
    given = vars(task)
    for each in given:
        meant = None if hasattr(UniqueTask, each) else likeliest(each, _OF_UNIQUE, 0.85)
        if meant is not None:
            raise InvalidOption(f"{task.__name__} has no attribute {each!r}: did you mean {meant!r}?")
    # What is made when it is read, such as a property, is checked then.
    fixed = {each: given[each] for each in _OF_UNIQUE if each in given}
    fixed = {each: value for each, value in fixed.items() if not hasattr(value, "__get__")}
    if fixed.get("on_duplicate", "first") not in _ON_DUPLICATE:
        shown = fixed["on_duplicate"]
        raise InvalidOption(f"on_duplicate is {shown!r}: give one of {', '.join(_ON_DUPLICATE)}")
    seconds("unique_for", fixed.get("unique_for", 0.0))
    refuse_lockman(fixed.get("lockman"))
    run, name = getattr(task, "run"), inspect.getattr_static(task, "unique_name")  # noqa: B009
    if isinstance(name, str):
        refuse_name(name)
    if run is not _celery.Task.run:
        _refuse_deferred(run)
        if isinstance(name, str):
            namer(run, name)


def _following(own: str, is_given: bool, options: "dict[str, Any]") -> str:
    """What waits for the end of a task that is to be queued; empty if nothing does."""
    found = [shown for option, shown in _FOLLOWS.items() if options.get(option)]
    if "chord" in found and "group" in found:
        found.remove("group")
    if not found and is_given and "chain" in options:
        found.append("chain")
    current: Any = _celery.current_task
    if not found and is_given and current and current.request.id == own:
        found.append("replace")
    # A signature that was given its id before has a result, for which somebody may wait.
    if not found and is_given and "reply_to" in options:
        found.append("its result")
    return ", ".join(found)


class _Record:
    """Which task has a name: it is queued (``q``), or runs (``r``) while the lease of its worker lasts."""

    def __init__(self, manager: GlobalLockManager, name: str) -> None:
        self.name = name
        self._manager = manager

    def running(self, task: Any) -> "NativeGlobalLock":
        """The lock that is held by the worker while the task runs."""
        return self._manager.lock(self._running, **_waiting(self._manager, task, 0.0, {}))

    @property
    def _running(self) -> str:
        return f"{self.name}/running"

    def queue(self, own: str, keep: float) -> Optional[str]:
        """Notes that a task is queued; or returns the id of the one that has the name."""
        with self._written() as lock:
            state, first = _read(lock)
            is_taken = state == "q" or (state == "r" and any(
                claim.held for claim in self._manager.inspect(self._running)
            ))  # fmt: skip
            if is_taken and first != own:
                return first
            lock.set_value(f"q{own}".encode(), keep=keep)
        return None

    def is_of(self, own: str) -> bool:
        """Whether this very task runs already."""
        with self._written() as lock:
            return _read(lock) == ("r", own)

    def start(self, own: str) -> None:
        """Notes that a task runs, unless another one is queued."""
        with self._written() as lock:
            state, first = _read(lock)
            if state != "q" or first == own:
                lock.set_value(f"r{own}".encode(), keep=RUNNING)

    def clear(self, own: str) -> None:
        """Notes that a task has ended, unless another one is queued or runs."""
        with self._written() as lock:
            if _read(lock)[1] == own:
                lock.set_value(b"", keep=0.001)

    @contextlib.contextmanager
    def _written(self) -> "Iterator[NativeGlobalLock]":
        """The lock of the record, which is its value."""
        lock = self._manager.lock(f"{self.name}/queued", with_value=True, blocking_timeout=QUEUEING)
        with lock:
            if not lock.is_locked:
                raise NotLocked(lock.name, f"was not granted within {QUEUEING:g} s")
            yield lock


def _read(lock: "NativeGlobalLock") -> "tuple[str, str]":
    """The state and the id of a record; empty if there is none."""
    text = lock.value.data.decode() if lock.value is not None else ""
    return text[:1], text[1:]


def _has_ended(sender: Any = None, request: Any = None, terminated: bool = False, **_: Any) -> None:
    """Clears the record of a task that was revoked, or had expired: it never runs."""
    # One that was terminated may run for another moment. Its lease says so, as when its worker is killed.
    if isinstance(sender, UniqueTask) and request is not None and not terminated:
        sender._clear(sender._record(request.args, request.kwargs), request.id)


_signals.task_revoked.connect(_has_ended, weak=False)
