"""The locks of the Rust core, on which every engine here is built."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Callable, NamedTuple, Optional, Union

from . import _rust
from .addresses import Seconds, is_text, lock_name, seconds
from .base import GlobalLockImplementationBase
from .constants import DEFAULT_LEASE
from .exceptions import InvalidAddress, InvalidOption, NotLocked
from .greenlets import hub
from .onlooker import AsyncWatch, Summary, Watch, ask, summaries

__all__ = ["Claim", "Engine", "NativeGlobalLock", "LockRequest", "Value"]

_logger = logging.getLogger("globallock.base")

#: Options of earlier releases and of redis-py's locks that are accepted. The core renews by itself, so only
#: ``auto_renew=False`` has an effect.
_ACCEPTED = frozenset({"auto_renew", "renew_interval", "thread_local"})


_KINDS = frozenset({"mutex", "read", "write", "permits"})


class LockRequest(NamedTuple):
    """Which lock the core must acquire, and how. Times are in seconds."""

    name: str
    kind: str
    permits: int
    capacity: int
    wait: Optional[float]
    max_hold: Optional[float]
    lease: Optional[float]
    #: After how long the owner is asked to end, if its end is planned.
    ask_after: Optional[float] = None
    wants_value: bool = False
    #: For how long others are kept out, whatever becomes of the owner.
    hold_at_least: Optional[float] = None


@dataclass(frozen=True)
class Claim:
    """One party's place in the queue of a lock: a holder or a waiter. Times are in seconds."""

    #: The claim's id; ``None`` for a foreign holder, such as a lock of redis-py.
    id: Optional[str]
    #: Whether it holds the lock; otherwise it waits.
    held: bool
    #: How much of the lock it takes, and of how much.
    permits: int
    capacity: int
    fencing_token: int
    host: str
    pid: Optional[int]
    label: Optional[str]
    #: How long it has held, or waited; ``None`` where the store does not know.
    age: Optional[float]
    #: How long the store keeps it without another sign of life of its owner.
    expires_in: Optional[float]
    #: Which claim this is, of all that there are and will be: for the manager's ``evict()``.
    key: str


@dataclass(frozen=True)
class Value:
    """The value of a lock's name, which a holder has left."""

    #: What was set. Not shown, because it is nobody's business but the holders'.
    data: bytes = field(repr=False)
    #: The fencing token of the holder that set it.
    fencing_token: int
    #: How many seconds ago that was, when this was read: by the clock of the store where it has one.
    age: float


class Engine:
    """The connection of one manager, which each process makes for itself when it first needs it."""

    def __init__(self, url: str, lease: Optional[Seconds], label: Optional[str], prefix: str = "") -> None:
        if not is_text(url):
            raise InvalidAddress("the address is not a text that can be sent")
        if label is not None and not is_text(label):
            raise InvalidOption("the option label is not a text that can be sent")
        default = DEFAULT_LEASE if lease is None else seconds("lock_ttl", lease)
        self.native = _rust.Manager(url, default, label)
        #: Prepended to the names that are given to the core: the part of the key prefix after its last slash,
        #: which cannot be part of the store's path.
        self.prefix = prefix

    def add_prefix(self, name: Any) -> str:
        """Turns the user's name of a lock into the core's."""
        return self.prefix + lock_name(name)

    def strip_prefix_of(self, name: str) -> str:
        """Turns the core's name of a lock into the user's."""
        return name[len(self.prefix) :]

    def strip_prefix(self, names: "list[str]") -> "list[str]":
        """Turns the core's names of locks into the user's, sorted."""
        return sorted(self.strip_prefix_of(name) for name in names)

    def close(self, limit: float) -> None:
        """Closes the connection once the store has answered all releases, or after ``limit`` seconds."""
        self.native.close(limit)


class NativeGlobalLock(GlobalLockImplementationBase):
    """A lock of the Rust core. The engines differ only in how they turn their options into an address."""

    #: Methods that subclasses of earlier releases' engines override, and that would have no effect here.
    HOOKS: "frozenset[str]" = frozenset(
        {"get_etcd3_client", "get_lock", "get_redis_connection", "get_redis_connection_pool", "get_zk_client"}
    )

    #: The first of them that this class defines.
    _hook: Optional[str] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._hook = next((hook for hook in sorted(cls.HOOKS) if hasattr(cls, hook)), None)

    def __init__(self, config: Any, name: str, **options: Any) -> None:
        if self._hook is not None:
            raise InvalidOption(
                f"{type(self).__name__} brings {self._hook}(), which this engine does not call: give the "
                "server in global_lock_engine_options, or derive from GlobalLockImplementationBase"
            )
        self._kind = options.pop("kind", "mutex")
        if self._kind not in _KINDS:
            raise InvalidOption(f"the option kind must be one of {sorted(_KINDS)}")
        self._permits = _count("permits", options.pop("permits", 1))
        self._capacity = _count("capacity", options.pop("capacity", 1))
        self._wants_value = _flag("with_value", options.pop("with_value", False))
        #: How long the lock is kept after its owner was asked to end, if its end is planned.
        self.grace: Optional[Seconds] = options.pop("grace", None)
        #: For how long from the grant others are kept out.
        self.hold_at_least: Optional[Seconds] = options.pop("hold_at_least", None)
        super().__init__(config, name, **options)
        unknown = sorted(set(self.other_options) - _ACCEPTED)
        if unknown:
            raise InvalidOption(f"{type(self).__name__}: lock() has no option {unknown[0]!r}")
        self._guard: Optional[_rust.Guard] = None

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection of a manager with this configuration."""
        raise NotImplementedError(f"{cls.__name__} has no make_engine()")

    def new_engine(self) -> Engine:
        """Makes the connection of this lock's manager."""
        return self.make_engine(self.config)

    @property
    def engine(self) -> Engine:
        """The connection of this lock's manager."""
        state = self.config.__dict__
        if "_engine" not in state:
            state.setdefault("_engine", self.new_engine())
        engine: Engine = state["_engine"]
        return engine

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock now. False as soon as it is lost, and in a forked child."""
        return self._guard is not None and self._guard.is_held()

    @property
    def fencing_token(self) -> Optional[int]:
        """The fencing token of this grant, which is higher than all before it; ``None`` while not held."""
        return self._guard.fencing_token if self._guard is not None else None

    @property
    def remaining(self) -> Optional[float]:
        """How many seconds it stays held without another renewal; ``None`` if until the process ends."""
        return self._guard.remaining() if self._guard is not None else 0.0

    @property
    def kept_for(self) -> Optional[float]:
        """For how many seconds others would be kept out if the lock were released now (``hold_at_least``).

        ``None`` if they would be let in, and while the lock is not acquired. Where the store does not keep
        them out, they are let in as soon as this process ends or its manager is closed.
        """
        return self._guard.kept_for() if self._guard is not None else None

    @property
    def value(self) -> Optional[Value]:
        """The value of the name, as it was at the grant or as this lock has set it since.

        ``None`` where there is none, and while the lock is not held. For a lock that was made with
        ``with_value=True``.
        """
        if not self._wants_value:
            raise InvalidOption(f"the lock {self.name!r} reads no value: make it with with_value=True")
        fields = self._guard.value() if self._guard is not None else None
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
        guard, data, time = self.write_request(data, keep)
        return ask(
            lambda: guard.set_value(data, time), lambda bridge: guard.set_value_on(bridge, data, time)
        )

    def write_request(self, data: bytes, keep: Seconds) -> "tuple[_rust.Guard, bytes, float]":
        """What the core must write, and by which grant."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidOption(f"the value is of type {type(data).__name__}: give bytes")
        time = seconds("keep", keep)
        if self._guard is None:
            raise NotLocked(self.name, "is not held, so it cannot set its value")
        return self._guard, bytes(data), time

    @property
    def asked_to_end(self) -> bool:
        """Whether the owner should end its work now.

        True once the max hold time has passed of a lock with ``grace``, which is kept for that long; and once
        the lock is lost. False after its release.
        """
        return self._guard is not None and self._guard.is_asked_to_end()

    def on_asked_to_end(self, callback: "Callable[[str], Any]") -> None:
        """Calls ``callback`` with the reason, in its own thread, when the owner is asked to end its work."""
        self._call_when("on_asked_to_end", _wait_asked, callback)

    def asked_to_end_event(self) -> threading.Event:
        """Makes an event that is set when the owner is asked to end its work."""
        event = threading.Event()
        self.on_asked_to_end(lambda _: event.set())
        return event

    def lock_request(self) -> LockRequest:
        """What the core must acquire, from this lock's options."""
        wait = _time("blocking_timeout", self.blocking_timeout) if self.blocking in (None, True) else 0.0
        lease, hold = _time("lock_ttl", self.lock_ttl), _time("timeout", self.timeout)
        if lease is not None and not self._renews():
            # Without renewal the lease would end the hold. So it becomes the max hold time.
            hold = lease if hold is None else min(lease, hold)
            lease = None
        ask_after, grace = None, _time("grace", self.grace)
        if grace is not None:
            if hold is None:
                raise InvalidOption("the option grace needs a timeout, after which it begins")
            # The store's limit lies behind the grace, so that nobody else is granted the lock before.
            ask_after, hold = hold, hold + grace
        return LockRequest(
            self.prefixed_name, self._kind, self._permits, self._capacity, wait, hold, lease, ask_after,
            self._wants_value, _time("hold_at_least", self.hold_at_least),
        )  # fmt: skip

    @property
    def prefixed_name(self) -> str:
        """The core's name of this lock."""
        return self.engine.add_prefix(self.name)

    def _renews(self) -> bool:
        return bool(self.other_options.get("auto_renew", self.config.get("auto_renew", True)))

    def __enter__(self) -> "NativeGlobalLock":
        self.acquire()
        return self

    def acquire(self) -> bool:
        """Acquires the lock and says whether it was granted; never raises because another owner has it.

        :raises Evicted: somebody took it out of the queue while it waited.
        :raises StoreUnavailable: the store does not answer.
        :raises StoreDenied: it refuses the user.
        :raises StoreUnfit: it cannot serve locks as it is.
        """
        native, request = self.engine.native, self.lock_request()
        guard = ask(lambda: native.acquire(request), lambda bridge: native.acquire_on(bridge, request))
        if guard is None:
            return False
        self._take_guard(guard)
        return True

    def _take_guard(self, guard: _rust.Guard) -> None:
        guard.own()
        self._guard = self.lock = guard
        self._is_locked = True
        self._note(held=True)

    def _drop_guard(self) -> Optional[_rust.Guard]:
        guard, self._guard, self.lock, self._is_locked = self._guard, None, None, False
        self._note(held=False)
        return guard

    def _do_acquire(self) -> bool:
        return self.acquire()

    def _keep_nobody_out(self) -> None:
        if self._guard is not None:
            self._guard.keep_nobody_out()

    def release(self) -> None:
        """Releases the lock, if it is held. The log says so if it was lost before; never raises.

        With ``hold_at_least``, others are kept out until that time has passed.
        """
        guard = self._drop_guard()
        if guard is None:
            return
        try:
            self._warn(ask(guard.release, guard.release_on))
        except Exception as error:  # noqa: BLE001 - a release never raises
            _logger.warning("release of lock %r failed, and goes on in the background: %s", self.name, error)

    def _warn(self, warning: Optional[str]) -> None:
        # The logger `globallock` has told already of a loss that was found before.
        if warning is not None:
            _logger.warning("lock %r %s", self.name, warning)

    def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and renews it for a whole lease if so.

        Locks are renewed automatically. This is for an owner that must be sure before a step that cannot be
        undone.
        """
        guard = self._guard
        return guard is not None and ask(guard.renew, guard.renew_on)

    def renew(self) -> bool:
        """Does the same as ``extend()``; release 0.2.0 has this name."""
        return self.extend()

    def wait_lost(self, timeout: Optional[Seconds] = None) -> Optional[str]:
        """Waits until the lock is lost and says why; ``None`` if it was not lost by then, or was released."""
        limit = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        return _wait_lost(self._guard, limit) if self._guard is not None else None

    def on_lost(self, callback: "Callable[[str], Any]") -> None:
        """Calls ``callback`` with the reason, in its own thread, if the lock is lost before its release."""
        self._call_when("on_lost", _wait_lost, callback)

    def _call_when(
        self,
        what: str,
        wait: "Callable[[_rust.Guard, Optional[float]], Optional[str]]",
        callback: "Callable[[str], Any]",
    ) -> None:
        guard = self._guard
        if guard is None:
            raise InvalidOption(f"{what}() needs a lock that is held")

        def watch() -> None:
            reason = wait(guard, None)
            if reason is not None:
                callback(reason)

        threading.Thread(target=watch, name=f"globallock-{what}-{self.name}", daemon=True).start()

    def lost_event(self) -> threading.Event:
        """Makes an event that is set if the lock is lost before its release."""
        event = threading.Event()
        self.on_lost(lambda _: event.set())
        return event

    def claims(self) -> "list[Claim]":
        """Lists the holders and the waiters of the lock, oldest first."""
        native, name = self.engine.native, self.prefixed_name
        return claims(ask(lambda: native.inspect(name), lambda bridge: native.inspect_on(bridge, name)))

    def names(self, prefix: str) -> "list[str]":
        """Lists the names below this manager's prefix that have a holder or a waiter."""
        engine = self.engine
        native, prefix = engine.native, engine.add_prefix(prefix)
        names = ask(lambda: native.names(prefix), lambda bridge: native.names_on(bridge, prefix))
        return engine.strip_prefix(names)

    def evict(self, claim: "Union[Claim, str]", reason: str) -> bool:
        """Takes a claim out of the queue of the lock, and says whether it was there."""
        native, eviction = self.engine.native, self.eviction(claim, reason)
        return ask(lambda: native.evict(*eviction), lambda bridge: native.evict_on(bridge, *eviction))

    def eviction(self, claim: "Union[Claim, str]", reason: str) -> "tuple[str, str, str]":
        """What the core must evict, and why."""
        key = claim.key if isinstance(claim, Claim) else claim
        for what, value in (("key of a claim", key), ("reason", reason)):
            if not is_text(value):
                raise InvalidOption(f"the {what} is not a text that can be sent")
        return self.prefixed_name, key, reason

    def summaries(self, prefix: str) -> "list[Summary]":
        """Sums up the names below this manager's prefix that have a holder or a waiter."""
        engine = self.engine
        native, prefix = engine.native, engine.add_prefix(prefix)
        listed = ask(lambda: native.list(prefix), lambda bridge: native.list_on(bridge, prefix))
        return summaries(listed, engine)

    def watch(self, prefix: str, every: Seconds) -> Watch:
        """Tells how the names below this manager's prefix change."""
        return Watch(self._native_watch(prefix, every), self.engine)

    def watch_async(self, prefix: str, every: Seconds) -> AsyncWatch:
        """Does the same for asyncio."""
        return AsyncWatch(self._native_watch(prefix, every), self.engine)

    def _native_watch(self, prefix: str, every: Seconds) -> _rust.Watch:
        return self.engine.native.watch(self.engine.add_prefix(prefix), seconds("every", every))

    async def __aenter__(self) -> "NativeGlobalLock":
        from .aio import acquire

        await acquire(self)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        from .aio import release

        await release(self)


def _wait_lost(guard: _rust.Guard, limit: Optional[float]) -> Optional[str]:
    greenlets = hub()
    if greenlets is None:
        return guard.wait_lost(limit)
    loss: Optional[str] = greenlets.outcome(guard.lost_on, limit)
    return loss


def _wait_asked(guard: _rust.Guard, limit: Optional[float]) -> Optional[str]:
    greenlets = hub()
    if greenlets is None:
        return guard.wait_asked(limit)
    reason: Optional[str] = greenlets.outcome(lambda bridge: guard.asked_on(bridge, 0.0), limit)
    return reason


def claims(entries: "list[_rust.EntryFields]") -> "list[Claim]":
    """Makes claims of the entries of a queue that the core has listed."""
    return [
        Claim(id, held, permits, capacity, fencing_token, *owner, age, expires_in, key)
        for key, id, held, permits, capacity, fencing_token, owner, age, expires_in in entries
    ]


def _time(option: str, value: Any) -> Optional[float]:
    return None if value is None else seconds(option, value)


def _count(option: str, value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidOption(f"the option {option} is not a whole number from 1 on")
    return int(value)


def _flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"the option {option} is neither True nor False")
    return value
