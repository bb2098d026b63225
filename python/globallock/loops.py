"""The core's answers for asyncio: each event loop has a bridge to the core."""

from __future__ import annotations

import asyncio
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
        self.bridge = _rust.Bridge()
        self.waiting: "dict[int, asyncio.Future[Any]]" = {}
        # Without a function of Python in between, which an exception could interrupt.
        loop.add_reader(self.bridge.fileno(), self.bridge.settle, self.waiting)


_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop]" = weakref.WeakKeyDictionary()


async def outcome(request: "_rust.Request[T]", taken: "Optional[List[Any]]" = None) -> T:
    """Waits in the running loop for the outcome of a request. A cancelled wait cancels the request.

    What is granted is in the list ``taken`` before an exception can arise.
    """
    loop = asyncio.get_running_loop()
    known = _loops.get(loop)
    if known is None or not known.bridge.is_here():
        known = _loops[loop] = _Loop(loop)
    future: "asyncio.Future[T]" = loop.create_future()
    number = request.begin_for(known.bridge, loop, known.waiting, future, taken)
    try:
        return await future
    finally:
        if known.waiting.pop(number, None) is not None:
            known.bridge.cancel(number)


def warn_in_a_loop(name: str) -> None:
    """Warns of a call that stops all tasks of an event loop."""
    if asyncio._get_running_loop() is not None and not is_patched():
        warnings.warn(
            f"the lock {name!r} is acquired by a call that stops the running event loop: use lockman.aio",
            RuntimeWarning,
            stacklevel=4,
        )
