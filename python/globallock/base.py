"""The manager, and what the locks of all engines have in common."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Mapping, Optional, TypeVar, Union

from .addresses import Seconds, lock_name, suggestion
from .config import check, configured, from_source
from .constants import ENGINE_CLASSES
from .exceptions import GlobalLockClassNotFoundException, NotLocked
from .kinds import AllLocks, ReadWriteLock
from .once import Once

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from .aio import AsyncLocks
    from .native import Claim, NativeGlobalLock
    from .onlooker import Summary, Watch

    P = ParamSpec("P")

R = TypeVar("R")

__all__ = ["GlobalLockImplementationBase", "GlobalLockManager", "normalize_key_prefix_for_path"]

#: How many seconds ``close()`` waits for releases that the store has not answered.
CLOSING = 5.0

_logger = logging.getLogger(__name__)


def normalize_key_prefix_for_path(key: str) -> str:
    """Turns a prefix such as ``_glocks:`` into one for a path, ``_glocks/``."""
    return key.replace(":", "/")


class GlobalLockImplementationBase:
    """A lock of one engine. To write an engine, derive from this class and implement ``_do_acquire``.

    Times are in seconds, or a ``timedelta``. ``timeout`` is the max hold time: the longest that the lock is
    held. ``lock_ttl`` is the lease: how long the lock outlives its owner's last sign of life.
    ``blocking_timeout`` is the longest wait. ``sleep`` is accepted and has no effect, because waiters do not
    poll.
    """

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
        """The key of the lock in its store."""
        return str(self.config.global_lock_key_prefix) + self.name

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock now."""
        return self._is_locked

    def __enter__(self) -> "GlobalLockImplementationBase":
        self._is_locked = self.acquire()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.release()

    def acquire(self) -> bool:
        """Acquires the lock and says whether it was granted; never raises because another owner has it."""
        acquired = bool(self._do_acquire())
        if acquired:
            self._is_locked = True
            self._note(held=True)
        return acquired

    def _do_acquire(self) -> bool:
        raise NotImplementedError(f"{type(self).__name__} has no _do_acquire()")

    def release(self) -> None:
        """Releases the lock, if it is held. Warns in the log if that fails, and never raises."""
        if self._is_locked and self.lock:
            try:
                self.lock.release()
            except Exception as error:  # noqa: BLE001 - whatever the engine's own client raises
                _logger.warning("release of lock %r failed: %s", self.name, error)
            self._is_locked = False
            self._note(held=False)

    def renew(self) -> bool:
        """Says whether the lock is still held. An engine that can ask its store overrides this."""
        return True

    # The next are for the engines of this package, which have a record of each acquisition.

    def _request_within(self, limit: Optional[float]) -> Any:
        """What is to be acquired, in this time."""
        if limit is not None:
            self.blocking_timeout = limit

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


class GlobalLockManager:
    """Makes locks in one store.

    ``config`` is the address of a store (``redis://…``, ``etcd://…``, ``zookeeper://…``, ``file:…``,
    ``memory:``), or a dict as in earlier releases; ``None`` is Redis on this host. The first request makes
    the connection. Each process connects for itself, so a manager may be made before a fork.

    ``with GlobalLockManager(…) as lockman``, ``close()`` and the end of the interpreter release the locks
    that are still held.
    """

    def __init__(self, config: Union[str, Mapping[str, Any], None] = None, **options: Any) -> None:
        self.config = configured(config, options)
        with from_source(self.config):
            self.lock_class = _import(self.config.global_lock_engine_class)
            check(self.config, self.lock_class, options)
        # Only held locks, each with its acquisition: a lock that is made and dropped leaves nothing here. A
        # set is changed in one step, so no mutex is needed, for which a signal handler could wait for ever.
        self._held: "set[tuple[GlobalLockImplementationBase, Any]]" = set()
        _managers.add(self)

    def lock(
        self,
        name: str,
        timeout: Optional[Seconds] = None,
        sleep: Optional[float] = None,
        blocking: Optional[bool] = None,
        blocking_timeout: Optional[Seconds] = None,
        lock_ttl: Optional[Seconds] = None,
        grace: Optional[Seconds] = None,
        hold_at_least: Optional[Seconds] = None,
        with_value: bool = False,
        **other_options: Any,
    ) -> NativeGlobalLock:
        """Makes a lock; sends nothing to the store yet.

        ::

            with lockman.lock("nightly-report", timeout=60, blocking_timeout=5) as lock:
                if lock.is_locked:
                    ...

        Times are in seconds, or a ``timedelta``.

        :param timeout: the max hold time: the longest that the lock is held. Default: no limit.
        :param sleep: accepted for compatibility with earlier releases; waiters do not poll.
        :param blocking: whether to wait for the lock. Default: yes.
        :param blocking_timeout: the longest wait. Default: no limit.
        :param lock_ttl: the lease: how long the lock outlives its owner's last sign of life. The core renews
            it at a third of that, without Python's help. Default: 10.
        :param grace: makes the end at ``timeout`` a planned one: the owner is asked to end its work then
            (``lock.asked_to_end``), and the lock is kept for so long after it. Default: the lock is lost at
            ``timeout``.
        :param hold_at_least: for how long from the grant others are kept out, whatever becomes of the owner:
            from 1 ms, and no longer than the lock may be held. Redis and etcd keep them out by themselves.
            With a directory and ZooKeeper this process does so while it lives and the manager is not closed.
            Default: until the release.
        :param with_value: whether the grant comes with the value of the name (``lock.value``). Default: no.
        """
        default = self.config.get
        lock = self.lock_class(
            self.config,
            name,
            timeout=default("timeout") if timeout is None else timeout,
            sleep=default("sleep", 0.1) if sleep is None else sleep,
            blocking=default("blocking", True) if blocking is None else blocking,
            blocking_timeout=default("blocking_timeout") if blocking_timeout is None else blocking_timeout,
            **_given(lock_ttl=default("lock_ttl") if lock_ttl is None else lock_ttl),
            **_given(grace=grace, hold_at_least=hold_at_least),
            **_given(with_value=None if with_value is False else with_value),
            **other_options,
        )
        lock._manager = weakref.ref(self)
        # An instance of another class if the configuration names an engine that the user wrote.
        made: NativeGlobalLock = lock
        return made

    def rwlock(self, name: str, **options: Any) -> "ReadWriteLock":
        """Makes a read-write lock: many readers or one writer, and neither starves the other.

        Takes the options of ``lock()``.
        """
        return ReadWriteLock(self, name, options)

    def semaphore(self, name: str, capacity: int, permits: int = 1, **options: Any) -> NativeGlobalLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name.

        Takes the options of ``lock()``.
        """
        return self.lock(name, kind="permits", permits=permits, capacity=capacity, **options)

    def lock_all(
        self, names: Iterable[str], blocking_timeout: Optional[Seconds] = None, **options: Any
    ) -> "AllLocks":
        """Makes a lock of all ``names``, acquired all or none.

        All callers acquire in the same order, so they cannot deadlock. ``blocking_timeout`` limits the whole
        acquire. Other options are those of ``lock()``.
        """
        ordered = sorted({lock_name(name) for name in names}, key=str.encode)
        return AllLocks([self.lock(name, **options) for name in ordered], blocking_timeout)

    def locked(self, name: str, **options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Makes a decorator: the function holds the lock while it runs, or raises :class:`NotLocked`."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            @functools.wraps(function)
            def run(*args: P.args, **kwargs: P.kwargs) -> R:
                with self.lock(name, **options) as lock:
                    if not lock.is_locked:
                        raise NotLocked(name)
                    return function(*args, **kwargs)

            return run

        return decorate

    def once(self, name: str, every: Seconds, **options: Any) -> Once:
        """Makes work that is done once in a while, however many processes and hosts start it.

        ::

            ran = lockman.once("nightly-report", every=timedelta(hours=20)).run(send_the_report)

        It uses the mutex of this name, and its value.

        :param every: for how long after the beginning of a success the work is not done again: from 1 ms to
            a year. Choose it shorter than the period of the schedule, for example 20 hours for each night,
            because runs do not begin at the same moment every time. Choose it longer than the clocks of the
            hosts are apart and than the work takes, or the next host does the work again.
        :param options: those of ``lock()``.
        """
        return Once(self, name, every, options)

    # `List`, because `list` is a method of this class.
    def inspect(self, name: str) -> "List[Claim]":
        """Lists the holders and the waiters of a lock, oldest first."""
        return self.lock(name).claims()

    def evict(self, name: str, claim: "Union[Claim, str]", reason: str = "") -> bool:
        """Takes a claim that ``inspect()`` showed out of the queue of a lock, whoever made it.

        ``claim`` is the claim, or its ``key``. False if that very claim is not there any more: whoever has
        come after it is never hit. Its owner is told who did it (this manager's host, process and label) and
        why: a holder loses the lock, and a waiter's ``acquire()`` raises :class:`Evicted`. The owner may go
        on with its work until it has heard of it.

        After :class:`StoreUnavailable` the claim may be gone or not: the same call may be made again.
        """
        return self.lock(name).evict(claim, reason)

    def names(self, prefix: str = "") -> "List[str]":
        """Lists the names that have a holder or a waiter."""
        return self.lock("any").names(prefix)

    def list(self, prefix: str = "") -> "List[Summary]":
        """Sums up the names that have a holder or a waiter, sorted by name."""
        return self.lock("any").summaries(prefix)

    def watch(self, prefix: str = "", every: Seconds = 1.0) -> "Watch":
        """Tells how the names that begin with ``prefix`` change.

        First come all names that have a holder or a waiter, then each that is not as it was, and each that is
        free now (``summary.is_free``).

        ::

            with lockman.watch("reports/") as changes:
                for summary in changes:
                    print(summary.name, "is free" if summary.is_free else summary.holders)

        A store that cannot tell by itself is looked at ``every`` so many seconds. It is asked only while
        somebody waits for the next change. A :class:`StoreUnavailable` that is raised meanwhile does not end
        it: iterate on, and it tells what has changed since.
        """
        return self.lock("any").watch(prefix, every)

    @property
    def aio(self) -> "AsyncLocks":
        """The same locks for asyncio: ``await lockman.aio.lock(…).acquire()``."""
        from .aio import AsyncLocks

        return AsyncLocks(self)

    def registered_locks(self) -> "List[GlobalLockImplementationBase]":
        """The locks of this manager that are held."""
        return list({lock: None for lock, _ in list(self._held)})

    def _track(self, lock: GlobalLockImplementationBase, held: bool) -> None:
        if held:
            self._held.add((lock, None))
        else:
            self._held.discard((lock, None))

    def close(self) -> None:
        """Releases the locks that are still held, and closes the connection.

        May be called again. A later acquire connects again. Where this process keeps others out of a lock
        with ``hold_at_least``, they are let in now, and the logger ``globallock`` warns of it.
        """
        for lock, acquisition in list(self._held):
            lock._give_back(acquisition)
        engine = self.config.__dict__.get("_engine")
        if engine is not None:
            engine.close(CLOSING)

    def __enter__(self) -> "GlobalLockManager":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __reduce__(self) -> Any:
        # The copy in another process makes its own connection, and holds nothing.
        return (GlobalLockManager, (dict(self.config),))


_managers: "weakref.WeakSet[GlobalLockManager]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for manager in list(_managers):
        manager.close()


def _after_fork() -> None:
    for manager in list(_managers):
        # The held locks are the parent's.
        manager._held = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _given(**options: Any) -> "dict[str, Any]":
    """The options that are set: engine classes of the first releases do not know them."""
    return {name: value for name, value in options.items() if value is not None}


def _import(path: Any) -> Any:
    if isinstance(path, type):
        return path
    try:
        module, _, name = str(path).rpartition(".")
        found = getattr(importlib.import_module(module), name)
        if callable(found):
            return found
        cause: Optional[Exception] = None
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        cause = error
    meant = suggestion(path, ENGINE_CLASSES)
    raise GlobalLockClassNotFoundException(f"global lock class {path} is NOT found...{meant}") from cause
