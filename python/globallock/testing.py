"""Tests of code that locks: the locks of all managers are in memory, and a test plays the part of others.

::

    def test_an_order_that_somebody_else_has_is_left_alone():
        with testing.locks() as locks, locks.taken("order/7"):
            assert ship(order=7) == "busy"

With pytest, the fixtures ``global_locks`` and ``lockman`` are there once the package is installed.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from types import TracebackType
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Type

from . import _rust
from .addresses import lock_name
from .base import GlobalLockManager
from .early import refuse_options
from .engine import Claim, Engine, LockRequest
from .exceptions import InvalidOption, StoreUnavailable
from .greenlets import ask
from .native import NativeGlobalLock
from .once import TurnBase
from .owned import OwnedLock

__all__ = ["Locks", "Part", "locks"]

#: The longest that a test waits for something that another thread does, in seconds.
LIMIT = 30.0


class _Store:
    """A store in memory that can be away."""

    def __init__(self) -> None:
        self.url = f"memory:testing-{uuid.uuid4().hex}"
        self.away: Optional[str] = None

    def check(self) -> None:
        """Raises what a store raises that does not answer."""
        if self.away is not None:
            raise StoreUnavailable(self.away)


class _Checked:
    """An object of the core, whose calls fail while the store is away. Others are passed on."""

    def __init__(self, native: Any, store: _Store, calls: "frozenset[str]") -> None:
        self._native, self._store, self._calls = native, store, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._native, name)
        if name == "watch":
            # It asks the store only when its next change is waited for.
            return lambda *given: _Checked(found(*given), self._store, _OF_WATCHES)
        return self._checked(found) if name in self._calls else found

    def _checked(self, call: "Callable[..., Any]") -> "Callable[..., Any]":
        def checked(*given: Any) -> Any:
            self._store.check()
            return call(*given)

        return checked


#: The calls that ask the store. A release is no call that fails.
_OF_MANAGERS = frozenset({"acquire", "begin", "connect", "evict", "inspect", "list", "names", "take"})
_OF_GUARDS = frozenset({"renew", "set_value", "succeed"})
_OF_WATCHES = frozenset({"next"})


class _Engine(Engine):
    """A manager's connection to the store in memory. Prefixes are those of other stores, so it has none."""

    def __init__(self, store: _Store, config: Any, is_fixed: bool = False) -> None:
        super().__init__(store.url, config.get("lock_ttl"), config.get("label"))
        self.store, self.is_fixed = store, is_fixed
        if not is_fixed:
            checked: Any = _Checked(self.native, store, _OF_MANAGERS)
            self.native = checked


class _Grant(NamedTuple):
    """What the code under test was granted."""

    name: str
    guard: _rust.Guard


class Part:
    """What a test has begun to play: it ends by ``end()``, or with its ``with`` block."""

    def __init__(self, end: "Callable[[], object]") -> None:
        self._end: "Optional[Callable[[], object]]" = end

    def end(self) -> None:
        """Ends it; may be called again."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self,
        kind: "Optional[Type[BaseException]]",
        exception: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.end()


class Locks:
    """The locks in memory, as a test sees them; made by :func:`locks`.

    Names are those that the code under test gives, whatever the key prefix and the address of its manager.
    """

    def __init__(self) -> None:
        self._store = _Store()
        self._grants: "List[_Grant]" = []
        self._parts: "List[Part]" = []
        #: The names that were granted to the code under test, in that order.
        self.granted: "List[str]" = []
        #: A manager, for code that is given one.
        self.lockman = GlobalLockManager(self._store.url)
        self._others = GlobalLockManager(self._store.url, label="somebody else")
        config = self._others.config
        config.__dict__["_engine"] = _Engine(self._store, config, is_fixed=True)

    def taken(self, name: str, **options: Any) -> Part:
        """Takes a lock as somebody else does, so that the code under test finds it busy.

        ::

            with locks.taken("order/7"):
                ...

        It is held until the block ends, or until ``end()`` of what is returned.

        :param options: those of ``lock()``, such as ``kind="read"``, but for those of a wait: it never waits.
        :raises AssertionError: it is not free.
        """
        for option in ("blocking", "blocking_timeout"):
            if option in options:
                raise InvalidOption(f"taken() has no option {option!r}: it never waits")
        refuse_options("taken", options, (), self._others)
        lock = self._others.lock(name, blocking=False, **options)
        # Not by `lock.acquire()`, which warns where an event loop runs.
        guard = ask(lock._engine.native.acquire(lock._lock_request()))
        if guard is None:
            held = [claim for claim in self._claims(name) if claim.held]
            holders = ", ".join(claim.label or "the code under test" for claim in held)
            raise AssertionError(f"the lock {name!r} cannot be taken: it is held by {holders}")
        guard.own()
        part = Part(lambda: ask(guard.release()))
        # A grant that nobody refers to is released.
        self._parts.append(part)
        return part

    def lose(self, name: str, reason: str = "the test says so") -> None:
        """Has the code under test lose a lock that it holds: all of its claims of that name.

        When this returns, ``is_locked`` is false, and the next owner may be granted the lock. Callbacks and
        events of the loss come by another thread, as always: wait for them.

        :raises AssertionError: it does not hold the lock.
        """
        guards = {each.guard.fencing_token: each.guard for each in self._held() if each.name == name}
        claims = [each for each in self._claims(name) if each.held and each.fencing_token in guards]
        if not claims:
            raise AssertionError(f"the lock {name!r} cannot be lost: {self._what_is_held()}")
        for claim in claims:
            self._others.evict(name, claim, reason)
            if guards[claim.fencing_token].lost().wait(LIMIT) is None:
                raise AssertionError(f"the lock {name!r} was released before it was lost")

    def store_away(self, why: str = "the store is away, the test says so") -> Part:
        """Has every call to the store raise :class:`StoreUnavailable` at once, until it is back.

        ::

            with locks.store_away():
                ...

        It is back when the block ends, or after ``end()`` of what is returned. Calls that wait already go on
        to wait. A release succeeds, because it never fails for its caller; a lock that is held stays held:
        :meth:`lose` says what becomes of it when its lease has expired.
        """
        self._store.away = why

        def back() -> None:
            self._store.away = None

        return Part(back)

    def held(self) -> "List[str]":
        """The names that the code under test holds now, in the order in which they were granted."""
        return [each.name for each in self._held()]

    def waiters(self, name: str) -> int:
        """How many wait for a lock now."""
        return sum(not claim.held for claim in self._claims(name))

    def assert_held(self, *names: str) -> None:
        """Fails unless the code under test holds exactly these names now, in any order."""
        if sorted(names) != sorted(self.held()):
            raise AssertionError(f"{_listed(names)} should be held, and {self._what_is_held()}")

    def assert_granted(self, *names: str) -> None:
        """Fails unless the code under test was granted exactly these names so far, in any order."""
        if sorted(names) != sorted(self.granted):
            had = _listed(self.granted)
            raise AssertionError(f"{_listed(names)} should have been granted, and {had} was")

    def wait_for_waiter(self, name: str, limit: float = LIMIT) -> None:
        """Blocks until somebody waits for a lock, in another thread.

        ::

            with locks.taken("order/7"):
                thread.start()
                locks.wait_for_waiter("order/7")
        """
        with self._others.watch(name) as changes:
            timer = threading.Timer(limit, changes.close)
            timer.start()
            try:
                if not any(each.name == name and each.waiters for each in changes):
                    raise AssertionError(f"nobody waits for the lock {name!r} after {limit:g} s")
            finally:
                timer.cancel()

    async def wait_for_waiting_task(self, name: str, limit: float = LIMIT) -> None:
        """Does the same for asyncio, where another task waits."""
        async with self._others.aio.watch(name) as changes:
            timer = threading.Timer(limit, changes._native.close)
            timer.start()
            try:
                async for each in changes:
                    if each.name == name and each.waiters:
                        return
            finally:
                timer.cancel()
        raise AssertionError(f"nobody waits for the lock {name!r} after {limit:g} s")

    def _claims(self, name: str) -> "List[Claim]":
        return self._others.inspect(lock_name(name))

    def _held(self) -> "List[_Grant]":
        self._grants = [each for each in self._grants if each.guard.is_held()]
        return self._grants

    def _what_is_held(self) -> str:
        return f"the code under test holds {_listed(self.held())}"

    # What follows is called by the locks of the code under test.

    def _note(self, name: str, guard: _rust.Guard) -> None:
        self.granted.append(name)
        self._grants.append(_Grant(name, guard))

    def _end(self) -> None:
        for grant in self._held():
            ask(grant.guard.release())
        for part in self._parts:
            part.end()
        self._others.close()


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"


@contextlib.contextmanager
def locks() -> "Iterator[Locks]":
    """Keeps the locks of all managers of this process in memory, while the block runs.

    ::

        with testing.locks() as locks:
            import_orders()
            assert locks.granted == ["import"]

    That is so for managers that were made before or are made within, from an address, a dict or the settings
    of Django, whatever store they name: no server is asked, and the settings are not changed. After the
    block they are connected as before. What is still held then is released. Blocks may be nested: the inner
    one has locks of its own. It works for threads, asyncio and gevent. It is in effect for the whole
    process, and not in its children: tests that run at the same time in threads of one process share it.
    """
    found = Locks()
    store, changed = found._store, []

    def engine(lock: NativeGlobalLock) -> Engine:
        state = lock.config.__dict__
        known: Optional[Engine] = state.get("_engine")
        if isinstance(known, _Engine) and (known.is_fixed or known.store is store):
            return known
        changed.append((state, known))
        made = state["_engine"] = _Engine(store, lock.config)
        return made

    def guard(lock: NativeGlobalLock) -> Any:
        held = _originals["_guard"].__get__(lock)
        return None if held is None else _Checked(held, store, _OF_GUARDS)

    def granted(lock: NativeGlobalLock, guard: _rust.Guard, request: LockRequest) -> Any:
        acquisition = _originals["_granted"](lock, guard, request)
        if not getattr(lock._engine, "is_fixed", False):
            found._note(lock.name, guard)
        return acquisition

    def succeeding(turn: TurnBase, acquisition: Any) -> Any:
        return _Checked(_originals["_held"](turn, acquisition), store, _OF_GUARDS)

    with contextlib.ExitStack() as replaced:
        replaced.callback(found._end)
        replaced.callback(_restore, changed)
        for owner, name, value in (
            (NativeGlobalLock, "_engine", property(engine)),
            (OwnedLock, "_guard", property(guard)),
            (NativeGlobalLock, "_granted", granted),
            (TurnBase, "_held", succeeding),
        ):
            # The one before is another block's, if blocks are nested.
            replaced.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, value)
        yield found


#: The attributes that :func:`locks` replaces, as the package has them.
_originals: "dict[str, Any]" = {
    "_guard": vars(OwnedLock)["_guard"],
    "_granted": vars(NativeGlobalLock)["_granted"],
    "_held": vars(TurnBase)["_held"],
}


def _restore(changed: "List[Any]") -> None:
    """Gives managers the connection back that they had."""
    for state, known in reversed(changed):
        if known is None:
            state.pop("_engine", None)
        else:
            state["_engine"] = known
