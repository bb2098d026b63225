"""Tells what is still to be done after a function has returned."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Callable, Optional

__all__ = [
    "begins_later",
    "context_manager_maker",
    "function_of",
    "is_deferred",
    "refuse_unfinished",
    "shown",
    "unfinished",
]


@contextlib.contextmanager
def _sync() -> "Iterator[None]":
    yield


@contextlib.asynccontextmanager
async def _async() -> "AsyncIterator[None]":
    yield


#: What ``@contextmanager`` and ``@asynccontextmanager`` make: their functions, and what these return. Each
#: of their functions runs the same code, so that says by which one it was made.
_MAKERS: "dict[Any, str]" = {
    getattr(_sync, "__code__", None): "contextmanager",
    getattr(_async, "__code__", None): "asynccontextmanager",
}
_MADE = (type(_sync()), type(_async()))


def shown(function: Any) -> str:
    """The name of a function in a message."""
    function = function_of(function)
    return f"{getattr(function, '__qualname__', type(function).__name__)}()"


def function_of(function: Any) -> Any:
    """The function of a ``partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_deferred(function: Any, kind: "Callable[[Any], bool]") -> bool:
    """Whether a function, or an object that is called, is of a kind such as ``iscoroutinefunction``."""
    return kind(function) or (not inspect.isroutine(function) and kind(type(function).__call__))


def begins_later(function: Any) -> bool:
    """Whether a call does nothing yet: of a coroutine function, or of a generator function of either kind."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_deferred(function, kind) for kind in kinds)


def context_manager_maker(function: Any) -> Optional[str]:
    """Which decorator has made a function whose call only makes a context manager, if one has."""
    code: Any = getattr(function_of(function), "__code__", None)
    return None if code is None else _MAKERS.get(code)


def unfinished(value: Any) -> Optional[str]:
    """What a value is whose work is still to be done; ``None`` if it is whole.

    What can be stopped is stopped. An iterator that can be closed, such as a file or a cursor of a database,
    is no work but a resource.
    """
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine"
    if isinstance(value, (asyncio.Future, concurrent.futures.Future)):
        value.cancel()
        return f"a {type(value).__name__}"
    if inspect.isgenerator(value):
        value.close()
        return "a generator"
    if inspect.isasyncgen(value):
        return "an async generator"
    if isinstance(value, _MADE):
        return "a context manager"
    if inspect.isawaitable(value):
        return f"an awaitable {type(value).__name__}"
    if isinstance(value, Iterator) and not hasattr(value, "close"):
        return f"an iterator of the type {type(value).__name__}"
    if isinstance(value, AsyncIterator) and not (hasattr(value, "aclose") or hasattr(value, "close")):
        return f"an async iterator of the type {type(value).__name__}"
    return None


def refuse_unfinished(function: Any, value: Any) -> Any:
    """Refuses a value whose work is still to be done, without the lock."""
    what = unfinished(value)
    if what is not None:
        raise TypeError(
            f"{shown(function)} has returned {what}, whose work would be done without the lock: decorate the "
            "function that does it, or return what comes of it, such as a list"
        )
    return value
