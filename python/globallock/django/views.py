"""``@locked_view``: a view that answers 409 while another request has its lock."""

from __future__ import annotations

import functools
import inspect
import math
import string
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Mapping, Optional, TypeVar, Union, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import BadRequest, SynchronousOnlyOperation
from django.db import connections, transaction
from django.http import FileResponse, HttpResponse

from ..addresses import Seconds, lock_name, seconds, suggestion
from ..base import GlobalLockManager
from ..deferred import refuse_unfinished
from ..exceptions import InvalidName, InvalidOption
from ..native import flag
from .managers import get_shared_global_lock_manager

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options import LockOptions

__all__ = ["locked_view"]

V = TypeVar("V", bound=Callable[..., Any])


@overload
def locked_view(
    name: Optional[str] = None,
    *,
    on_busy: "Optional[Callable[..., Any]]" = None,
    retry_after: Seconds = 1,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> "Callable[[V], V]": ...


@overload
def locked_view(name: V) -> V: ...


def locked_view(
    name: "Union[str, Callable[..., Any], None]" = None,
    *,
    on_busy: "Optional[Callable[..., Any]]" = None,
    retry_after: Seconds = 1,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> Any:
    """Makes a decorator for views: a request that finds the lock taken is answered 409, with Retry-After.

    ::

        @locked_view("checkout/{request.user.pk}", blocking_timeout=2)
        def checkout(request): ...

        @method_decorator(locked_view("import"), name="dispatch")
        class Import(View): ...

    The view finds the lock in ``request.global_lock``. With ``ATOMIC_REQUESTS`` the transaction of the
    request is committed before the lock is released. A request whose address makes a name that no lock can
    have, such as one of 600 bytes, is answered 400.

    :param name: the lock's name, which may have the fields ``request`` and what the address contains.
        Default: the view's module and name.
    :param on_busy: called with the arguments of the view, to make the answer. Default: 409.
    :param retry_after: the time in the header of that answer, which has whole seconds.
    :param cancel_on_loss: whether an asynchronous view is cancelled when the lock ends, as by
        ``lockman.aio.lock()``: then :class:`~globallock.LockLost` is raised, which Django answers with 500.
    :param options: those of ``lock()``. The default is not to wait.
    :raises TypeError: the view returned an answer that is made after the lock is released.
    """
    if callable(name):
        if on_busy is not None or retry_after != 1 or cancel_on_loss or options:
            raise TypeError(_NO_NAME)
        # `@locked_view` without parentheses.
        return locked_view()(name)
    if on_busy is not None and not callable(on_busy):
        raise InvalidOption(f"on_busy is {on_busy!r}: give a callable that takes what the view takes")
    header = str(math.ceil(seconds("retry_after", retry_after)))
    flag("cancel_on_loss", cancel_on_loss)
    fields = [] if name is None else _fields(lock_name(name))
    given: Any = {"blocking": "blocking_timeout" in options, **options}
    # No store is needed to tell what is wrong in the options.
    GlobalLockManager("memory:").lock("any", **given)

    def refuse(request: Any, *arguments: Any, **keywords: Any) -> Any:
        if on_busy is not None:
            return on_busy(request, *arguments, **keywords)
        text = "Another request is doing this at the moment. Try again in a moment.\n"
        answer = HttpResponse(text, status=409, content_type="text/plain; charset=utf-8")
        answer["Retry-After"] = header
        return answer

    def decorate(view: V) -> V:
        if isinstance(view, type):
            raise TypeError(
                f"{view.__qualname__} is a class: write @method_decorator(locked_view(…), name='dispatch')"
            )
        if fields:
            _refuse_unknown(str(name), fields, view)
        if cancel_on_loss and not _is_async(view) and not _takes_anything(view):
            raise TypeError(_not_cancelled(view))

        async def answer_async(request: Any, *arguments: Any, **keywords: Any) -> Any:
            if callable(request):
                raise TypeError(_NO_NAME)
            wanted = await _name_async(name or _label(view), request, arguments, keywords)
            lockman, is_granted = get_shared_global_lock_manager().aio, False
            try:
                async with lockman.lock(wanted, cancel_on_loss=cancel_on_loss, **given) as lock:
                    is_granted = lock.is_locked
                    if is_granted:
                        request.global_lock = lock
                        return _made(view, await view(request, *arguments, **keywords))
            except InvalidName as error:
                if is_granted or not fields:
                    raise
                # The request has a part in the name.
                raise BadRequest(_BAD) from error
            answer = refuse(request, *arguments, **keywords)
            return await answer if inspect.isawaitable(answer) else answer

        def answer(request: Any, *arguments: Any, **keywords: Any) -> Any:
            if callable(request):
                raise TypeError(_NO_NAME)
            if _is_async(view):
                # The `dispatch` of a class with asynchronous handlers returns what is to be awaited.
                _refuse_atomic(view)
                return answer_async(request, *arguments, **keywords)
            if cancel_on_loss:
                raise TypeError(_not_cancelled(view))
            wanted = _name(name or _label(view), request, arguments, keywords)
            is_granted = False
            try:
                with get_shared_global_lock_manager().lock(wanted, **given) as lock:
                    is_granted = lock.is_locked
                    if is_granted:
                        request.global_lock = lock
                        return _made(view, _committed(view)(request, *arguments, **keywords))
            except InvalidName as error:
                if is_granted or not fields:
                    raise
                raise BadRequest(_BAD) from error
            return refuse(request, *arguments, **keywords)

        made: Any = functools.wraps(view)(answer_async if iscoroutinefunction(view) else answer)
        if not iscoroutinefunction(view):
            # The transaction is begun here, inside of the lock, so that it ends before the lock is released.
            made._non_atomic_requests = _All()
        return made  # type: ignore[no-any-return]

    return decorate


_BAD = "what is requested cannot be the name of a lock"
_NO_NAME = "a function is no name of a view's lock: give the name as a text, with fields of the address"


def _not_cancelled(view: Any) -> str:
    return f"cancel_on_loss is for asynchronous views: nothing can cancel {_label(view)}"


def _plain(view: Any) -> Any:
    """The bound method of a class-based view, of which `method_decorator` gives a partial."""
    while isinstance(view, functools.partial):
        view = view.func
    return view


def _label(view: Any) -> str:
    """The name of a view. Inherited methods and `as_view()` have that of their class: they share theirs."""
    instance = getattr(_plain(view), "__self__", None)
    named = getattr(view, "view_class", None) or (view if instance is None else type(instance))
    return f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"


def _name(
    template: str, request: Any, arguments: "tuple[Any, ...]", keywords: "Mapping[str, Any]"
) -> str:
    """Makes the name of a view's lock from what Django gives to the view.

    ``request`` has that name, whatever the view calls it. What the address contains has its own name, or a
    number from 0 on.
    """
    try:
        return template.format(*arguments, request=request, **keywords)
    except (KeyError, IndexError) as error:
        known = ", ".join(["request", *keywords])
        text = f"the lock {template!r} names {error.args[0]!r}; the view is given: {known}"
        raise InvalidOption(text) from None
    except AttributeError as error:
        raise InvalidOption(f"the lock {template!r} cannot be named: {error}") from error


async def _name_async(template: str, *given: Any) -> str:
    try:
        return _name(template, *given)
    except SynchronousOnlyOperation:
        # Such as `request.user`, which is read from the database when it is first asked for.
        return await sync_to_async(_name)(template, *given)


def _fields(template: str) -> "List[str]":
    """The fields of a name, each without what follows a dot or a bracket in it."""
    try:
        parsed = [each for _, each, _, _ in string.Formatter().parse(template) if each is not None]
    except ValueError as error:
        raise InvalidOption(f"the lock {template!r} is no format ({error}): write {{{{ for a brace") from None
    found = [each.split(".")[0].split("[")[0] for each in parsed]
    if "" in found:
        raise InvalidOption(f"the lock {template!r} has a field that has no name: write {{{{}}}} for braces")
    return found


def _parameters(view: Any) -> "List[inspect.Parameter]":
    """What a view itself takes. What it wraps may be given something else."""
    try:
        return list(inspect.signature(view, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return []


def _takes_anything(view: Any) -> bool:
    """Whether a view does not show what it takes, such as what Django decorates in place of a method."""
    parameters = _parameters(view)
    return not parameters or any(each.kind is each.VAR_KEYWORD for each in parameters)


def _refuse_unknown(template: str, fields: "List[str]", view: Any) -> None:
    """Refuses fields that a view cannot be given, where it shows what it takes."""
    if _takes_anything(view):
        return
    # The first is the request.
    parameters = _parameters(view)[1:]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    places = sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = ["request", *(each.name for each in parameters if each.kind in by_name)]
    for field in fields:
        if field in known or (field.isdigit() and (takes_more or int(field) < places)):
            continue
        text = f"the lock {template!r} names {field!r}; the view is given: {', '.join(known)}"
        raise InvalidOption(f"{text}{suggestion(field, known)}")


class _All(set):  # type: ignore[type-arg]
    """The databases for which Django begins no transaction around the view: all of them."""

    def __contains__(self, _: object) -> bool:
        return True


def _committed(view: Any) -> Any:
    """The view in the transactions that Django would have begun around it."""
    plain: Any = getattr(view, "_non_atomic_requests", set())
    for alias in _atomic_requests():
        if alias not in plain:
            view = transaction.atomic(using=alias)(view)
    return view


def _atomic_requests() -> "Iterator[str]":
    for alias, given in connections.settings.items():
        if given["ATOMIC_REQUESTS"]:
            yield alias


def _is_async(view: Any) -> bool:
    """Whether a view returns what is to be awaited; of a class-based one, its ``dispatch`` does."""
    plain = _plain(view)
    instance = getattr(plain, "__self__", None)
    return iscoroutinefunction(plain) or bool(getattr(instance, "view_is_async", False))


def _refuse_atomic(view: Any) -> None:
    """Refuses what Django refuses, and would not see through the lock."""
    plain: Any = getattr(view, "_non_atomic_requests", set())
    for alias in _atomic_requests():
        if alias not in plain:
            text = f"{_label(view)} is asynchronous: ATOMIC_REQUESTS of the database {alias!r} is not for it"
            raise RuntimeError(text)


def _made(view: Any, response: Any) -> Any:
    """The response, unless its body would be made after the lock is released."""
    refuse_unfinished(view, response)
    if getattr(response, "streaming", False) and not isinstance(response, FileResponse):
        response.close()
        raise TypeError(
            f"{_label(view)} returned a {type(response).__name__}, whose body is made after the lock is "
            "released: take the lock inside of its iterator, or answer with a whole body"
        )
    return response
