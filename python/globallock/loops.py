"""The core's answers for asyncio: each event loop has a bridge to the core."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from typing import Any, List, Optional, TypeVar

from . import _rust
from .greenlets import is_patched

__all__ = ["outcome", "warn_in_a_loop"]

T = TypeVar("T")


class _Loop:
    """Connects one event loop to the core, in one process. It does not keep the loop alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.bridge = _rust.Bridge()
        self.waiting: "dict[int, asyncio.Future[Any]]" = {}
        # Without a function of Python in between, which an exception could interrupt.
        loop.add_reader(self.bridge.fileno(), self.bridge.settle, self.waiting)


_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop]" = weakref.WeakKeyDictionary()

#: That of the loop which has asked last, because there is mostly one. It is not kept beyond its loop.
_latest: "Optional[weakref.ref[_Loop]]" = None


if hasattr(os, "register_at_fork"):
    # The bridges are the parent's. One that is used all the same refuses it.
    os.register_at_fork(after_in_child=_loops.clear)


def outcome(request: "_rust.Request[T]", taken: "Optional[List[Any]]" = None) -> "_rust.Answer[T]":
    """What a task awaits for the outcome of a request, in the running loop. If cancelled, so is the request.

    What is granted is in the list ``taken`` before an exception can arise.
    """
    global _latest
    loop, known = asyncio.get_running_loop(), None if _latest is None else _latest()
    if known is None or known.loop() is not loop:
        known = _loops.get(loop)
        if known is None:
            known = _loops[loop] = _Loop(loop)
        _latest = weakref.ref(known)
    return request.awaited(known.bridge, loop, known.waiting, taken)


def warn_in_a_loop(name: str) -> None:
    """Warns of a call that stops all tasks of an event loop."""
    if asyncio._get_running_loop() is not None and not is_patched():
        warnings.warn(
            f"the lock {name!r} is acquired by a call that stops the running event loop: use lockman.aio",
            RuntimeWarning,
            stacklevel=4,
        )
