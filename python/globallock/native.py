"""The locks of the Rust core, on which every engine here is built."""

from __future__ import annotations

import copy
import logging
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Callable, Optional

from . import _rust
from .acquisitions import Acquisition, Holdings
from .addresses import Seconds, seconds
from .base import GlobalLockImplementationBase, GlobalLockManager
from .callbacks import call_back
from .engine import Claim, Engine, LockRequest, Value
from .exceptions import InvalidOption, NotLocked, Reason
from .greenlets import ask
from .loops import warn_in_a_loop

__all__ = ["Claim", "Engine", "NativeGlobalLock", "LockRequest", "Value"]

_logger = logging.getLogger("globallock.base")

#: Options of earlier releases and of redis-py's locks that are accepted. The core renews by itself, so only
#: ``auto_renew=False`` has an effect.
_ACCEPTED = frozenset({"auto_renew", "renew_interval", "thread_local"})


_KINDS = frozenset({"mutex", "read", "write", "permits"})

#: The attributes of a lock that are not its recipe.
_STATE = frozenset({"config", "_holdings", "_made_for", "_manager"})


class NativeGlobalLock(_rust.Shield, GlobalLockImplementationBase):
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
        self._wants_value = flag("with_value", options.pop("with_value", False))
        #: How long the lock is kept after its owner was asked to end, if its end is planned.
        self.grace: Optional[Seconds] = options.pop("grace", None)
        #: For how long from the grant others are kept out.
        self.hold_at_least: Optional[Seconds] = options.pop("hold_at_least", None)
        super().__init__(config, name, **options)
        unknown = sorted(set(self.other_options) - _ACCEPTED)
        if unknown:
            raise InvalidOption(f"{type(self).__name__}: lock() has no option {unknown[0]!r}")
        self._holdings: "Holdings[_rust.Guard]" = Holdings()

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
        guard, data, time = self.write_request(data, keep)
        return bool(ask(guard.set_value(data, time)))

    def write_request(self, data: bytes, keep: Seconds) -> "tuple[_rust.Guard, bytes, float]":
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

    def _request_within(self, limit: Optional[float]) -> LockRequest:
        request = self.lock_request()
        return request if limit is None or self.blocking is False else request._replace(wait=limit)

    def _keep_nobody_out(self, acquisition: Any) -> None:
        acquisition.granted.keep_nobody_out()

    def _holds(self, acquisition: Any) -> bool:
        return bool(acquisition.granted.is_held())

    def _is_asked(self, acquisition: Any) -> bool:
        return bool(acquisition.granted.is_asked_to_end())

    @property
    def prefixed_name(self) -> str:
        """The core's name of this lock."""
        return self.engine.add_prefix(self.name)

    def _renews(self) -> bool:
        return bool(self.other_options.get("auto_renew", self.config.get("auto_renew", True)))

    # What follows is called by the core's acquire(), release(), __enter__ and __exit__. An asynchronous
    # exception may interrupt it at any instruction. So what is held stands in the list `taken` or `leaving`
    # first: from there the core releases it then.

    def _acquire(self, frame: None, taken: "list[Any]") -> bool:
        return self._take(None, taken) is not None

    def _enter(self, frame: FrameType, taken: "list[Any]") -> None:
        if type(self).acquire is _rust.Shield.acquire:
            acquisition = self._take(None, taken)
        else:
            acquisition = self._holdings.current() if self.acquire() else None
        if acquisition is None and self._is_required:
            raise NotLocked(self.name)
        self._holdings.enter(frame, acquisition, taken)

    def _exit(self, frame: FrameType, leaving: "list[Any]", exception: Any) -> None:
        self._holdings.find(frame, leaving)
        if not leaving:
            self.release()
            return
        self._holdings.exit(leaving[0])
        self._warn_of_refused(leaving[0])
        if type(self).release is not _rust.Shield.release and self._holdings.current() is leaving[0]:
            self.release()
        self._give_back(leaving[0])

    def _release(self, frame: None, leaving: "list[Any]", exception: Any) -> None:
        acquisition = self._to_release()
        if acquisition is not None:
            leaving.append(acquisition)
            self._give_back(acquisition)

    def _find(self, frame: Optional[FrameType], leaving: "list[Any]") -> None:
        if frame is not None:
            self._holdings.find(frame, leaving)
        elif not leaving:
            leaving.extend(filter(None, [self._to_release()]))

    def _undo(self, frame: Optional[FrameType], noted: "list[Any]") -> None:
        """Forgets what the core has released."""
        for acquisition in [*self._holdings.all(), *noted]:
            if acquisition in noted or getattr(acquisition, "granted", None) in noted:
                if isinstance(acquisition, Acquisition):
                    self._holdings.exit(acquisition)
                    self._forget(acquisition)

    def _take(
        self, request: "Optional[LockRequest]", taken: "list[Any]"
    ) -> "Optional[Acquisition[_rust.Guard]]":
        warn_in_a_loop(self.name)
        request = self._begin(request or self.lock_request())
        guard = ask(self.engine.native.acquire(request), taken)
        return None if guard is None else self._granted(guard)

    def _begin(self, request: LockRequest) -> LockRequest:
        """Notes that the caller tries to acquire."""
        holds = []
        for acquisition in self._holdings.begin():
            guard = acquisition.granted
            if guard is not None and guard.is_held():
                holds.append(guard)
            else:
                # It was lost, and is not released: nobody will.
                self._forget(acquisition)
        waits_for_itself = {
            "mutex": bool(holds),
            "write": bool(holds),
            "read": False,
            "permits": request.permits * (len(holds) + 1) > request.capacity >= request.permits,
        }[request.kind]
        if waits_for_itself and holds and request.wait is None and request.max_hold is None:
            why = "is held by the caller itself, by this very object: it would wait for itself for ever"
            raise NotLocked(self.name, why)
        return request

    def _granted(self, guard: _rust.Guard) -> "Acquisition[_rust.Guard]":
        guard.own()
        acquisition = self._holdings.add(guard)
        manager = self._manager() if self._manager is not None else None
        if manager is not None:
            manager._held.add((self, acquisition))
        return acquisition

    def _forget(self, acquisition: "Acquisition[_rust.Guard]") -> Optional[_rust.Guard]:
        """Forgets an acquisition, and returns what is to be released; ``None`` if it was before."""
        manager = self._manager() if self._manager is not None else None
        if manager is not None:
            manager._held.discard((self, acquisition))
        return acquisition.granted if self._holdings.remove(acquisition) else None

    def _do_acquire(self) -> bool:
        return self.acquire()

    def _to_release(self) -> "Optional[Acquisition[_rust.Guard]]":
        return self._holdings.to_release(self.name, self._is_anyones())

    def _is_anyones(self) -> bool:
        return self.other_options.get("thread_local", True) is False

    def _give_back(self, acquisition: "Acquisition[_rust.Guard]") -> None:
        guard = self._forget(acquisition)
        if guard is not None:
            self._warn(ask(guard.release()))

    def _warn_of_refused(self, left: "Acquisition[Any]") -> None:
        if left.granted is None and not left.is_known:
            _logger.warning(
                "the lock %r was not granted, and its block ran without it and never asked: look at "
                "is_locked, or use hold(), which raises NotLocked",
                self.name,
            )

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
        return guard is not None and bool(ask(guard.renew()))

    def renew(self) -> bool:
        """Does the same as ``extend()``; release 0.2.0 has this name."""
        return self.extend()

    @property
    def loss(self) -> Optional[Reason]:
        """Why the lock is lost; ``None`` while it is held, and once it was released."""
        guard = self._guard
        return None if guard is None else Reason.made_of(guard.loss())

    def wait_lost(self, timeout: Optional[Seconds] = None) -> Optional[Reason]:
        """Waits until the lock is lost and says why; ``None`` if it was not lost by then, or was released."""
        guard, limit = self._guard, _time("timeout", timeout)
        return None if guard is None else Reason.made_of(ask(guard.lost(), limit=limit))

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

    def claims(self) -> "list[Claim]":
        """Lists the holders and the waiters of the lock, oldest first."""
        return self.engine.inspect(self.name).answer()

    def __repr__(self) -> str:
        engine = self.config.__dict__.get("_engine")
        guard = self._guard
        state = "not held"
        if guard is not None:
            state = f"held with fencing token {guard.fencing_token}" if guard.is_held() else "lost"
        where = "" if engine is None else f" in {engine.native.address}"
        return f"<{type(self).__name__} {self.name!r}{where}, {state}>"

    async def __aenter__(self) -> "NativeGlobalLock":
        from .aio import enter

        await enter(self, sys._getframe(1))
        return self

    async def __aexit__(self, *exception: Any) -> None:
        from .aio import leave

        await leave(self, sys._getframe(1), exception)

    def __getstate__(self) -> "dict[str, Any]":
        # The recipe: what is held stays with the original. A manager that has gone is made again.
        state = {key: value for key, value in self.__dict__.items() if key not in _STATE}
        manager = self._manager() if self._manager is not None else None
        return {**state, "_manager": GlobalLockManager(dict(self.config)) if manager is None else manager}

    def __setstate__(self, state: "dict[str, Any]") -> None:
        self.__dict__.update(state)
        #: Nobody else may refer to a manager that was made for this lock.
        self._made_for: Any = state["_manager"]
        self.config = self._made_for.config
        self._manager = weakref.ref(self._made_for)
        self._holdings = Holdings()

    def __copy__(self) -> "NativeGlobalLock":
        return self._copied(dict(self.__dict__))

    def __deepcopy__(self, memo: "dict[int, Any]") -> "NativeGlobalLock":
        state = {key: value for key, value in self.__dict__.items() if key not in _STATE}
        return self._copied(copy.deepcopy(state, memo))

    def _copied(self, state: "dict[str, Any]") -> "NativeGlobalLock":
        lock: NativeGlobalLock = type(self).__new__(type(self))
        # With the connection of the original.
        lock.__dict__.update(state, config=self.config, _manager=self._manager, _holdings=Holdings())
        return lock


def _time(option: str, value: Any) -> Optional[float]:
    return None if value is None else seconds(option, value)


def _count(option: str, value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidOption(f"the option {option} is not a whole number from 1 on")
    return int(value)


def flag(option: str, value: Any) -> bool:
    """Checks an option that is true or false."""
    if not isinstance(value, bool):
        raise InvalidOption(f"the option {option} is neither True nor False")
    return value


def native(lock: Any) -> NativeGlobalLock:
    """Refuses what only the engines of this package can."""
    if not isinstance(lock, NativeGlobalLock):
        raise InvalidOption(f"{type(lock).__name__} is no engine of this package: it has no asyncio")
    return lock
