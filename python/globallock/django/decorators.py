"""``@locked``, for management commands and for functions."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Optional, TypeVar, Union, cast

from asgiref.sync import iscoroutinefunction
from django.core.management.base import CommandError

from ..exceptions import InvalidOption
from .managers import get_shared_global_lock_manager
from .naming import Namer, OnBusy, busy, check_on_busy

__all__ = ["LOST", "locked"]

#: The exit status of a command whose lock was lost while it ran, as that of `globallock run`.
LOST = 76

T = TypeVar("T", bound=Callable[..., Any])


def locked(
    name: "Union[str, T, None]" = None,
    *,
    exit_status: int = 0,
    on_busy: Optional[OnBusy] = None,
    **options: Any,
) -> "Callable[[T], T]":
    """Makes a decorator: a command, function or view holds a lock while it runs.

    ::

        @locked(exit_status=75)
        class Command(BaseCommand): ...

        @locked("invoice/{number}", on_busy="skip")
        def send_invoice(number): ...

    A command that finds its lock taken says so and ends, with status 0 or ``exit_status``. A function raises
    :class:`~globallock.NotLocked`. The lock is ``self.global_lock`` in a command. A command whose lock was
    lost while it ran ends with status 76.

    For views, :func:`~globallock.django.locked_view` answers in place of an exception.

    :param name: the lock's name. Default: the module of a command, and the module and name of a function.
        For a function it may have fields of the arguments.
    :param exit_status: of a command that finds its lock taken; then ``call_command()`` raises
        ``CommandError``.
    :param on_busy: ``"raise"`` (:class:`~globallock.NotLocked`), ``"skip"`` (returns ``None``), or what is
        called with the same arguments, whose result is returned. Default: as above.
    :param options: those of ``lock()``. The default is not to wait.
    :raises TypeError: what is decorated cannot hold a lock until it ends: a generator, or another class.
    """
    if name is not None and not isinstance(name, str):
        # `@locked` without parentheses.
        return locked()(name)  # type: ignore[arg-type]
    if on_busy is not None:
        check_on_busy(on_busy)
    if isinstance(exit_status, bool) or not isinstance(exit_status, int) or not 0 <= exit_status <= 255:
        raise InvalidOption("the option exit_status is not a whole number from 0 to 255")
    options = {"blocking": "blocking_timeout" in options, **options}

    def decorate(decorated: T) -> T:
        if isinstance(decorated, type):
            return cast(T, _command(decorated, name, exit_status, on_busy, options))
        if exit_status != 0:
            raise InvalidOption("the option exit_status is for classes of commands: a function has none")
        return cast(T, _function(decorated, name, on_busy or "raise", options))

    return decorate


def _command(
    command: Any, name: Optional[str], exit_status: int, on_busy: Optional[OnBusy], options: "dict[str, Any]"
) -> Any:
    if not hasattr(command, "execute"):
        raise TypeError(f"{command.__qualname__} is no management command: it has no execute()")
    lock_name = name or command.__module__
    handle = command.execute

    @functools.wraps(handle)
    def execute(self: Any, *arguments: Any, **keywords: Any) -> Any:
        from . import get_default_global_lock_manager

        with get_default_global_lock_manager() as lockman, lockman.lock(lock_name, **options) as lock:
            if lock.is_locked:
                self.global_lock = lock
                result = handle(self, *arguments, **keywords)
                if not lock.is_locked:
                    text = f"the lock {lock_name} was lost while the command ran, so another may have run"
                    raise CommandError(text, returncode=LOST)
                return result
        if on_busy is not None:
            return busy(on_busy, lock_name, self, *arguments, **keywords)
        lately = "" if options.get("hold_at_least") is None else ", or was a short time ago"
        text = f"{lock_name} is running already{lately}"
        if exit_status != 0:
            raise CommandError(text, returncode=exit_status)
        self.stderr.write(text)
        return None

    command.execute = execute
    return command


def _function(function: Any, name: Optional[str], on_busy: OnBusy, options: "dict[str, Any]") -> Any:
    if not callable(function):
        raise TypeError(f"{function!r} cannot be called, so it cannot hold a lock while it runs")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator, which runs after its call has returned: take the lock "
            "inside of it, by `with`"
        )
    namer = Namer(name or f"{function.__module__}.{function.__qualname__}", function)

    if iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*arguments: Any, **keywords: Any) -> Any:
            lock_name = namer(arguments, keywords)
            async with get_shared_global_lock_manager().aio.lock(lock_name, **options) as lock:
                if lock.is_locked:
                    return await function(*arguments, **keywords)
            result = busy(on_busy, lock_name, *arguments, **keywords)
            return await result if inspect.isawaitable(result) else result

        return run_async

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        lock_name = namer(arguments, keywords)
        with get_shared_global_lock_manager().lock(lock_name, **options) as lock:
            if lock.is_locked:
                result = function(*arguments, **keywords)
                refuse_awaitable(function, result)
                return result
        return busy(on_busy, lock_name, *arguments, **keywords)

    return run


def refuse_awaitable(function: Any, result: Any) -> None:
    """Refuses work that has not begun when its function returns: it would run without the lock."""
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        close = getattr(result, "close", None)
        if close is not None:
            close()
        named = getattr(function, "__qualname__", function)
        raise TypeError(
            f"{named!s} returned a {type(result).__name__}, which would run after the lock is released: "
            "decorate the coroutine function itself"
        )
