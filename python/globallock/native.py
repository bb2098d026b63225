"""The locks of the Rust core, which every engine here is made of."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from . import _rust
from .addresses import is_text, lock_name, seconds
from .base import GlobalLockImplementationBase
from .constants import DEFAULT_LEASE
from .exceptions import InvalidAddress, InvalidOption
from .greenlets import hub

__all__ = ["Claim", "Engine", "NativeGlobalLock", "LockRequest"]

T = TypeVar("T")

_logger = logging.getLogger("globallock.base")

#: What earlier releases and redis-py's locks take, and what has no meaning where the core renews by itself.
_WITHOUT_MEANING = frozenset({"auto_renew", "renew_interval", "thread_local"})


_KINDS = frozenset({"mutex", "read", "write", "permits"})


class LockRequest(NamedTuple):
    """How a lock is taken: what the core is told. Times are in seconds."""

    name: str
    kind: str
    permits: int
    capacity: int
    wait: Optional[float]
    max_hold: Optional[float]
    lease: Optional[float]


@dataclass(frozen=True)
class Claim:
    """One party's place in the queue of a lock. Times are in seconds."""

    #: The claim's id; ``None`` for another program's.
    id: Optional[str]
    #: Whether it holds the lock, rather than waits.
    held: bool
    #: How much of the lock it takes, and of how much.
    weight: int
    capacity: int
    fencing_token: int
    host: str
    pid: Optional[int]
    label: Optional[str]
    #: Since when it holds, or waits; ``None`` where the store does not know.
    age: Optional[float]
    #: How long the store keeps it without another sign of life.
    expires_in: Optional[float]


class Engine:
    """The connection of one manager, made anew in each process when it is first needed."""

    def __init__(self, url: str, lease: Optional[float], label: Optional[str], prefix: str = "") -> None:
        if not is_text(url):
            raise InvalidAddress("the address is no text that can be sent")
        if label is not None and not is_text(label):
            raise InvalidOption("the option label is no text that can be sent")
        self.native = _rust.Manager(url, DEFAULT_LEASE if lease is None else seconds("lock_ttl", lease), label)
        #: What stands before the names given to the core: a part of the prefix that a path cannot end with.
        self.prefix = prefix

    def add_prefix(self, name: Any) -> str:
        """What the core calls a lock."""
        return self.prefix + lock_name(name)

    def strip_prefix(self, names: "list[str]") -> "list[str]":
        """What users call the locks of these names, in order."""
        return sorted(name[len(self.prefix) :] for name in names)

    def close(self, limit: float) -> None:
        """Ends the connection once the store has answered all releases, or ``limit`` seconds are over."""
        self.native.close(limit)


class NativeGlobalLock(GlobalLockImplementationBase):
    """A lock of the Rust core. The engines differ in how their options make an address."""

    #: What subclasses of earlier releases' engines override, and what would have no effect here.
    HOOKS: "frozenset[str]" = frozenset(
        {"get_etcd3_client", "get_lock", "get_redis_connection", "get_redis_connection_pool", "get_zk_client"}
    )

    #: The first of them that a class brings.
    _brings: Optional[str] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._brings = next((hook for hook in sorted(cls.HOOKS) if hasattr(cls, hook)), None)

    def __init__(self, config: Any, name: str, **options: Any) -> None:
        if self._brings is not None:
            raise InvalidOption(
                f"{type(self).__name__} brings {self._brings}(), which this engine does not call: give the server in "
                "global_lock_engine_options, or derive from GlobalLockImplementationBase"
            )
        self._kind = options.pop("kind", "mutex")
        if self._kind not in _KINDS:
            raise InvalidOption(f"the option kind is none of {sorted(_KINDS)}")
        self._permits = _count("permits", options.pop("permits", 1))
        self._capacity = _count("capacity", options.pop("capacity", 1))
        super().__init__(config, name, **options)
        unknown = sorted(set(self.other_options) - _WITHOUT_MEANING)
        if unknown:
            raise InvalidOption(f"{type(self).__name__}: lock() has no option {unknown[0]!r}")
        self._guard: Optional[_rust.Guard] = None

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection that a manager with this configuration uses."""
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
        """Whether this object holds the lock now: false as soon as it is lost, and in a forked child."""
        return self._guard is not None and self._guard.is_held()

    @property
    def fencing_token(self) -> Optional[int]:
        """The number of this grant, above that of every earlier grant of the lock; ``None`` while it is not held."""
        return self._guard.fencing_token if self._guard is not None else None

    @property
    def remaining(self) -> Optional[float]:
        """How many seconds it stays held without another renewal; ``None`` where only the process's end ends it."""
        return self._guard.remaining() if self._guard is not None else 0.0

    def request(self) -> LockRequest:
        """What the core is told."""
        wait = _time("blocking_timeout", self.blocking_timeout) if self.blocking in (None, True) else 0.0
        lease, hold = _time("lock_ttl", self.lock_ttl), _time("timeout", self.timeout)
        if lease is not None and not self._renews():
            # Without renewal, what was the time to live is the longest hold.
            hold = lease if hold is None else min(lease, hold)
            lease = None
        return LockRequest(self.prefixed_name, self._kind, self._permits, self._capacity, wait, hold, lease)

    @property
    def prefixed_name(self) -> str:
        """What the core calls this lock."""
        return self.engine.add_prefix(self.name)

    def _renews(self) -> bool:
        return bool(self.other_options.get("auto_renew", self.config.get("auto_renew", True)))

    def __enter__(self) -> "NativeGlobalLock":
        self.acquire()
        return self

    def acquire(self) -> bool:
        """Takes the lock and says whether that worked; never raises because somebody else has it.

        :raises StoreUnavailable: the store does not answer.
        :raises StoreDenied: it refuses the user.
        :raises StoreUnfit: it cannot serve locks as it is.
        """
        native, request = self.engine.native, self.lock_request()
        guard = _ask(lambda: native.acquire(request), lambda bridge: native.acquire_on(bridge, request))
        if guard is None:
            return False
        self._hold(guard)
        return True

    def _hold(self, guard: _rust.Guard) -> None:
        self._guard = self.lock = guard
        self._is_locked = True
        self._note(held=True)

    def _let_go(self) -> Optional[_rust.Guard]:
        guard, self._guard, self.lock, self._is_locked = self._guard, None, None, False
        self._note(held=False)
        return guard

    def _do_acquire(self) -> bool:
        return self.acquire()

    def release(self) -> None:
        """Gives the lock back, if it is held. Warns in the log when it had been lost, and never raises."""
        guard = self._let_go()
        if guard is None:
            return
        try:
            self._warn(_ask(guard.release, guard.release_on))
        except Exception as error:  # noqa: BLE001 - a release never raises
            _logger.warning("release of lock %r failed, and goes on in the background: %s", self.name, error)

    def _warn(self, left: Optional[bool]) -> None:
        if left is None:
            _logger.warning("lock %r is another process's: it is not released here", self.name)
        elif not left:
            _logger.warning("lock %r had been lost before it was released", self.name)

    def extend(self) -> bool:
        """Asks the store now whether the lock is still held, and gives it a whole lease if so.

        Locks are renewed by themselves: this is for those who want to be sure before a step that cannot be undone.
        """
        guard = self._guard
        return guard is not None and _ask(guard.renew, guard.renew_on)

    def renew(self) -> bool:
        """Does what ``extend()`` does; the name is that of release 0.2.0."""
        return self.extend()

    def wait_lost(self, timeout: Optional[float] = None) -> Optional[str]:
        """Waits until the lock is lost and says why; ``None`` if it is not by then, or was released."""
        return _wait_lost(self._guard, timeout) if self._guard is not None else None

    def on_lost(self, callback: "Callable[[str], Any]") -> None:
        """Has ``callback`` called with the reason, in a thread of its own, if the lock is lost while it is held."""
        guard = self._guard
        if guard is None:
            raise InvalidOption("on_lost() needs a lock that is held")

        def watch() -> None:
            loss = _wait_lost(guard, None)
            if loss is not None:
                callback(loss)

        threading.Thread(target=watch, name=f"globallock-lost-{self.name}", daemon=True).start()

    def lost_event(self) -> threading.Event:
        """Makes an event that is set if the lock is lost while it is held."""
        event = threading.Event()
        self.on_lost(lambda _: event.set())
        return event

    def claims(self) -> "list[Claim]":
        """Lists who holds the lock and who waits for it, oldest first."""
        native, name = self.engine.native, self.prefixed_name
        return claims(_ask(lambda: native.inspect(name), lambda bridge: native.inspect_on(bridge, name)))

    def names(self, prefix: str) -> "list[str]":
        """Lists the locks of this manager's prefix that somebody holds or waits for."""
        engine = self.engine
        native, prefixed = engine.native, engine.add_prefix(prefix)
        return engine.strip_prefix(_ask(lambda: native.names(whole), lambda bridge: native.names_on(bridge, whole)))

    async def __aenter__(self) -> "NativeGlobalLock":
        from .aio import acquire

        await acquire(self)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        from .aio import release

        await release(self)


def _ask(block: "Callable[[], T]", start: "Callable[[_rust.Bridge], int]") -> T:
    """Asks the core, and lets the other greenlets of this thread run meanwhile if there are any."""
    greenlets = hub()
    if greenlets is None:
        return block()
    answer: T = greenlets.outcome(start)
    return answer


def _wait_lost(guard: _rust.Guard, limit: Optional[float]) -> Optional[str]:
    greenlets = hub()
    if greenlets is None:
        return guard.wait_lost(limit)
    loss: Optional[str] = greenlets.outcome(guard.lost_on, limit)
    return loss


def claims(seen: "list[_rust.EntryFields]") -> "list[Claim]":
    """What the core has seen of a queue, for people."""
    return [
        Claim(id, held, weight, capacity, fence, *owner, age, expires_in)
        for id, held, weight, capacity, fence, owner, age, expires_in in seen
    ]


def _time(option: str, value: Any) -> Optional[float]:
    return None if value is None else seconds(option, value)


def _count(option: str, value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidOption(f"the option {option} is no whole number from 1 on")
    return int(value)
