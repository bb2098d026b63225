"""The manager."""

from __future__ import annotations

import atexit
import importlib
import os
import weakref
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Mapping, Optional, TypeVar, Union, overload

from .addresses import Seconds, lock_name, suggestion
from .config import check, configured, from_source
from .constants import ENGINE_CLASSES
from .decorators import Locked, Name, OnBusy
from .exceptions import GlobalLockClassNotFoundException, InvalidOption
from .implementation import GlobalLockImplementationBase
from .implementation import _logger as _logger  # where tests written for earlier releases look for it
from .kinds import AllLocks, ReadWriteLock
from .once import Once

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import ParamSpec, Unpack

    from .aio import AsyncLocks
    from .engine import Claim, Engine
    from .native import NativeGlobalLock
    from .onlooker import Summary, Watch
    from .options import AllOptions, LockOptions, OnceOptions, OtherOptions

    P = ParamSpec("P")

F = TypeVar("F", bound="Union[Callable[..., Any], type]")

__all__ = ["GlobalLockImplementationBase", "GlobalLockManager", "normalize_key_prefix_for_path"]

#: How many seconds ``close()`` waits for releases that the store has not answered.
CLOSING = 5.0


def normalize_key_prefix_for_path(key: str) -> str:
    """Turns a prefix such as ``_glocks:`` into one for a path, ``_glocks/``."""
    return key.replace(":", "/")


class GlobalLockManager:
    """Makes locks in one store.

    ``config`` is the address of a store (``redis://…``, ``etcd://…``, ``zookeeper://…``, ``file:…``,
    ``memory:``), or a dict as in earlier releases; ``None`` is Redis on this host. The first request makes
    the connection. Each process connects for itself, so a manager may be made before a fork.

    ``with GlobalLockManager(…) as lockman``, ``close()`` and the end of the interpreter release the locks
    that are still held.

    >>> with GlobalLockManager("memory:shop", timeout=60) as lockman:
    ...     with lockman.hold("nightly-report") as lock:
    ...         lock.is_locked
    True
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
        sleep: Optional[Seconds] = None,
        blocking: Optional[bool] = None,
        blocking_timeout: Optional[Seconds] = None,
        lock_ttl: Optional[Seconds] = None,
        grace: Optional[Seconds] = None,
        hold_at_least: Optional[Seconds] = None,
        with_value: bool = False,
        **other_options: Unpack[OtherOptions],
    ) -> NativeGlobalLock:
        """Makes a lock; sends nothing to the store yet.

        Times are in seconds, or a ``timedelta``.

        >>> with lockman.lock("nightly-report", timeout=60, blocking_timeout=5) as lock:
        ...     if lock.is_locked:
        ...         print("writes the report")
        writes the report

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
        :param other_options: those of a kind of lock and of earlier releases. An engine that the user wrote
            is given whatever is written here; a checker of types knows no options of its own.
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

    def hold(self, name: str, **options: Unpack[LockOptions]) -> NativeGlobalLock:
        """Makes a lock whose ``with`` raises :class:`NotLocked` where it is not granted.

        Takes the options of ``lock()``. Other kinds of locks have the method ``hold()`` for it:
        ``lockman.semaphore("imports", 3).hold()``.

        >>> with lockman.hold("nightly-report", blocking_timeout=5) as lock:
        ...     print("writes the report with fencing token", lock.fencing_token)
        writes the report with fencing token 1
        >>> with lockman.hold("nightly-report"), lockman.hold("nightly-report", blocking=False):
        ...     print("writes it twice")
        Traceback (most recent call last):
        globallock.exceptions.NotLocked: the lock 'nightly-report' was not granted
        """
        lock = self.lock(name, **options)
        lock._is_required = True
        return lock

    def rwlock(self, name: str, **options: Unpack[LockOptions]) -> ReadWriteLock:
        """Makes a read-write lock: many readers or one writer, and neither starves the other.

        Takes the options of ``lock()``.

        >>> catalogue = lockman.rwlock("catalogue")
        >>> with catalogue.read().hold(), catalogue.read().hold():
        ...     catalogue.write(blocking=False).acquire()
        False
        """
        return ReadWriteLock(self, name, options)

    def semaphore(
        self, name: str, capacity: int, permits: int = 1, **options: Unpack[LockOptions]
    ) -> NativeGlobalLock:
        """Makes a lock that takes ``permits`` of the ``capacity`` permits of a name.

        Takes the options of ``lock()``.

        >>> imports = lockman.semaphore("imports", 2, blocking=False)
        >>> with imports.hold(), imports.hold():
        ...     imports.acquire()
        False
        """
        return self.lock(name, **options, kind="permits", permits=permits, capacity=capacity)

    def lock_all(
        self,
        names: Iterable[str],
        blocking_timeout: Optional[Seconds] = None,
        **options: Unpack[AllOptions],
    ) -> AllLocks:
        """Makes a lock of all ``names``, acquired all or none.

        All callers acquire in the same order, so they cannot deadlock. ``blocking_timeout`` limits the whole
        acquire. Other options are those of ``lock()``. One text in place of the list, and an empty list, are
        :class:`InvalidOption`.

        >>> with lockman.lock_all(["accounts/9", "accounts/7"], blocking_timeout=5).hold():
        ...     lockman.names("accounts/")
        ['accounts/7', 'accounts/9']
        """
        if isinstance(names, (str, bytes)):
            raise InvalidOption("lock_all() was given one name: give a list of names, such as ['orders/7']")
        ordered = sorted({lock_name(name) for name in names}, key=str.encode)
        if not ordered:
            # A list that is empty by mistake would let its block run without any lock.
            raise InvalidOption("lock_all() was given no name, so it holds nothing: skip the work for none")
        return AllLocks([self.lock(name, **options) for name in ordered], blocking_timeout)

    @overload
    def locked(
        self,
        name: Name = None,
        *,
        on_busy: "Literal['raise']" = "raise",
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> "Callable[[F], F]": ...

    @overload
    def locked(
        self,
        name: Name = None,
        *,
        on_busy: OnBusy,
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> "Callable[[Callable[P, Any]], Callable[P, Any]]": ...

    def locked(
        self,
        name: Name = None,
        *,
        on_busy: OnBusy = "raise",
        cancel_on_loss: bool = False,
        **options: Unpack[LockOptions],
    ) -> Any:
        """Makes a decorator: the function holds the lock from its beginning to its end.

        It decorates functions, methods, coroutine functions, generator functions of both kinds, and classes
        with a method ``execute()``, such as commands of Django. Write ``@contextmanager`` above it.

        >>> @lockman.locked("order/{order_id}", blocking_timeout=5)
        ... def ship(order_id):
        ...     print("ships it, and holds", lockman.names())
        >>> ship(7)
        ships it, and holds ['order/7']

        :param name: may have fields of the function's parameters, and ``{{`` for a brace; or a function that
            makes the name of the same arguments. Default: the function's own name. Fields are refused above
            another decorator, unless its code shows that it passes on the arguments that it gets.
        :param on_busy: what happens where the lock is not granted: ``"raise"`` raises :class:`NotLocked`,
            ``"skip"`` returns ``None``, and a function is called with the same arguments instead. For a
            generator function it gives the values, as an iterable.
        :param cancel_on_loss: whether a coroutine function is cancelled when the lock ends, as by
            ``lockman.aio.lock()``.
        :param options: those of ``lock()``.
        :raises TypeError: what cannot hold a lock from its beginning to its end. A call raises it if it
            returns what is still to be done, such as a coroutine, a future, a generator or another iterator.
        """
        return Locked(self, name, on_busy, cancel_on_loss, options)

    def once(self, name: str, every: Seconds, **options: Unpack[OnceOptions]) -> Once:
        """Makes work that is done once in a while, however many processes and hosts start it.

        It uses the mutex of this name, and its value.

        >>> nightly = lockman.once("nightly-report", every=timedelta(hours=20))
        >>> nightly.run(print, "sends the report").done
        sends the report
        True
        >>> nightly.run(print, "sends the report").done
        False

        :param every: for how long after the beginning of a success the work is not done again: from 1 ms to
            a year. Choose it shorter than the period of the schedule, for example 20 hours for each night,
            because runs do not begin at the same moment every time. Choose it longer than the clocks of the
            hosts are apart and than the work takes, or the next host does the work again.
        :param options: those of ``lock()``.
        """
        return Once(self, name, every, options)

    @property
    def _engine(self) -> Engine:
        """The connection, which all engines of this package have."""
        engine: "Optional[Engine]" = getattr(self.lock("any"), "_engine", None)
        if engine is None:
            raise InvalidOption(f"{self.lock_class} is no engine of this package: it cannot say that")
        return engine

    # `List`, because `list` is a method of this class.
    def inspect(self, name: str) -> "List[Claim]":
        """Lists the holders and the waiters of a lock, oldest first.

        >>> with lockman.hold("orders/7"):
        ...     [(claim.held, claim.permits) for claim in lockman.inspect("orders/7")]
        [(True, 1)]
        """
        return self._engine.inspect(name).answer()

    def evict(self, name: str, claim: "Union[Claim, str]", reason: str = "") -> bool:
        """Takes a claim that ``inspect()`` showed out of the queue of a lock, whoever made it.

        ``claim`` is the claim, or its ``key``. False if that very claim is not there any more: whoever has
        come after it is never hit. Its owner is told who did it (this manager's host, process and label) and
        why: a holder loses the lock, and a waiter's ``acquire()`` raises :class:`Evicted`. The owner may go
        on with its work until it has heard of it.

        After :class:`StoreUnavailable` the claim may be gone or not: the same call may be made again.

        >>> with lockman.hold("orders/7") as lock:
        ...     [holder] = lockman.inspect("orders/7")
        ...     lockman.evict("orders/7", holder, reason="it hangs")
        ...     lock.wait_lost(timeout=30).loss
        True
        <Loss.EVICTED: 'evicted'>
        """
        return self._engine.evict(name, claim, reason).answer()

    def names(self, prefix: str = "") -> "List[str]":
        """Lists the names that have a holder or a waiter.

        >>> with lockman.hold("orders/7"), lockman.hold("orders/9"), lockman.hold("reports/1"):
        ...     lockman.names("orders/")
        ['orders/7', 'orders/9']
        """
        return self._engine.names(prefix).answer()

    def list(self, prefix: str = "") -> "List[Summary]":
        """Sums up the names that have a holder or a waiter, sorted by name.

        >>> with lockman.hold("orders/7"):
        ...     [(summary.name, summary.kind, summary.holders) for summary in lockman.list("orders/")]
        [('orders/7', 'mutex', 1)]
        """
        return self._engine.list(prefix).answer()

    def watch(self, prefix: str = "", every: Seconds = 1.0) -> "Watch":
        """Tells how the names that begin with ``prefix`` change.

        First come all names that have a holder or a waiter, then each that is not as it was, and each that is
        free now (``summary.is_free``).

        A store that cannot tell by itself is looked at ``every`` so many seconds. It is asked only while
        somebody waits for the next change. A :class:`StoreUnavailable` that is raised meanwhile does not end
        it: iterate on, and it tells what has changed since.

        >>> with lockman.hold("reports/7"), lockman.watch("reports/") as changes:
        ...     summary = next(changes)
        ...     print(summary.name, "is free" if summary.is_free else "is held")
        reports/7 is held
        """
        return self._engine.watch(prefix, every)

    @property
    def aio(self) -> "AsyncLocks":
        """The same locks for asyncio: ``await lockman.aio.lock(…).acquire()``.

        >>> async def main():
        ...     async with lockman.aio.hold("orders/7") as lock:
        ...         return lock.is_locked
        >>> asyncio.run(main())
        True
        """
        from .aio import AsyncLocks

        return AsyncLocks(self)

    def registered_locks(self) -> "List[GlobalLockImplementationBase]":
        """The locks of this manager that are held.

        >>> with lockman.hold("orders/7"):
        ...     [lock.name for lock in lockman.registered_locks()]
        ['orders/7']
        """
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

        >>> lock = lockman.lock("orders/7")
        >>> lock.acquire()
        True
        >>> lockman.close()
        >>> lock.is_locked
        False
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

    def __repr__(self) -> str:
        engine = self.config.__dict__.get("_engine")
        where = "not used yet" if engine is None else engine.native.address
        engine_class = getattr(self.lock_class, "__name__", self.lock_class)
        return f"<GlobalLockManager {engine_class}, {where}, {len(self._held)} held>"

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
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        if callable(found):
            return found
        cause: Optional[Exception] = None
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        cause = error
    why = f": {cause}" if _is_broken(module, cause) else suggestion(path, ENGINE_CLASSES)
    raise GlobalLockClassNotFoundException(f"global lock class {path} is NOT found...{why}") from cause


def _is_broken(module: str, cause: Optional[Exception]) -> bool:
    """Whether a module is there, but cannot be imported."""
    if isinstance(cause, ModuleNotFoundError):
        return not f"{module}.".startswith(f"{cause.name}.")
    return isinstance(cause, ImportError)
