"""``@locked``, for management commands and for functions."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional, TypeVar, Union, cast

from django.core.management.base import CommandError, OutputWrapper

from ..base import GlobalLockManager
from ..decorators import Locked, Name, OnBusy
from ..exceptions import InvalidOption, NotLocked
from .managers import get_shared_global_lock_manager

__all__ = ["LOST", "Late", "locked"]

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
    :raises TypeError: what is decorated cannot hold a lock until it ends, such as another class.
    """
    if name is not None and not isinstance(name, str):
        # `@locked` without parentheses.
        return locked()(name)  # type: ignore[arg-type]
    if isinstance(exit_status, bool) or not isinstance(exit_status, int) or not 0 <= exit_status <= 255:
        raise InvalidOption("the option exit_status is not a whole number from 0 to 255")
    options = {"blocking": "blocking_timeout" in options, **options}
    late = Late(name, on_busy or "raise", options)

    def decorate(decorated: T) -> T:
        if isinstance(decorated, type):
            return cast(T, _command(decorated, name, exit_status, on_busy, options))
        if exit_status != 0:
            raise InvalidOption("the option exit_status is for classes of commands: a function has none")
        return cast(T, late(decorated))

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
        if callable(on_busy):
            return on_busy(self, *arguments, **keywords)
        if on_busy is not None:
            if on_busy == "raise":
                raise NotLocked(lock_name)
            return None
        lately = "" if options.get("hold_at_least") is None else ", or was a short time ago"
        text = f"{lock_name} is running already{lately}"
        if exit_status != 0:
            raise CommandError(text, returncode=exit_status)
        # `call_command(stderr=…)` has not reached the command yet.
        given = keywords.get("stderr")
        (self.stderr if given is None else OutputWrapper(given)).write(text)
        return None

    command.execute = execute
    return command


class _Shared:
    """The shared manager, looked up when a lock is made: the settings may change after the decoration."""

    def lock(self, name: str, **options: Any) -> Any:
        return get_shared_global_lock_manager().lock(name, **options)

    @property
    def aio(self) -> Any:
        return get_shared_global_lock_manager().aio


class Late(Locked):
    """Makes functions hold a lock of the shared manager, which is not made when they are decorated."""

    def __init__(self, name: Name, on_busy: OnBusy, options: "dict[str, Any]") -> None:
        # No store is needed to tell what is wrong in the options.
        super().__init__(GlobalLockManager("memory:"), name, on_busy, False, options)
        shared: Any = _Shared()
        self._manager = shared
