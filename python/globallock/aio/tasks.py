"""What a task acquires and releases."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any, List, Optional, TypeVar

from .. import _rust
from ..acquisitions import Acquisition, Holdings
from ..bodies import Ending
from ..exceptions import NotLocked
from ..loops import outcome

if TYPE_CHECKING:
    from ..engine import LockRequest
    from ..native import NativeGlobalLock

T = TypeVar("T")

__all__ = ["enter", "give_back", "leave", "left", "release", "take"]


async def take(
    lock: NativeGlobalLock, request: "Optional[LockRequest]" = None
) -> "Optional[Acquisition[_rust.Guard]]":
    """Acquires a lock for the running task; ``None`` if it was not granted in time."""
    guard = await outcome(lock._engine.native.acquire(lock._begin(request or lock._lock_request())))
    return None if guard is None else lock._granted(guard)


async def give_back(lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]") -> None:
    """Releases one acquisition. If cancelled, the release goes on in the background."""
    guard = lock._forget(acquisition)
    if guard is not None:
        lock._warn(await outcome(guard.release()))


async def release(lock: NativeGlobalLock) -> None:
    """Releases a lock, as its ``release()`` does. If cancelled, the release goes on in the background."""
    acquisition = lock._to_release()
    if acquisition is not None:
        await give_back(lock, acquisition)


async def enter(lock: NativeGlobalLock, frame: FrameType, cancel_on_loss: bool = False) -> None:
    """Acquires a lock for the ``async with`` of a frame."""
    acquisition = await take(lock)
    if acquisition is None and lock._is_required:
        raise NotLocked(lock.name)
    if acquisition is not None and cancel_on_loss:
        acquisition.ending = Ending([(lock, acquisition)])
    lock._holdings.enter(frame, acquisition, [])


async def leave(lock: NativeGlobalLock, frame: FrameType, exception: Any) -> None:
    """Releases what the ``async with`` of a frame has acquired."""
    entered = left(lock._holdings, frame)
    if entered is None:
        await release(lock)
        return
    lock._warn_of_refused(entered)
    try:
        if entered.ending is not None:
            await entered.ending.leave(exception)
    finally:
        await give_back(lock, entered)


def left(holdings: "Holdings[T]", frame: FrameType) -> "Optional[Acquisition[T]]":
    """What the ``async with`` of a frame has acquired, or was refused, and leaves now."""
    found: "List[Acquisition[T]]" = []
    holdings.find(frame, found)
    for acquisition in found:
        holdings.exit(acquisition)
        return acquisition
    return None
