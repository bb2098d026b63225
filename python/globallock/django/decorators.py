"""``@locked``, for management commands and for functions."""

from __future__ import annotations

import functools
import inspect
import sys
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Type, TypeVar, Union, overload

from django.core.management.base import CommandError, OutputWrapper

from ..base import GlobalLockManager
from ..decorators import Locked, Name, OnBusy
from ..deferred import shown
from ..exceptions import InvalidOption, NotLocked
from ..native import flag
from .managers import get_shared_global_lock_manager

if TYPE_CHECKING:
    from typing import Literal, Protocol

    from typing_extensions import ParamSpec, Unpack

    from ..options import LockOptions

    P = ParamSpec("P")

    class _Otherwise(Protocol):
        """Decorates what may return something else than its own results."""

        @overload
        def __call__(self, decorated: Type[C]) -> Type[C]: ...

        @overload
        def __call__(self, decorated: Callable[P, Any]) -> Callable[P, Any]: ...


__all__ = ["LOST", "Late", "locked"]

#: The exit status of a command whose lock was lost while it ran, as that of `globallock run`.
LOST = 76

F = TypeVar("F", bound="Union[Callable[..., Any], type]")
C = TypeVar("C")


@overload
def locked(name: Type[C]) -> Type[C]: ...  # type: ignore[overload-overlap]


@overload
def locked(  # type: ignore[overload-overlap]
    name: Name = None,
    *,
    exit_status: int = 0,
    on_busy: "Optional[Literal['raise']]" = None,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> "Callable[[F], F]": ...


@overload
def locked(
    name: Name = None,
    *,
    exit_status: int = 0,
    on_busy: OnBusy,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> "_Otherwise": ...


def locked(
    name: "Union[Name, Type[Any]]" = None,
    *,
    exit_status: int = 0,
    on_busy: Optional[OnBusy] = None,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> Any:
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
        For a function it may have fields of the arguments, or be a function that makes the name of them.
    :param exit_status: of a command that finds its lock taken; then ``call_command()`` raises
        ``CommandError``.
    :param on_busy: ``"raise"`` (:class:`~globallock.NotLocked`), ``"skip"`` (returns ``None``), or what is
        called with the same arguments, whose result is returned. Default: as above.
    :param cancel_on_loss: whether a coroutine function is cancelled when the lock ends, as by
        ``lockman.aio.lock()``.
    :param options: those of ``lock()``. The default is not to wait.
    :raises TypeError: what is decorated cannot hold a lock until it ends, such as another class; or a
        function is decorated without the parentheses of ``@locked()``.
    """
    if isinstance(name, type):
        # `@locked` without parentheses.
        return locked()(name)
    if isinstance(exit_status, bool) or not isinstance(exit_status, int) or not 0 <= exit_status <= 255:
        raise InvalidOption("the option exit_status is not a whole number from 0 to 255")
    flag("cancel_on_loss", cancel_on_loss)
    if isinstance(name, FunctionType) and _is_new(name, sys._getframe(1)):
        raise TypeError(
            f"{shown(name)} is decorated by @locked without parentheses, in which a function makes the "
            "name: write @locked()"
        )
    given = {"blocking": "blocking_timeout" in options, **options}
    late = Late(name, on_busy or "raise", given, cancel_on_loss)

    def decorate(decorated: Any) -> Any:
        if callable(name) and not callable(getattr(decorated, "__func__", decorated)):
            raise TypeError(f"{shown(name)} makes a name here. If it is to be locked, write @locked()")
        if isinstance(decorated, type):
            if callable(name):
                raise TypeError("a function makes the names of functions: give that of a command as a text")
            if cancel_on_loss:
                raise TypeError(
                    f"cancel_on_loss is for coroutine functions: nothing can cancel {shown(decorated)}"
                )
            return _command(decorated, name, exit_status, on_busy, given)
        if exit_status != 0:
            raise InvalidOption("the option exit_status is for classes of commands: a function has none")
        return late(decorated)

    return decorate


def _is_new(function: FunctionType, caller: FrameType) -> bool:
    """Whether a function is being defined just now, so that no variable has it yet.

    That tells a decorator without parentheses from one that is given a function for the name.
    """
    codes = [each for each in caller.f_code.co_consts if isinstance(each, CodeType)]
    # That of a function with type parameters is in a scope of its own.
    scopes = [each for each in codes if each.co_name.startswith("<generic parameters of ")]
    codes += [inner for scope in scopes for inner in scope.co_consts]
    made_by = getattr(inspect.unwrap(function), "__code__", None)
    if function.__name__ == "<lambda>" or not any(each is made_by for each in codes):
        return False
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    variables = [found, *caller.f_locals.values(), *caller.f_globals.values()]
    return not any(each is function for each in variables)


def _command(
    command: Any,
    name: Optional[str],
    exit_status: int,
    on_busy: Optional[OnBusy],
    options: "Mapping[str, Any]",
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

    def lock(self, name: str, **options: Unpack[LockOptions]) -> Any:
        return get_shared_global_lock_manager().lock(name, **options)

    @property
    def aio(self) -> Any:
        return get_shared_global_lock_manager().aio


class Late(Locked):
    """Makes functions hold a lock of the shared manager, which is not made when they are decorated."""

    def __init__(
        self, name: Name, on_busy: OnBusy, options: "Mapping[str, Any]", cancel_on_loss: bool = False
    ) -> None:
        # No store is needed to tell what is wrong in the options.
        super().__init__(GlobalLockManager("memory:"), name, on_busy, cancel_on_loss, options)
        shared: Any = _Shared()
        self._manager = shared
