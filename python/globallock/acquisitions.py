"""Who holds what by one lock object: a record for each acquisition, found by thread, task or greenlet."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from types import FrameType
from typing import Any, Awaitable, Iterator, List, Optional, TypeVar, Union

from . import _rust
from ._rust import Acquisition, Thread, caller, this_thread
from .exceptions import NotLocked

__all__ = ["Acquisition", "Holdings", "Thread", "caller", "start_for", "this_thread"]

_logger = logging.getLogger("globallock.base")

T = TypeVar("T")
R = TypeVar("R")


#: For work in a task of its own: what was acquired for it. The tasks that it starts inherit it.
_acquired_for: "contextvars.ContextVar[tuple[Acquisition[Any], ...]]" = contextvars.ContextVar(
    "globallock_acquired_for", default=()
)


def start_for(acquisition: "Acquisition[Any]", awaited: "Awaitable[R]") -> "asyncio.Future[R]":
    """Starts a task that an acquisition was made for, and that uses it as its own."""

    def start() -> "asyncio.Future[R]":
        _acquired_for.set((acquisition, *_acquired_for.get()))
        acquisition.body = body = asyncio.ensure_future(awaited)
        return body

    return contextvars.copy_context().run(start)


class _Stack:
    """Stands for an ``ExitStack``, by the list of what it must exit, which ``pop_all()`` gives to another."""

    __slots__ = ("exits",)

    def __init__(self, exits: Any) -> None:
        self.exits = exits

    def __hash__(self) -> int:
        return id(self.exits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stack) and other.exits is self.exits


def _place(frame: FrameType) -> "Union[FrameType, _Stack]":
    """Where a block is entered and left: a frame, or an ``ExitStack`` for which one of its methods runs."""
    if frame.f_globals is not _CONTEXTLIB:
        return frame
    stack = frame.f_locals.get("self")
    is_stack = isinstance(stack, (contextlib.ExitStack, contextlib.AsyncExitStack))
    exits = getattr(stack, "_exit_callbacks", None) if is_stack else None
    return frame if exits is None else _Stack(exits)


#: The names of the module whose functions run for an ``ExitStack``.
_CONTEXTLIB = vars(contextlib)


def _parts(acquisition: "Acquisition[Any]") -> "Iterator[Acquisition[Any]]":
    """An acquisition, and those of one lock each that several locks or a turn have made by it."""
    yield acquisition
    granted = acquisition.granted
    for part in granted if isinstance(granted, (list, tuple)) else ():
        inner = part[1] if isinstance(part, tuple) else part
        if isinstance(inner, Acquisition):
            yield inner


class Holdings(_rust.Holdings[T]):
    """The acquisitions of one lock object that are not released.

    The core has the records. Each step here is one operation of theirs or of a built-in container, which
    nothing interrupts. So there is no mutex, for which a signal handler could wait for ever.
    """

    def __init__(self) -> None:
        #: What each ``with`` has acquired: of its frame or ``ExitStack``, the innermost last.
        self._blocks: "dict[Union[FrameType, _Stack], List[Acquisition[T]]]" = {}

    def _own_latest(self) -> "Optional[Acquisition[T]]":
        latest = self.latest()
        if latest is None:
            return next((each for each in _acquired_for.get() if self.has(each)), None)
        return latest

    def _only_one(self) -> "Optional[Acquisition[T]]":
        held = self.all()
        return held[0] if len(held) == 1 else None

    def current(self) -> "Optional[Acquisition[T]]":
        """The caller's latest acquisition, or refused block.

        For a caller that has never tried to acquire, the only acquisition that there is.
        """
        latest = self._own_latest()
        return self._only_one() if latest is None and self.was_refused() is None else latest

    def note_asked(self) -> None:
        """Notes that the caller asks whether it was granted."""
        current = self.current()
        if current is not None:
            current.is_known = True

    def to_release(self, name: str, anyones: bool = False) -> "Optional[Acquisition[T]]":
        """Which acquisition the caller may release.

        | the caller | others, by this object | released |
        |---|---|---|
        | has acquired | – | its latest |
        | has not | hold nothing | nothing |
        | was refused at its last try | hold it | nothing, as with a lock object of its own |
        | never tried | hold it once | that: it was handed over |
        | never tried | hold it several times | :class:`NotLocked` is raised |
        | has released before | hold it | :class:`NotLocked`: a second release, or handed over? |

        ``anyones``: the last three rows are one, and what is held once is released.
        """
        latest = self._own_latest()
        if latest is not None or not self.all():
            return None if latest is None or latest.granted is None else latest
        only_one, was_refused = self._only_one(), self.was_refused()
        if only_one is not None and (anyones or was_refused is None):
            return only_one
        if was_refused:
            _logger.warning("lock %r was refused here, so release() has released nothing", name)
            return None
        raise NotLocked(
            name,
            "is held by other threads, tasks or greenlets through this lock object, and this one has not "
            "acquired it: to hand a lock over, use an object for each acquisition, or thread_local=False",
        )

    def enter(self, frame: FrameType, acquisition: "Optional[Acquisition[T]]", noted: "List[Any]") -> None:
        """Notes what the ``with`` of a frame has acquired; ``None`` if it was refused."""
        if acquisition is None:
            # Whatever the caller holds besides, it is refused in this block.
            acquisition = self.refuse(noted)
        place = _place(frame)
        self._blocks.setdefault(place, []).append(acquisition)
        for part in _parts(acquisition):
            part.block = place

    def find(self, frame: FrameType, noted: "List[Any]") -> None:
        """Notes what the innermost ``with`` of a frame has acquired, or was refused, if there is one.

        Generators may be left by another thread than entered, so the frame says which ``with`` it is. For an
        ``ExitStack``, whose methods have frames of their own, the stack says it. Other objects that enter and
        exit in frames of their own have the caller's latest, or the only one.
        """
        inner = self._blocks.get(_place(frame))
        if not inner:
            blocks = [each for place, each in list(self._blocks.items()) if not isinstance(place, _Stack)]
            me = caller()
            found = [inner for inner in blocks if inner and inner[-1].owner is me]
            inner = found[-1] if found else blocks[0] if len(blocks) == 1 else None
        if inner:
            noted.append(inner[-1])

    def exit(self, acquisition: "Acquisition[T]") -> None:
        """Forgets the block that has made an acquisition; may be done again."""
        for part in _parts(acquisition):
            part.block = None
        for frame, inner in list(self._blocks.items()):
            with contextlib.suppress(ValueError):
                inner.remove(acquisition)
            if not inner:
                self._blocks.pop(frame, None)
        if acquisition.granted is None:
            self.remove(acquisition)
