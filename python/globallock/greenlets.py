"""The locks under gevent: while a greenlet waits for the core, the others of its thread run."""

from __future__ import annotations

import importlib
import sys
import weakref
from typing import Any, Callable, Optional

from . import _rust

__all__ = ["Hub", "hub"]


class Hub:
    """One of gevent's hubs' way to the core, in one process."""

    def __init__(self, hub: Any) -> None:
        self._gevent: Any = importlib.import_module("gevent")
        self._bridge = _rust.Bridge()
        self._waiting: "dict[int, Any]" = {}
        # Watched while somebody waits: what is watched keeps a hub from ending.
        self._watcher = hub.loop.io(self._bridge.fileno(), 1)

    def is_here(self) -> bool:
        """Whether it belongs to this process."""
        return self._bridge.is_here()

    def _drain(self) -> None:
        for number, succeeded, value in self._bridge.drain():
            result = self._waiting.get(number)
            if result is None:
                # Nobody waits any more: a guard that is dropped here releases its lock.
                continue
            if succeeded:
                result.set(value)
            else:
                result.set_exception(value)

    def outcome(self, start: "Callable[[_rust.Bridge], int]", limit: Optional[float] = None) -> Any:
        """Starts a request and waits for its outcome; ``None`` if ``limit`` seconds are over before.

        A greenlet that is killed, or told so by a ``gevent.Timeout``, gives it up.
        """
        number = start(self._bridge)
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
            # Killed while it polled: from now on the hub is to be woken, and what was done meanwhile is told.
            while self._bridge.polling() and self._bridge.poll():
                pass
            self._drain()
            raise
        finally:
            del self._waiting[number]
            if not result.ready():
                self._bridge.cancel(number)
            if not self._waiting:
                self._watcher.stop()


_hubs: "weakref.WeakKeyDictionary[Any, Hub]" = weakref.WeakKeyDictionary()


def hub() -> Optional[Hub]:
    """The way of this thread's hub, where gevent has taken the place of what waits (``gevent.monkey.patch_all()``)."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not (monkey.is_module_patched("socket") or monkey.is_module_patched("threading")):
        return None
    current = sys.modules["gevent"].get_hub()
    known = _hubs.get(current)
    if known is None or not known.is_here():
        known = _hubs[current] = Hub(current)
    return known
