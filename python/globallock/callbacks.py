"""Calls back when locks end: two threads a process serve all locks."""

from __future__ import annotations

import logging
import queue
import selectors
import threading
from typing import Any, Callable, NamedTuple, Optional

from . import _rust
from .exceptions import Reason, reason_of
from .fields import ReasonFields
from .greenlets import ask, is_patched

__all__ = ["call_back"]

_logger = logging.getLogger("globallock.base")

#: What the core answers: why, or ``None`` if the lock was released.
Answer = Optional[ReasonFields]


class _Callback(NamedTuple):
    """What is to be called, and of which lock it hears."""

    name: str
    call: Callable[[Reason], Any]
    #: Whether it returns at once, as the ``set()`` of an event does.
    is_quick: bool

    def hear(self, answer: Answer) -> None:
        """Calls it, unless the lock was released."""
        reason = reason_of(answer)
        if reason is None:
            return
        try:
            self.call(reason)
        except BaseException:  # noqa: BLE001 - sys.exit() too: this thread has others to call
            _logger.exception("lock %r: the function that was to be called at its end has failed", self.name)


class _Service:
    """Hears from the core in one thread. Calls what may take long in another one, one after the other."""

    def __init__(self) -> None:
        self._bridge = _rust.Bridge()
        self._waiting: "dict[int, _Callback]" = {}
        #: What was answered before it stood in the other dict.
        self._early: "dict[int, Answer]" = {}
        self._due: "queue.SimpleQueue[tuple[_Callback, Answer]]" = queue.SimpleQueue()
        for run in (self._listen, self._call):
            threading.Thread(target=run, name="globallock-callbacks", daemon=True).start()

    def is_here(self) -> bool:
        """Whether this process made it."""
        return self._bridge.is_here()

    # Each step is one operation of a built-in container, and there is no mutex, for which a signal handler
    # could wait for ever. Both sides write first and look then, and one of them takes it out.

    def add(self, request: "_rust.Request[Answer]", callback: _Callback) -> None:
        """Has a callback called with the outcome of a request."""
        number = request.start(self._bridge)
        self._waiting[number] = callback
        if number in self._early:
            self._hear(number)

    def _hear(self, number: int) -> None:
        callback = self._waiting.pop(number, None)
        if callback is None:
            return
        answer = self._early.pop(number)
        if callback.is_quick:
            callback.hear(answer)
        else:
            self._due.put((callback, answer))

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._bridge.fileno(), selectors.EVENT_READ)
            while True:
                selector.select()
                for number, succeeded, answer in self._bridge.drain():
                    self._early[number] = answer if succeeded else None
                    self._hear(number)

    def _call(self) -> None:
        while True:
            callback, answer = self._due.get()
            callback.hear(answer)


_service: Optional[_Service] = None


def call_back(
    name: str, request: "_rust.Request[Answer]", call: "Callable[[Reason], Any]", is_quick: bool = False
) -> None:
    """Calls a function with the reason, in a thread that serves all locks, unless the lock is released."""
    global _service
    callback = _Callback(name, call, is_quick)
    if is_patched():
        # These threads are greenlets, which cost little. A selector would stop all others of this thread.
        threading.Thread(
            target=lambda: callback.hear(ask(request)), name=f"globallock-{name}", daemon=True
        ).start()
        return
    service = _service
    if service is None or not service.is_here():
        service = _service = _Service()
    service.add(request, callback)
