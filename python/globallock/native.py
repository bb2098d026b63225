"""The locks of the Rust core, on which every engine here is built."""

from __future__ import annotations

import asyncio
import copy
import logging
import weakref
from types import FrameType
from typing import Any, List, Optional

from . import _rust, events
from .acquisitions import Acquisition, Holdings
from .addresses import Seconds
from .base import GlobalLockManager
from .engine import Claim, Engine, LockRequest, Value
from .exceptions import InvalidOption, NotLocked
from .greenlets import ask, is_patched, refuse_eventlet
from .lock_options import MOST_PERMITS, Times, count, kind, refuse_unknown
from .loops import warn_in_a_loop
from .oneself import confirm, refuse_to_wait_for_oneself
from .owned import OwnedLock

__all__ = ["Claim", "Engine", "NativeGlobalLock", "LockRequest", "Value"]

_logger = logging.getLogger("globallock.base")

#: The attributes of a lock that are not its recipe.
_STATE = frozenset({"config", "_holdings", "_made_for", "_made_request", "_manager"})


class NativeGlobalLock(_rust.Shield, OwnedLock):
    """A lock of the Rust core. The engines differ only in how they turn their options into an address.

    >>> with lockman.hold("orders/7", timeout=60) as lock:
    ...     print(lock.name, lock.is_locked, lock.remaining <= 60)
    orders/7 True True
    """

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
        self._kind = kind(options.pop("kind", "mutex"))
        for option in ("capacity", "permits"):
            if self._kind != "permits" and option in options:
                raise InvalidOption(f"the option {option} needs kind='permits', as semaphore() has it")
        self._capacity = count("capacity", options.pop("capacity", 1), MOST_PERMITS)
        self._permits = count("permits", options.pop("permits", 1), self._capacity)
        self._wants_value = flag("with_value", options.pop("with_value", False))
        #: How long the lock is kept after its owner was asked to end, if its end is planned.
        self.grace: Optional[Seconds] = options.pop("grace", None)
        #: For how long from the grant others are kept out.
        self.hold_at_least: Optional[Seconds] = options.pop("hold_at_least", None)
        super().__init__(config, name, **options)
        refuse_unknown(type(self).__name__, self.other_options)
        self._holdings: "Holdings[_rust.Guard]" = Holdings()
        #: What the core was asked for last.
        self._made_request: Optional[LockRequest] = None

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection of a manager with this configuration.

        >>> from globallock.native import Engine
        >>> class ShopLock(NativeGlobalLock):
        ...     @classmethod
        ...     def make_engine(cls, config):
        ...         return Engine("memory:shop", config.get("lock_ttl"), config.get("label"))
        >>> with GlobalLockManager({"global_lock_engine_class": ShopLock}).hold("orders/7") as lock:
        ...     lock.is_locked
        True
        """
        raise NotImplementedError(f"{cls.__name__} has no make_engine()")

    def new_engine(self) -> Engine:
        """Makes the connection of this lock's manager.

        >>> from globallock.native import Engine
        >>> class ShopLock(NativeGlobalLock):
        ...     def new_engine(self):
        ...         return Engine("memory:shop", lease=10, label="shop")
        >>> with GlobalLockManager({"global_lock_engine_class": ShopLock}).hold("orders/7") as lock:
        ...     lock.is_locked
        True
        """
        return self.make_engine(self.config)

    @property
    def _engine(self) -> Engine:
        """The connection of this lock's manager."""
        state = self.config.__dict__
        if "_engine" not in state:
            state.setdefault("_engine", self.new_engine())
        engine: Engine = state["_engine"]
        return engine

    def _lock_request(self) -> LockRequest:
        """What the core must acquire, from this lock's options. It is made again where one has changed."""
        config, other_options = self.config, self.other_options
        options = (
            self._engine, self.name, self.blocking, self.blocking_timeout, self.timeout, self.lock_ttl,
            self.sleep, self.grace, self.hold_at_least, config.get("global_lock_key_prefix"),
            config.get("auto_renew"), other_options.get("auto_renew") if other_options else None,
        )  # fmt: skip
        made = self._made_request
        if made is None or not made.is_of(options):
            wait, hold, lease, ask_after, hold_at_least = Times.of(self, self._renews())
            made = self._made_request = LockRequest(
                self._prefixed_name, self._kind, self._permits, self._capacity, wait, hold, lease,
                ask_after, self._wants_value, hold_at_least, options,
            )  # fmt: skip
        return made

    def _check(self) -> None:
        """Checks the options, without the store."""
        Times.of(self, self._renews())

    def _request_within(self, limit: Optional[float]) -> LockRequest:
        request = self._lock_request()
        return request if limit is None or self.blocking is False else request.with_wait(limit)

    def _keep_nobody_out(self, acquisition: Any) -> None:
        acquisition.granted.keep_nobody_out()

    def _holds(self, acquisition: Any) -> bool:
        return bool(acquisition.granted.is_held())

    def _is_asked(self, acquisition: Any) -> bool:
        return bool(acquisition.granted.is_asked_to_end())

    @property
    def _prefixed_name(self) -> str:
        """The core's name of this lock."""
        return self._engine.add_prefix(self.name)

    def _renews(self) -> bool:
        given = self.other_options.get("auto_renew")
        renews = self.config.get("auto_renew") if given is None else given
        return renews is None or bool(renews)

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
            raise self._refusal()
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

    def _refusal(self) -> NotLocked:
        return NotLocked(self.name)

    def _take(
        self, request: "Optional[LockRequest]", taken: "list[Any]"
    ) -> "Optional[Acquisition[_rust.Guard]]":
        if asyncio._get_running_loop() is not None:
            warn_in_a_loop(self.name)
        request = request or self._lock_request()
        native = self._engine.native
        if native.holds(request) is not None:
            confirm(self, request)
        self._begin(request)
        # Under gevent, other greenlets run meanwhile.
        guard = ask(native.acquire(request), taken) if is_patched() else native.take(request, taken)
        return None if guard is None else self._granted(guard, request)

    def _begin(self, request: LockRequest) -> LockRequest:
        """Notes that the caller tries to acquire."""
        refuse_eventlet()
        events.refresh()
        held = self._holdings.begin()
        if held is not None:
            self._forget_lost(held)
        # Mostly nobody of this process holds the name.
        if self._engine.native.holds(request) is not None:
            refuse_to_wait_for_oneself(self, request)
        return request

    def _forget_lost(self, held: "List[Acquisition[_rust.Guard]]") -> None:
        """Forgets what was lost and is not released: nobody will."""
        for acquisition in held:
            guard = acquisition.granted
            if guard is not None and not guard.is_held():
                self._forget(acquisition)

    def _refuse_to_wait(self, request: LockRequest, is_confirmed: bool) -> None:
        if not is_confirmed:
            confirm(self, request)
        refuse_to_wait_for_oneself(self, request)

    def _granted(self, guard: _rust.Guard, request: LockRequest) -> "Acquisition[_rust.Guard]":
        acquisition = self._holdings.add(guard, request, self._is_anyones())
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
            self._warn(ask(guard.release()) if is_patched() else guard.give_back())

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

    def claims(self) -> "list[Claim]":
        """Lists the holders and the waiters of the lock, oldest first.

        >>> with lockman.hold("orders/7") as lock:
        ...     [claim.held for claim in lock.claims()]
        [True]
        """
        return self._engine.inspect(self.name).answer()

    def __repr__(self) -> str:
        engine = self.config.__dict__.get("_engine")
        guard = self._guard
        state = "not held"
        if guard is not None:
            state = f"held with fencing token {guard.fencing_token}" if guard.is_held() else "lost"
        where = "" if engine is None else f" in {engine.native.address}"
        return f"<{type(self).__name__} {self.name!r}{where}, {state}>"

    async def _aenter(self, frame: FrameType, taken: "list[Any]") -> None:
        from .aio import AsyncLock

        await AsyncLock(self)._aenter(frame, taken)

    async def _aexit(self, frame: FrameType, leaving: "list[Any]", exception: Any) -> None:
        from .aio import AsyncLock

        await AsyncLock(self)._aexit(frame, leaving, exception)

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
        self._holdings, self._made_request = Holdings(), None

    def __copy__(self) -> "NativeGlobalLock":
        return self._copied(dict(self.__dict__))

    def __deepcopy__(self, memo: "dict[int, Any]") -> "NativeGlobalLock":
        state = {key: value for key, value in self.__dict__.items() if key not in _STATE}
        return self._copied(copy.deepcopy(state, memo))

    def _copied(self, state: "dict[str, Any]") -> "NativeGlobalLock":
        lock: NativeGlobalLock = type(self).__new__(type(self))
        # With the connection of the original.
        lock.__dict__.update(state, config=self.config, _manager=self._manager, _holdings=Holdings())
        lock._made_request = None
        return lock


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
