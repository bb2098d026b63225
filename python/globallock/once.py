"""Work that many processes and hosts start and one does, once in a while."""

from __future__ import annotations

import functools
import inspect
import logging
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable, Generic, List, NamedTuple, Optional, TypeVar, Union

from . import _rust
from .acquisitions import Acquisition, Holdings
from .addresses import Seconds, seconds
from .deferred import context_manager_maker, is_deferred, shown, unfinished
from .exceptions import InvalidOption, NotLocked
from .greenlets import ask
from .loops import warn_in_a_loop
from .oneself import confirm

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from .base import GlobalLockManager
    from .native import LockRequest, NativeGlobalLock
    from .options import OnceOptions

    P = ParamSpec("P")

R = TypeVar("R")

_logger = logging.getLogger("globallock.base")

__all__ = ["Once", "Ran", "Turn", "TurnBase"]


@dataclass(frozen=True)
class Ran(Generic[R]):
    """What came of a run: the work was done here, or was skipped. True if it was done.

    >>> ran = lockman.once("nightly-report", every=3600).run(len, "report")
    >>> ran.done, ran.value
    (True, 6)
    >>> again = lockman.once("nightly-report", every=3600).run(len, "report")
    >>> again.done, again.began < 3600
    (False, True)
    """

    #: Whether the work was done here, and its success recorded.
    done: bool
    #: What the work returned.
    value: Optional[R] = None
    #: How many seconds ago the last success began, because of which the work was skipped.
    began: Optional[float] = None

    def __bool__(self) -> bool:
        return self.done


class Once:
    """Work that is done once in a while, however many processes and hosts start it.

    >>> nightly = lockman.once("nightly-report", every=timedelta(hours=20))
    >>> [nightly.run(print, "sends the report").done for host in range(3)]
    sends the report
    [True, False, False]
    """

    def __init__(self, manager: GlobalLockManager, name: str, every: Seconds, options: OnceOptions) -> None:
        self.name, self.every = name, seconds("every", every)
        self._manager, self._options = manager, options
        refused = sorted({"kind", "permits", "capacity", "with_value"}.intersection(options))
        if refused:
            raise InvalidOption(f"once() has no option {refused[0]!r}: its lock is a mutex of its own")
        # What is wrong in the options is told here, and not at the first run.
        self._new_lock()._check()

    def run(self, work: "Callable[P, R]", *args: "P.args", **kwargs: "P.kwargs") -> "Ran[R]":
        """Calls ``work`` under the lock, unless the last success began less than ``every`` ago.

        Those that start it at the same time wait for each other, as long as the options say. All but the
        first to succeed skip the work. An exception of the work passes through, Ctrl-C and ``SystemExit``
        too. Then nothing is recorded, so that the next one tries.

        A success is recorded after the work has returned. Where that is prevented, by an exception below or
        by the end of the process, the work is done again by the next one. Work that returns what is still to
        be done, such as a generator or a future, is :class:`InvalidOption`, and is not recorded.

        >>> ran = lockman.once("nightly-report", every=timedelta(hours=20)).run(print, "sends the report")
        sends the report
        >>> ran.done
        True

        :raises NotLocked: the lock was not granted in time.
        :raises LockLost: it was lost before the success was recorded. Nothing stops the work at a loss.
        :raises StoreUnavailable: before the work, or when its success could not be recorded.
        """
        refuse_deferred(work)
        with self.turn() as turn:
            if not turn.due:
                return Ran(False, began=turn.began)
            value = work(*args, **kwargs)
            if inspect.isawaitable(value):
                unfinished(value)
                raise InvalidOption(f"the work of {self.name!r} is to be awaited: use lockman.aio.once()")
            self._refuse_unfinished(value)
        return Ran(True, value)

    def _refuse_unfinished(self, value: Any) -> None:
        """Refuses the value of work that has not been done yet, so that it is not recorded."""
        what = unfinished(value)
        if what is not None:
            raise InvalidOption(
                f"the work of {self.name!r} has returned {what}, so it is not done yet: do it in the work"
            )

    def turn(self) -> "Turn":
        """Makes the same for a ``with`` block, which must look whether its work is due.

        One that does not look while its work is not due runs without the lock, and is told in the log.

        A block that ends without an exception, by ``return`` or ``break`` too, is a success.

        >>> with lockman.once("nightly-report", every=timedelta(hours=20)).turn() as turn:
        ...     if turn.due:
        ...         print("sends the report with fencing token", turn.lock.fencing_token)
        sends the report with fencing token 1
        """
        return Turn(self)

    def _new_lock(self) -> NativeGlobalLock:
        """Makes the lock of one run."""
        from .native import NativeGlobalLock

        lock = self._manager.lock(self.name, **self._options)
        if not isinstance(lock, NativeGlobalLock):
            raise InvalidOption(f"once() needs an engine of this package, and {type(lock).__name__} is none")
        return lock

    def __call__(self, function: "Callable[P, R]") -> "Callable[P, Ran[R]]":
        """Makes a function that does its work once in a while: a decorator."""
        refuse_deferred(function)

        @functools.wraps(function)
        def run(*args: "P.args", **kwargs: "P.kwargs") -> "Ran[R]":
            return self.run(function, *args, **kwargs)

        return run


class _Run(NamedTuple):
    """What one block was given: the lock, or when the last success began."""

    acquisition: "Optional[Acquisition[_rust.Guard]]"
    began: Optional[float] = None


class TurnBase:
    """What is common to the turns of threads and of asyncio."""

    def __init__(self, once: Once) -> None:
        self.name = once.name
        self._every, self._lock = once.every, once._new_lock()
        self._runs: "Holdings[_Run]" = Holdings()

    @property
    def due(self) -> bool:
        """Whether the work is to be done now, under the lock.

        >>> for host in ("first", "second"):
        ...     with lockman.once("nightly-report", every=3600).turn() as turn:
        ...         print(host, turn.due)
        first True
        second False
        """
        self._runs.note_asked()
        run = self._run
        return run is not None and run.acquisition is not None

    @property
    def began(self) -> Optional[float]:
        """How many seconds ago the last success began; ``None`` if the work is due.

        >>> lockman.once("nightly-report", every=3600).run(len, "report").done
        True
        >>> with lockman.once("nightly-report", every=3600).turn() as turn:
        ...     0 <= turn.began < 3600
        True
        """
        self._runs.note_asked()
        run = self._run
        return None if run is None else run.began

    @property
    def _acquisition(self) -> "Acquisition[_rust.Guard]":
        """What the work that is due holds."""
        run = self._run
        if run is None or run.acquisition is None:
            raise NotLocked(self.name, "is not held, because the work is not due")
        return run.acquisition

    @property
    def _run(self) -> "Optional[_Run]":
        current = self._runs.current()
        return None if current is None else current.granted

    def _begin(self, request: LockRequest) -> _rust.Manager:
        self._lock._begin(request)
        return self._lock._engine.native

    def _begun(
        self,
        frame: FrameType,
        request: LockRequest,
        begun: "Union[_rust.Guard, float, None]",
        taken: "List[Any]",
    ) -> None:
        if begun is None:
            raise NotLocked(self.name)
        if isinstance(begun, _rust.Guard):
            run = _Run(self._lock._granted(begun, request))
        else:
            run = _Run(None, begun)
        self._runs.enter(frame, self._runs.add(run), taken)

    def _ended(self, leaving: "List[Any]") -> "Optional[Acquisition[_rust.Guard]]":
        """What the block that is left holds, if its work was due."""
        for ended in leaving:
            self._runs.exit(ended)
            self._runs.remove(ended)
            run: _Run = ended.granted
            if run.acquisition is None and not ended.is_known:
                _logger.warning(
                    "the work of %r was not due, and its block ran without the lock and never asked: look at "
                    "due",
                    self.name,
                )
            return run.acquisition
        return None

    def _held(self, acquisition: "Acquisition[_rust.Guard]") -> _rust.Guard:
        guard = self._lock._forget(acquisition)
        if guard is None:
            raise NotLocked(self.name, "was released before the success of its run was recorded")
        return guard

    def _find(self, frame: Optional[FrameType], leaving: "List[Any]") -> None:
        if frame is not None:
            self._runs.find(frame, leaving)

    def _undo(self, frame: Optional[FrameType], noted: "List[Any]") -> None:
        for each in [*self._runs.all(), *noted]:
            if isinstance(each, Acquisition):
                held = each.granted.acquisition if each.granted is not None else None
                if each in noted or (held is not None and held.granted in noted):
                    self._runs.exit(each)
                    self._runs.remove(each)
                    noted.extend(filter(None, [held]))
        self._lock._undo(None, noted)


class Turn(_rust.Block, TurnBase):
    """A block of work that may be due; see :meth:`Once.turn`.

    >>> with lockman.once("nightly-report", every=3600).turn() as turn:
    ...     if turn.due:
    ...         print("sends the report")
    sends the report
    """

    @property
    def lock(self) -> NativeGlobalLock:
        """The lock, which is held while the work is due.

        >>> with lockman.once("nightly-report", every=3600).turn() as turn:
        ...     turn.lock.is_locked
        True
        """
        return self._lock

    # What follows is called by the core, as that of a lock.

    def _enter(self, frame: FrameType, taken: "List[Any]") -> None:
        warn_in_a_loop(self.name)
        request, every = self._lock._lock_request(), self._every
        confirm(self._lock, request)
        native = self._begin(request)
        self._begun(frame, request, ask(native.begin(request, every), taken), taken)

    def _exit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self._runs.find(frame, leaving)
        acquisition = self._ended(leaving)
        if acquisition is None:
            return
        try:
            if not any(exception):
                ask(self._held(acquisition).succeed())
        finally:
            self._lock._give_back(acquisition)


def refuse_deferred(work: "Callable[..., Any]") -> None:
    """Refuses work whose call does nothing yet, so that it would be recorded without having been done."""
    if not callable(work):
        raise InvalidOption(f"the work is of type {type(work).__name__}, which cannot be called")
    if is_deferred(work, inspect.iscoroutinefunction):
        raise InvalidOption("the work is a coroutine function: use lockman.aio.once()")
    if is_deferred(work, inspect.isgeneratorfunction) or is_deferred(work, inspect.isasyncgenfunction):
        raise InvalidOption("the work is a generator function, whose call does nothing yet")
    if context_manager_maker(work) is not None:
        raise InvalidOption(f"the work {shown(work)} only makes a context manager, and runs nothing yet")
