"""What a task acquires and releases.

An asynchronous exception may interrupt it at any instruction. So what is held stands in the list `taken` or
`leaving` first: from there the core releases it then, as it does for threads.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any, List, Optional

from .. import _rust
from ..acquisitions import Acquisition
from ..bodies import Ending
from ..exceptions import NotLocked
from ..loops import outcome

if TYPE_CHECKING:
    from ..engine import LockRequest
    from ..native import NativeGlobalLock

__all__ = ["enter", "give_back", "leave", "release", "take"]


async def take(
    lock: NativeGlobalLock, taken: "List[Any]", request: "Optional[LockRequest]" = None
) -> "Optional[Acquisition[_rust.Guard]]":
    """Acquires a lock for the running task; ``None`` if it was not granted in time."""
    asked = lock._begin(request or lock._lock_request())
    guard = await outcome(lock._engine.native.acquire(asked), taken)
    return None if guard is None else lock._granted(guard)


async def give_back(lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]") -> None:
    """Releases one acquisition. If cancelled, the release goes on in the background."""
    guard = lock._forget(acquisition)
    if guard is not None:
        lock._warn(await outcome(guard.release()))


async def release(lock: NativeGlobalLock, leaving: "List[Any]") -> None:
    """Releases a lock, as its ``release()`` does. If cancelled, the release goes on in the background."""
    acquisition = lock._to_release()
    if acquisition is not None:
        leaving.append(acquisition)
        await give_back(lock, acquisition)


async def enter(
    lock: NativeGlobalLock,
    frame: FrameType,
    taken: "List[Any]",
    cancel_on_loss: bool = False,
    request: "Optional[LockRequest]" = None,
) -> "Optional[Acquisition[_rust.Guard]]":
    """Acquires a lock for the ``async with`` of a frame. With a ``request``, a refusal is raised."""
    acquisition = await take(lock, taken, request)
    if acquisition is None and (lock._is_required or request is not None):
        raise NotLocked(lock.name)
    if acquisition is not None and cancel_on_loss:
        acquisition.ending = Ending([(lock, acquisition)])
    lock._holdings.enter(frame, acquisition, taken)
    return acquisition


async def leave(lock: NativeGlobalLock, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
    """Releases what the ``async with`` of a frame has acquired."""
    lock._holdings.find(frame, leaving)
    if not leaving:
        await release(lock, leaving)
        return
    entered = leaving[0]
    lock._holdings.exit(entered)
    lock._warn_of_refused(entered)
    try:
        if entered.ending is not None:
            await entered.ending.leave(exception)
    finally:
        await give_back(lock, entered)
