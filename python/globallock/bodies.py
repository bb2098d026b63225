"""Work for asyncio that runs while its lock is held, and is cancelled when that ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any, Awaitable, Generic, Optional, TypeVar

from .acquisitions import Acquisition, start_for
from .addresses import seconds
from .exceptions import HeldTooLong, InvalidOption, LockLost, Reason, reason_of
from .loops import outcome

if TYPE_CHECKING:
    from . import _rust
    from .native import LockRequest, NativeGlobalLock

R = TypeVar("R")

__all__ = ["Body", "Ending", "limited"]

_logger = logging.getLogger("globallock.base")

#: How many seconds a body may take to end after its second cancellation, before it is left.
SETTLES = 1.0
#: How many seconds after the grace the store ends the lock, for an event loop that hangs.
STORE_LIMIT = 5.0

#: The bodies that were left: a task that nobody refers to may vanish before its end.
_left: "set[asyncio.Future[Any]]" = set()


def limited(request: LockRequest) -> LockRequest:
    """The request for the lock of a body, which is released when the body has ended or was left."""
    if request.ask_after is None or request.max_hold is None:
        return request
    return request.with_max_hold(request.max_hold + STORE_LIMIT)


class Body(Generic[R]):
    """Work in a task of its own, under a lock that is held.

    | what happens | the work | then |
    |---|---|---|
    | it ends | – | its value or exception |
    | the caller is cancelled | is cancelled as often as the caller | as it ends |
    | the lock is lost | is cancelled | :class:`LockLost`, or its exception |
    | the max hold time has passed, with a grace | is cancelled, once more after the grace | as it ends |
    | – and that has ended it | – | :class:`HeldTooLong` |
    | – and it goes on for `SETTLES` after that | is left | :class:`HeldTooLong` |
    """

    def __init__(
        self, lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]", awaited: "Awaitable[R]"
    ) -> None:
        guard = acquisition.granted
        if guard is None or not inspect.isawaitable(awaited):
            raise InvalidOption(f"the work of {lock.name!r} gave no awaitable: give a coroutine function")
        self._lock, self._guard = lock, guard
        self._max_hold, self._grace = lock._lock_request().ask_after or 0.0, lock.grace
        self._task: "asyncio.Future[R]" = start_for(acquisition, awaited)
        #: Whether the planned end has come.
        self._is_asked = False

    async def outcome(self) -> R:
        """Waits for the end of the work."""
        ending = asyncio.ensure_future(self._end())
        is_cancelled = False
        try:
            while not self._task.done():
                waits: "set[asyncio.Future[Any]]" = {self._task}
                if not ending.done():
                    waits.add(ending)
                # At the end of a loop all its tasks are cancelled, this one too.
                elif not ending.cancelled() and ending.result():
                    _logger.warning("%s, and its work goes on: it was cancelled twice", self._held)
                    _leave(self._task)
                    raise HeldTooLong(f"{self._held}, and its work was left, because it did not end")
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    # The work decides what becomes of that, as if it were awaited by the caller.
                    is_cancelled = True
                    self._task.cancel()
        finally:
            ending.cancel()
            if self._task not in _left:
                self._task.cancel()
        reraise(ending)
        if self._task.cancelled() and is_cancelled:
            raise asyncio.CancelledError
        if not self._task.cancelled() and self._task.exception() is not None:
            return self._task.result()
        loss = await self._loss()
        if loss is not None:
            raise lost(self._lock.name, loss)
        if self._task.cancelled() and self._is_asked:
            raise HeldTooLong(f"{self._held}, and its work was ended")
        return self._task.result()

    @property
    def _held(self) -> str:
        return held(self._lock.name, self._max_hold)

    async def _end(self) -> bool:
        """Cancels the work when its lock ends; true if it goes on all the same, and is to be left."""
        guard = self._guard
        if await outcome(guard.asked()) is None:
            return False
        self._is_asked = guard.is_held()
        self._task.cancel()
        if not self._is_asked:
            # No lock is kept any more, so there is no reason to leave it.
            return False
        grace = seconds("grace", self._grace)
        if await outcome(guard.asked(grace)) is None:
            return False
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=SETTLES)
        return not self._task.done()

    async def _loss(self) -> Optional[Reason]:
        """Why the lock was lost; ``None`` if it is held, or was released."""
        guard = self._guard
        return None if guard.is_held() else reason_of(await outcome(guard.lost()))


class Ending:
    """Cancels the task of a block when its lock ends, as ``asyncio.timeout()`` does when its time has passed.

    The cancellation becomes :class:`LockLost`, or :class:`HeldTooLong` at a planned end, where it leaves the
    block. A block that has ended just when its lock was lost raises the same. A block that goes on after its
    planned end is cancelled once more if it loses the lock.
    """

    def __init__(self, taken: "list[tuple[NativeGlobalLock, Acquisition[_rust.Guard]]]") -> None:
        task = asyncio.current_task()
        if task is None:
            raise InvalidOption("cancel_on_loss needs a task that can be cancelled")
        self._task = task
        self._before = _cancellations(task)
        #: Those of the blocks around this one, in the same task.
        self._outer = _endings.get(task, ())
        _endings[task] = (*self._outer, self)
        self._error: "Optional[LockLost | HeldTooLong]" = None
        self._times = 0
        self._taken = taken
        self._watches = [asyncio.ensure_future(self._watch(lock, each)) for lock, each in taken]

    async def _watch(self, lock: NativeGlobalLock, acquisition: "Acquisition[_rust.Guard]") -> None:
        guard = acquisition.granted
        reason = None if guard is None else reason_of(await outcome(guard.asked()))
        if reason is not None and reason.loss is None and guard is not None:
            limit = lock._lock_request().ask_after or 0.0
            self._cancel(HeldTooLong(f"{held(lock.name, limit)}, and its block was cancelled"))
            reason = reason_of(await outcome(guard.lost()))
        if reason is not None:
            self._cancel(lost(lock.name, reason))

    def _loss(self) -> Optional[LockLost]:
        """A loss that has just happened, so that nothing was cancelled yet."""
        for lock, acquisition in self._taken:
            reason = reason_of(acquisition.granted.loss()) if acquisition.granted is not None else None
            if reason is not None:
                return lost(lock.name, reason)
        return None

    def _cancel(self, error: "LockLost | HeldTooLong") -> None:
        self._error = error
        self._times += 1
        self._task.cancel(CANCELLED)

    async def leave(self, exception: Any) -> None:
        """Ends it when the block is left, and raises what has ended the block."""
        _endings[self._task] = self._outer
        for watch in self._watches:
            watch.cancel()
            reraise(watch)
        kind, value = exception[0], exception[1]
        if kind is None and self._error is None:
            self._error = self._loss()
        if self._error is None:
            return
        came_late: "Optional[asyncio.CancelledError]" = None
        if kind is None and self._times:
            # The cancellation may not have come yet: then it comes here, and not where the block goes on.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as cancelled:
                came_late = cancelled
        for _ in range(self._times):
            _uncancel(self._task)
        if self._is_others(came_late if kind is None else value):
            if came_late is not None:
                raise came_late
            return
        if kind is None or issubclass(kind, asyncio.CancelledError):
            raise self._error from value

    def _is_others(self, cancelled: Optional[BaseException]) -> bool:
        """Whether a block around this one, or somebody else, has cancelled the task, too."""
        if not isinstance(cancelled, asyncio.CancelledError):
            return False
        if any(outer._error is not None for outer in self._outer):
            return True
        if hasattr(self._task, "cancelling"):
            return _cancellations(self._task) > self._before
        # CPython does not count them before 3.11, but keeps what they say: an awaited task, in the context.
        chain: Optional[BaseException] = cancelled
        while chain is not None and chain.args[:1] != (CANCELLED,):
            chain = chain.__context__
        return chain is None


#: What our cancellations say.
CANCELLED = "the lock of this block has ended"

#: The blocks of each task that are cancelled when their locks end, the innermost last.
_endings: "weakref.WeakKeyDictionary[asyncio.Task[Any], tuple[Ending, ...]]" = weakref.WeakKeyDictionary()


def _cancellations(task: "asyncio.Task[Any]") -> int:
    # CPython counts them from 3.11 on.
    counted: int = getattr(task, "cancelling", int)()
    return counted


def _uncancel(task: "asyncio.Task[Any]") -> None:
    getattr(task, "uncancel", int)()


def held(name: str, limit: float) -> str:
    """Says that a lock has come to its planned end."""
    return f"the lock {name!r} was held for its timeout of {limit:g} s"


def lost(name: str, reason: Reason) -> LockLost:
    """Makes the error for work whose lock was lost."""
    return LockLost(f"the lock {name!r} was lost: {reason}", name, reason.loss)


def reraise(watch: "asyncio.Future[Any]") -> None:
    """Raises what has interrupted a task of ours, such as the exception of a signal handler."""
    error = watch.exception() if watch.done() and not watch.cancelled() else None
    if error is not None:
        raise error


def _leave(task: "asyncio.Future[Any]") -> None:
    _left.add(task)
    task.add_done_callback(_has_ended)


def _has_ended(task: "asyncio.Future[Any]") -> None:
    _left.discard(task)
    if not task.cancelled() and task.exception() is not None:
        _logger.warning("work that was left has failed", exc_info=task.exception())
