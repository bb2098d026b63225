"""The locks under gevent: while one greenlet waits for the core, the others of its thread run."""

from __future__ import annotations

import importlib
import sys
import weakref
from typing import Any, List, Optional, TypeVar

from . import _rust
from .exceptions import GlobalLockError

__all__ = ["Hub", "ask", "hub", "is_patched", "refuse_eventlet"]

T = TypeVar("T")


class Hub:
    """Connects one of gevent's hubs to the core, in one process."""

    def __init__(self, hub: Any) -> None:
        self._gevent: Any = importlib.import_module("gevent")
        self._bridge = _rust.Bridge()
        self._waiting: "dict[int, Any]" = {}
        # Started only while a greenlet waits, because an active watcher keeps the hub from ending.
        self._watcher = hub.loop.io(self._bridge.fileno(), 1)

    def is_here(self) -> bool:
        """Whether this process made it."""
        return self._bridge.is_here()

    def _drain(self) -> None:
        for number, succeeded, value in self._bridge.drain():
            result = self._waiting.get(number)
            if result is None:
                # The waiter has gone. A guard that is dropped here releases its lock.
                continue
            if succeeded:
                result.set(value)
            else:
                result.set_exception(value)

    def outcome(self, request: "_rust.Request[Any]", limit: Optional[float] = None) -> Any:
        """Waits for the outcome of a request; ``None`` after ``limit`` seconds.

        A greenlet that is killed, or interrupted by a ``gevent.Timeout``, cancels the request.
        """
        number = request.start(self._bridge)
        result = self._waiting[number] = self._gevent.event.AsyncResult()
        if len(self._waiting) == 1:
            self._watcher.start(self._drain)
        try:
            while self._bridge.polling():
                if not self._bridge.poll():
                    self._drain()
                else:
                    self._gevent.sleep(0)
            result.wait(limit)
            return result.get() if result.ready() else None
        except BaseException:
            # Killed while it polled. Polling must end, so that the hub is woken from now on; and the outcomes
            # that arrived meanwhile must reach the other greenlets.
            while self._bridge.polling() and self._bridge.poll():
                pass
            self._drain()
            if result.successful() and isinstance(result.value, _rust.Guard):
                # It came together with the kill, whose traceback would keep it.
                result.value.keep_nobody_out()
                result.value.let_go()
            raise
        finally:
            del self._waiting[number]
            if not result.ready():
                self._bridge.cancel(number)
            if not self._waiting:
                self._watcher.stop()


_hubs: "weakref.WeakKeyDictionary[Any, Hub]" = weakref.WeakKeyDictionary()


def is_patched() -> bool:
    """Whether gevent has patched what blocks (``gevent.monkey.patch_all()``)."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(
        monkey.is_module_patched("socket") or monkey.is_module_patched("threading")
    )


def refuse_eventlet() -> None:
    """Refuses to acquire where eventlet has patched what blocks (``eventlet.monkey_patch()``).

    A greenlet that waits for a lock would stop all others of its thread, among them the one that holds it.

    :raises GlobalLockError: eventlet has.
    """
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and (patcher.is_monkey_patched("thread") or patcher.is_monkey_patched("socket")):
        raise GlobalLockError(
            "eventlet is not supported: a wait for a lock would stop all its green threads. Use gevent, "
            "threads or asyncio, or do not call eventlet.monkey_patch() in this process"
        )


def hub() -> Optional[Hub]:
    """The bridge of this thread's hub, if gevent has patched what blocks."""
    if not is_patched():
        return None
    current = sys.modules["gevent"].get_hub()
    known = _hubs.get(current)
    if known is None or not known.is_here():
        known = _hubs[current] = Hub(current)
    return known


def ask(
    request: "_rust.Request[T]", taken: "Optional[List[Any]]" = None, limit: Optional[float] = None
) -> "Optional[T]":
    """Waits for the outcome of a request; ``None`` after ``limit`` seconds.

    What is granted is in the list ``taken`` before an exception can arise. Under gevent, the other greenlets
    of this thread run meanwhile.
    """
    greenlets = hub()
    if greenlets is None:
        return request.wait(limit, taken)
    outcome: "Optional[T]" = greenlets.outcome(request, limit)
    if taken is not None and isinstance(outcome, _rust.Guard):
        taken.append(outcome)
    return outcome
