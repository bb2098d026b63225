"""``@locked_view``: a view that answers 409 while another request has its lock."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Iterator, Mapping, Optional, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import connections, transaction
from django.http import FileResponse, HttpResponse

from ..base import GlobalLockManager
from ..decorators import refuse_unfinished
from ..exceptions import InvalidOption
from .managers import get_shared_global_lock_manager

__all__ = ["locked_view"]

V = TypeVar("V", bound=Callable[..., Any])


def locked_view(
    name: Optional[str] = None,
    *,
    on_busy: "Optional[Callable[..., Any]]" = None,
    retry_after: int = 1,
    **options: Any,
) -> "Callable[[V], V]":
    """Makes a decorator for views: a request that finds the lock taken is answered 409, with Retry-After.

    ::

        @locked_view("checkout/{request.user.pk}", blocking_timeout=2)
        def checkout(request): ...

        @method_decorator(locked_view("import"), name="dispatch")
        class Import(View): ...

    The view finds the lock in ``request.global_lock``. With ``ATOMIC_REQUESTS`` the transaction of the
    request is committed before the lock is released.

    :param name: the lock's name, which may have the fields ``request`` and what the address contains.
        Default: the view's module and name.
    :param on_busy: called with the arguments of the view, to make the answer. Default: 409.
    :param retry_after: the seconds in the header of that answer.
    :param options: those of ``lock()``. The default is not to wait.
    :raises TypeError: the view returned an answer that is made after the lock is released.
    """
    if callable(name):
        # `@locked_view` without parentheses.
        return locked_view()(name)
    if on_busy is not None and not callable(on_busy):
        raise InvalidOption(f"on_busy is {on_busy!r}: give a callable that takes what the view takes")
    if isinstance(retry_after, bool) or not isinstance(retry_after, int) or retry_after < 0:
        raise InvalidOption("the option retry_after is not a whole number of seconds from 0 on")
    options = {"blocking": "blocking_timeout" in options, **options}
    # No store is needed to tell what is wrong in the options.
    GlobalLockManager("memory:").lock("any", **options)

    def refuse(request: Any, *arguments: Any, **keywords: Any) -> Any:
        if on_busy is not None:
            return on_busy(request, *arguments, **keywords)
        text = "Another request is doing this at the moment. Try again in a moment.\n"
        answer = HttpResponse(text, status=409, content_type="text/plain; charset=utf-8")
        answer["Retry-After"] = str(retry_after)
        return answer

    def decorate(view: V) -> V:
        if isinstance(view, type):
            raise TypeError(
                f"{view.__qualname__} is a class: write @method_decorator(locked_view(…), name='dispatch')"
            )

        async def answer_async(request: Any, *arguments: Any, **keywords: Any) -> Any:
            wanted = _name(name or _label(view), request, arguments, keywords)
            async with get_shared_global_lock_manager().aio.lock(wanted, **options) as lock:
                if lock.is_locked:
                    request.global_lock = lock
                    return _made(view, await view(request, *arguments, **keywords))
            answer = refuse(request, *arguments, **keywords)
            return await answer if inspect.isawaitable(answer) else answer

        def answer(request: Any, *arguments: Any, **keywords: Any) -> Any:
            if _is_async(view):
                # The `dispatch` of a class with asynchronous handlers returns what is to be awaited.
                _refuse_atomic(view)
                return answer_async(request, *arguments, **keywords)
            wanted = _name(name or _label(view), request, arguments, keywords)
            with get_shared_global_lock_manager().lock(wanted, **options) as lock:
                if lock.is_locked:
                    request.global_lock = lock
                    return _made(view, _committed(view)(request, *arguments, **keywords))
            return refuse(request, *arguments, **keywords)

        made: Any = functools.wraps(view)(answer_async if iscoroutinefunction(view) else answer)
        if not iscoroutinefunction(view):
            # The transaction is begun here, inside of the lock, so that it ends before the lock is released.
            made._non_atomic_requests = _All()
        return made  # type: ignore[no-any-return]

    return decorate


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

    The signature of a view tells nothing, because most are wrapped: ``request`` has that name, and what the
    address contains has its own, or a number from 0 on.
    """
    try:
        return template.format(*arguments, request=request, **keywords)
    except (KeyError, IndexError) as error:
        known = ", ".join(["request", *keywords])
        text = f"the lock {template!r} names {error.args[0]!r}; the view is given: {known}"
        raise InvalidOption(text) from None


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
