"""Who holds what by one lock object: a record for each acquisition, found by thread, task or greenlet."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any, Awaitable, Generic, Iterator, List, Optional, TypeVar, Union

from .exceptions import NotLocked
from .greenlets import is_patched

if TYPE_CHECKING:
    from .engine import LockRequest

__all__ = ["Acquisition", "Holdings", "Thread", "caller", "start_for", "this_thread"]

_logger = logging.getLogger("globallock.base")

T = TypeVar("T")
R = TypeVar("R")


class Thread:
    """Stands for one thread: its number would be used again after its end."""


_here = threading.local()


def caller() -> object:
    """Who calls: the greenlet, the task or the thread that runs now."""
    greenlets: Any = sys.modules.get("greenlet")
    greenlet = None if greenlets is None else greenlets.getcurrent()
    # The first greenlet of a thread is the thread itself.
    is_greenlet = greenlet is not None and greenlet.parent is not None
    if not (is_greenlet and is_patched()) and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return greenlet if is_greenlet else this_thread()


def this_thread() -> Thread:
    """The thread that runs now."""
    try:
        thread: Thread = _here.thread
    except AttributeError:
        thread = _here.thread = Thread()
    return thread


class Acquisition(Generic[T]):
    """One acquisition: who made it, and what it was granted. It was refused if that is ``None``."""

    __slots__ = (
        "__weakref__", "block", "body", "ending", "granted", "is_anyones", "is_known", "owner", "request",
    )  # fmt: skip

    def __init__(self, owner: object, granted: Optional[T]) -> None:
        self.owner, self.granted = owner, granted
        #: Whether its owner has asked whether it was granted. A log line that shows the lock has not.
        self.is_known = False
        #: What cancels its block when its lock ends.
        self.ending: Any = None
        #: What was asked for, of one lock.
        self.request: "Optional[LockRequest]" = None
        #: Whether anybody may release it (``thread_local=False``).
        self.is_anyones = False
        #: The task whose work it was acquired for, if that is not its owner.
        self.body: object = None
        #: The frame or ``ExitStack`` of its ``with``, while that is not left.
        self.block: object = None

    def _parts(self) -> "Iterator[Acquisition[Any]]":
        """This one, and what several locks or a turn have acquired by it."""
        yield self
        granted = self.granted
        for part in granted if isinstance(granted, (list, tuple)) else ():
            inner = part[1] if isinstance(part, tuple) else part
            if isinstance(inner, Acquisition):
                yield inner


class _Own(Generic[T]):
    """What one caller has acquired and not released, oldest first, and the blocks that it was refused."""

    __slots__ = ("held", "was_refused")

    def __init__(self) -> None:
        self.held: "List[Acquisition[T]]" = []
        #: Whether its last try was refused, or has not ended.
        self.was_refused = False


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


class Holdings(Generic[T]):
    """The acquisitions of one lock object that are not released.

    Each step is one operation of a built-in container, which nothing interrupts. So there is no mutex, for
    which a signal handler could wait for ever.
    """

    def __init__(self) -> None:
        #: All of them, oldest first. What is not in here is released.
        self._held: "dict[Acquisition[T], None]" = {}
        #: Also who has acquired, and holds nothing now.
        self._own: "weakref.WeakKeyDictionary[object, _Own[T]]" = weakref.WeakKeyDictionary()
        #: What each ``with`` has acquired: of its frame or ``ExitStack``, the innermost last.
        self._blocks: "dict[Union[FrameType, _Stack], List[Acquisition[T]]]" = {}

    def begin(self) -> "List[Acquisition[T]]":
        """Notes that the caller tries to acquire, and returns what it holds already."""
        own = self._own.setdefault(caller(), _Own())
        own.was_refused = True
        return [each for each in own.held if each.granted is not None]

    def add(self, granted: T) -> "Acquisition[T]":
        """Notes what was granted to the caller."""
        owner = caller()
        acquisition = Acquisition(owner, granted)
        own = self._own.setdefault(owner, _Own())
        self._held[acquisition] = None
        own.held.append(acquisition)
        own.was_refused = False
        return acquisition

    def remove(self, acquisition: "Acquisition[T]") -> bool:
        """Forgets an acquisition. True for one caller only, who then releases what it was granted."""
        own = self._own.get(acquisition.owner)
        if own is not None:
            with contextlib.suppress(ValueError):
                own.held.remove(acquisition)
        return self._held.pop(acquisition, self) is None

    def all(self) -> "List[Acquisition[T]]":
        """All acquisitions, oldest first."""
        return list(self._held)

    def _own_latest(self, own: "Optional[_Own[T]]") -> "Optional[Acquisition[T]]":
        if own is not None and own.held:
            return own.held[-1]
        return next((each for each in _acquired_for.get() if each in self._held), None)

    def _only_one(self) -> "Optional[Acquisition[T]]":
        held = list(self._held)
        return held[0] if len(held) == 1 else None

    def current(self) -> "Optional[Acquisition[T]]":
        """The caller's latest acquisition, or refused block.

        For a caller that has never tried to acquire, the only acquisition that there is.
        """
        own = self._own.get(caller())
        latest = self._own_latest(own)
        return self._only_one() if latest is None and own is None else latest

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
        own = self._own.get(caller())
        latest = self._own_latest(own)
        if latest is not None or not self._held:
            return None if latest is None or latest.granted is None else latest
        only_one = self._only_one()
        if only_one is not None and (anyones or own is None):
            return only_one
        if own is not None and own.was_refused:
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
            acquisition = Acquisition(caller(), None)
            noted.append(acquisition)
            self._own.setdefault(acquisition.owner, _Own()).held.append(acquisition)
        place = _place(frame)
        self._blocks.setdefault(place, []).append(acquisition)
        for part in acquisition._parts():
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
        for part in acquisition._parts():
            part.block = None
        for frame, inner in list(self._blocks.items()):
            with contextlib.suppress(ValueError):
                inner.remove(acquisition)
            if not inner:
                self._blocks.pop(frame, None)
        if acquisition.granted is None:
            self.remove(acquisition)
