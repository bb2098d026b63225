"""Functions that hold a lock while they run."""

from __future__ import annotations

import dis
import functools
import inspect
import logging
import sys
import types
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, AsyncGenerator, Callable, Dict, Mapping, Tuple, Union

from .addresses import lock_name
from .deferred import begins_later, context_manager_maker, is_deferred, refuse_unfinished, shown, unfinished
from .exceptions import InvalidOption, NotLocked
from .naming import Name, namer

if TYPE_CHECKING:
    from .aio import AsyncLock
    from .base import GlobalLockManager

__all__ = ["Locked", "Name", "OnBusy", "namer"]

_logger = logging.getLogger("globallock.base")

#: What happens where the lock is not granted: ``"raise"``, ``"skip"``, or a function that is called instead.
OnBusy = Union[str, Callable[..., Any]]

_Arguments = Tuple[Any, ...]
_Keywords = Dict[str, Any]


class Locked:
    """Makes functions hold a lock from their beginning to their end; see ``GlobalLockManager.locked()``."""

    def __init__(
        self,
        manager: GlobalLockManager,
        name: Name,
        on_busy: OnBusy,
        cancel_on_loss: bool,
        options: Mapping[str, Any],
        is_async: bool = False,
    ) -> None:
        if on_busy not in ("raise", "skip") and not callable(on_busy):
            raise InvalidOption("the option on_busy is neither 'raise' nor 'skip' nor a function")
        refuse_bare(name)
        self._manager, self._name, self._on_busy = manager, name, on_busy
        self._cancel_on_loss, self._options, self._is_async = cancel_on_loss, dict(options), is_async
        # What is wrong in the name or the options is told here, and not at the first call.
        if name is not None and not callable(name):
            lock_name(name)
        manager.lock("any", **self._options)

    def __call__(self, function: Any) -> Any:
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self(function.__func__))
        if isinstance(function, type):
            return self._command(function)
        if not callable(function):
            raise TypeError(f"a lock cannot be held by a {type(function).__name__}: decorate a function")
        maker = context_manager_maker(function)
        if maker is not None:
            raise TypeError(
                f"{shown(function)} only makes a context manager, whose block would run without the lock: "
                f"put @{maker} above @locked"
            )
        wrap = self._of_function
        if is_deferred(function, inspect.iscoroutinefunction):
            wrap = self._of_coroutine
        elif is_deferred(function, inspect.isasyncgenfunction):
            wrap = self._of_async_generator
        elif self._is_async:
            raise TypeError(f"{shown(function)} is no coroutine function: use lockman.locked()")
        elif is_deferred(function, inspect.isgeneratorfunction):
            wrap = self._of_generator
        if self._cancel_on_loss and wrap != self._of_coroutine:
            raise TypeError(
                f"cancel_on_loss is for coroutine functions: nothing can cancel {shown(function)}"
            )
        self._refuse_instead(function, wrap)
        return wrap(function, namer(function, self._name))

    def _refuse_instead(self, function: Any, wrap: Any) -> None:
        """Refuses an ``on_busy`` whose value nobody would await."""
        instead = self._on_busy
        if isinstance(instead, str) or wrap == self._of_async_generator:
            return
        if is_deferred(instead, inspect.isasyncgenfunction):
            raise TypeError(f"on_busy is an async generator function, and {shown(function)} is none")
        if wrap != self._of_coroutine and is_deferred(instead, inspect.iscoroutinefunction):
            raise TypeError(
                f"on_busy is a coroutine function, and {shown(function)} is none: nobody would await it"
            )

    def _command(self, command: type) -> type:
        """Has the commands of a class, such as one of Django's, hold the lock."""
        execute = inspect.getattr_static(command, "execute", None)
        if not isinstance(execute, (types.FunctionType, staticmethod, classmethod)):
            raise TypeError(
                f"{command.__name__} has no method execute(): decorate the methods that need the lock"
            )
        name = self._name or f"{command.__module__}.{command.__qualname__}"
        decorate = Locked(
            self._manager, name, self._on_busy, self._cancel_on_loss, self._options, self._is_async
        )
        command.execute = decorate(execute)  # type: ignore[attr-defined]
        return command

    def _of_function(self, function: "Callable[..., Any]", name: "Callable[..., str]") -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            named = name(args, kwargs)
            with self._manager.lock(named, **self._options) as lock:
                if lock.is_locked:
                    return refuse_unfinished(function, function(*args, **kwargs))
            instead = self._busy(named, function, args, kwargs)
            if inspect.isawaitable(instead):
                raise _unfit(function, instead)
            return instead

        return run

    def _of_generator(self, function: "Callable[..., Any]", name: "Callable[..., str]") -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            named = name(args, kwargs)
            with self._manager.lock(named, **self._options) as lock:
                if lock.is_locked:
                    return (yield from function(*args, **kwargs))
            instead = self._busy(named, function, args, kwargs)
            if instead is None:
                return None
            if not _gives_values(instead):
                raise _unfit(function, instead)
            return (yield from instead)

        return run

    def _of_coroutine(self, function: "Callable[..., Any]", name: "Callable[..., str]") -> Any:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            named = name(args, kwargs)
            async with self._new_async(named) as lock:
                if lock.is_locked:
                    return refuse_unfinished(function, await function(*args, **kwargs))
            instead = self._busy(named, function, args, kwargs)
            return await instead if inspect.isawaitable(instead) else instead

        return run

    def _of_async_generator(self, function: "Callable[..., Any]", name: "Callable[..., str]") -> Any:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> "AsyncGenerator[Any, Any]":
            named = name(args, kwargs)
            async with self._new_async(named) as lock:
                is_locked = lock.is_locked
                if is_locked:
                    # There is no `yield from` for these: what is sent and thrown is passed on here.
                    inner = function(*args, **kwargs)
                    try:
                        value = await inner.__anext__()
                        while True:
                            try:
                                sent = yield value
                            except GeneratorExit:
                                raise
                            except BaseException as error:  # noqa: BLE001 - the body decides about it
                                value = await inner.athrow(error)
                            else:
                                value = await inner.asend(sent)
                    except StopAsyncIteration:
                        pass
                    finally:
                        await inner.aclose()
            if not is_locked:
                instead = self._busy(named, function, args, kwargs)
                if inspect.isawaitable(instead):
                    instead = await instead
                if isinstance(instead, AsyncIterable):
                    async for value in instead:
                        yield value
                elif _gives_values(instead):
                    for value in instead:
                        yield value
                elif instead is not None:
                    raise _unfit(function, instead)

        return run

    def _new_async(self, name: str) -> AsyncLock:
        return self._manager.aio.lock(name, cancel_on_loss=self._cancel_on_loss, **self._options)

    def _busy(self, name: str, function: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        if callable(self._on_busy):
            return self._on_busy(*args, **kwargs)
        if self._on_busy == "raise":
            raise NotLocked(name)
        _logger.info("lock %r was not granted, so %s is skipped", name, shown(function))
        return None


def _gives_values(instead: Any) -> bool:
    # A text would give its letters, and a future is iterable, too.
    is_other = isinstance(instead, (str, bytes)) or inspect.isawaitable(instead)
    return isinstance(instead, Iterable) and not is_other


def _unfit(function: Any, instead: Any) -> TypeError:
    """Makes the error for a value of ``on_busy`` that the function cannot give instead of its own."""
    unfinished(instead)
    return TypeError(f"on_busy gave a {type(instead).__name__}, which {shown(function)} cannot give instead")


def refuse_bare(name: Any) -> None:
    """Refuses what is decorated in the place of the name, as where the parentheses are missing."""
    if isinstance(name, (type, staticmethod, classmethod, property)) or _is_decorated(name):
        shown_as = getattr(name, "__name__", type(name).__name__)
        raise TypeError(f"locked() was given {shown_as} in the place of a name: write @….locked()")
    if callable(name) and begins_later(name):
        raise TypeError(f"{shown(name)} cannot name a lock: it returns no text")


def _is_decorated(name: Any) -> bool:
    """Whether a function is passed by its own definition, so that it has no name yet where it is defined."""
    function = inspect.unwrap(name) if callable(name) else None
    if not isinstance(function, types.FunctionType) or function.__name__ == "<lambda>":
        return False
    frame: Any = sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename != function.__code__.co_filename:
        return False
    # The line of a decorator is within its function, and a call that is given the function is below it.
    first = function.__code__.co_firstlineno
    last = max((line for _, line in dis.findlinestarts(function.__code__) if line), default=first)
    is_within = first <= frame.f_lineno <= last and frame.f_code is not function.__code__
    if not is_within:
        return False
    bound = [space.get(function.__name__) for space in (frame.f_locals, frame.f_globals)]
    return not any(each is name or each is function for each in bound)
