"""Finds a wait that would end only when the very caller that waits releases what it holds."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

from .acquisitions import Acquisition, Thread, caller, this_thread
from .exceptions import NotLocked
from .greenlets import ask
from .lock_options import MOST_PERMITS
from .loops import outcome

if TYPE_CHECKING:
    from .native import LockRequest, NativeGlobalLock

__all__ = ["confirm", "confirm_by_task", "refuse_to_wait_for_oneself"]

#: The modules whose functions call one job after the other in the threads of a pool. What a job has acquired
#: may be released by a later job, in whichever thread that runs.
_POOLS = frozenset(
    {
        "anyio._backends._asyncio", "concurrent.futures.thread", "gevent.threadpool", "multiprocessing.pool",
        "trio._core._thread_cache", "twisted._threads._threadworker",
    }
)  # fmt: skip


def refuse_to_wait_for_oneself(lock: NativeGlobalLock, request: LockRequest) -> None:
    """Refuses a wait without a limit for what the caller itself holds.

    | what the caller holds of the name, by whichever lock object of this process | the wait |
    |---|---|
    | leaves room for the request, such as a reader for a reader | may end |
    | was lost, or has a max hold time | ends |
    | was acquired with ``thread_local=False`` | ends when anybody else releases it |
    | was acquired by another job of this pool's thread | ends when a later job releases it |
    | all the rest | would never end: :class:`NotLocked` is raised |
    """
    own = _own(lock, request)
    if own:
        of_this = lock._holdings.all()
        is_this = any(each in of_this for each in own)
        by = "this very object" if is_this else "another lock object of this name"
        raise NotLocked(
            lock.name,
            f"is held by the caller itself, by {by}: it would wait for itself for ever. Release it first, "
            "limit the wait (blocking_timeout, blocking=False), or, if another thread or task is to release "
            "it, acquire it with thread_local=False",
        )


def confirm(lock: NativeGlobalLock, request: LockRequest) -> None:
    """Asks the store whether the caller still holds what it would wait for: the store may have lost it."""
    for guard in [each.granted for each in _own(lock, request)]:
        if guard is not None:
            ask(guard.renew())


async def confirm_by_task(lock: NativeGlobalLock, request: LockRequest) -> None:
    """Does the same for asyncio."""
    for guard in [each.granted for each in _own(lock, request)]:
        if guard is not None:
            await outcome(guard.renew())


def _own(lock: NativeGlobalLock, request: LockRequest) -> "List[Acquisition[Any]]":
    """What the caller holds, as far as is known here, that leaves no room for a request without a limit."""
    held = lock._engine.native.holds(request)
    if held is None:
        return []
    me = caller()
    own = [each for each in held if _is_held_for_good(each) and _is_own(each, me)]
    taken, capacity = _permits(request)
    for acquisition in own:
        more, of = _permits(acquisition.request)
        taken, capacity = taken + more, min(capacity, of)
    return own if taken > capacity else []


def _permits(request: "Optional[LockRequest]") -> "Tuple[int, int]":
    """How much of a lock a request takes, and of how much, as the core sees it."""
    if request is None or request.kind == "mutex":
        return 1, 1
    if request.kind == "permits":
        return request.permits, request.capacity
    return 1 if request.kind == "read" else MOST_PERMITS, MOST_PERMITS


def _is_held_for_good(acquisition: "Acquisition[Any]") -> bool:
    """Whether it is held until somebody releases it, and its owner has to."""
    request = acquisition.request
    is_limited = request is not None and request.max_hold is not None
    guard = acquisition.granted
    return not is_limited and not acquisition.is_anyones and guard is not None and guard.is_held()


def _is_own(acquisition: "Acquisition[Any]", me: object) -> bool:
    """Whether the caller must go on before it is released."""
    if acquisition.body is me:
        # The work that it was acquired for, which runs in a task of its own.
        return True
    if not isinstance(me, Thread):
        # Also a block around the event loop, which the thread cannot leave while the loop runs.
        is_around = acquisition.owner is this_thread() and _runs_now(acquisition.block)
        return acquisition.owner is me or is_around
    return acquisition.owner is me and (_runs_now(acquisition.block) or not _is_in_a_pool())


def _runs_now(block: object) -> bool:
    """Whether the function whose block it is has called what runs now."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None and frame is not block:
        frame = frame.f_back
    return frame is not None


def _is_in_a_pool() -> bool:
    """Whether a pool has called what runs now."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") not in _POOLS:
        frame = frame.f_back
    return frame is not None
