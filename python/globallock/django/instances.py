"""Locks for one row each: a name is made from the model and the primary key of an instance."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, overload
from urllib.parse import quote

from ..decorators import OnBusy
from ..exceptions import InvalidName
from ..native import flag
from .decorators import Late
from .managers import get_shared_global_lock_manager

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import ParamSpec, Unpack

    from ..native import NativeGlobalLock
    from ..options import LockOptions

    P = ParamSpec("P")

__all__ = ["instance_name", "lock_instance", "locked_instance"]

F = TypeVar("F", bound=Callable[..., Any])


def instance_name(instance: Any, pk: Any = None, *, using: Optional[str] = None) -> str:
    """Returns the name of the lock of a row, such as ``shop.order/7``.

    ::

        instance_name(order)  # or, before the row is read:
        instance_name(Order, pk=7)

    Proxies of a model have its name, and models that inherit its table have that of the model at the top.
    The database is not part of the name, because a row that was read from a replica is the row that is
    written to the primary.

    :param using: the alias of a database, for rows of the same key that are different rows (shards): it
        becomes part of the name, ``shop.order/7@east``.
    :raises InvalidName: the instance is not saved, so that it has no row, or is no instance of a model.
    """
    meta = getattr(instance, "_meta", None)
    if meta is None:
        raise InvalidName(f"a {type(instance).__name__} is no model and no instance of one")
    meta = meta.concrete_model._meta
    if isinstance(instance, type):
        if pk is None:
            raise InvalidName(f"the model {meta.label} names no row: give pk as well")
    elif pk is not None:
        raise InvalidName(f"the instance of {meta.label} has its own primary key: give no pk")
    elif instance.pk is None or instance._state.adding:
        raise InvalidName(
            f"this {meta.label} is not saved yet, so no other process can mean it: save it first, "
            f"or lock a name of your own"
        )
    else:
        pk = instance.pk
    key = _key(meta, pk)
    while meta.pk.remote_field is not None and getattr(meta.pk.remote_field, "parent_link", False):
        meta = meta.pk.remote_field.model._meta.concrete_model._meta
    return f"{meta.label_lower}/{key}" + ("" if using is None else f"@{using}")


def _key(meta: Any, pk: Any) -> str:
    """The primary key as a text, in one form only: ``7`` and ``"7"`` are the same row."""
    parts = getattr(meta, "pk_fields", [meta.pk])
    values = pk if isinstance(pk, (tuple, list)) else (pk,)
    if len(parts) != len(values) or None in values:
        raise InvalidName(f"{pk!r} is no whole primary key of {meta.label}")
    texts = [str(field.to_python(value)) for field, value in zip(parts, values)]
    # What could be read as two parts, or as a database, is escaped.
    return ",".join(quote(text, safe=" -_.~:") for text in texts)


def lock_instance(
    instance: Any, pk: Any = None, *, using: Optional[str] = None, **options: Unpack[LockOptions]
) -> NativeGlobalLock:
    """Makes the lock of a row; sends nothing to the store yet.

    ::

        with lock_instance(Order, pk=7, blocking_timeout=5) as lock:
            if lock.is_locked:
                order = Order.objects.get(pk=7)  # read under the lock

    An instance that was read before its lock was granted may be stale: read it again, and take the lock
    outside of ``transaction.atomic()``, so that the row is committed before the lock is released.

    :param instance: a saved instance; or a model, with ``pk``.
    :param using: see :func:`instance_name`.
    :param options: those of ``lock()``.
    """
    return get_shared_global_lock_manager().lock(instance_name(instance, pk, using=using), **options)


@overload
def locked_instance(
    *,
    on_busy: "Literal['raise']" = "raise",
    refresh: bool = False,
    using: Optional[str] = None,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> "Callable[[F], F]": ...


@overload
def locked_instance(
    *,
    on_busy: OnBusy,
    refresh: bool = False,
    using: Optional[str] = None,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> "Callable[[Callable[P, Any]], Callable[P, Any]]": ...


def locked_instance(
    *,
    on_busy: OnBusy = "raise",
    refresh: bool = False,
    using: Optional[str] = None,
    cancel_on_loss: bool = False,
    **options: Unpack[LockOptions],
) -> Any:
    """Makes a decorator for methods of a model: they run under the lock of their row.

    ::

        class Order(Model):
            @locked_instance(blocking_timeout=5, refresh=True)
            def ship(self): ...

    It is for functions too whose first argument is the instance.

    :param on_busy: ``"raise"`` (:class:`~globallock.NotLocked`), ``"skip"`` (returns ``None``), or what is
        called with the same arguments, whose result is returned.
    :param refresh: whether the instance is read again under the lock, which drops its unsaved changes.
    :param using: see :func:`instance_name`.
    :param cancel_on_loss: whether a coroutine function is cancelled when the lock ends, as by
        ``lockman.aio.lock()``.
    :param options: those of ``lock()``. The default is not to wait.
    """
    flag("cancel_on_loss", cancel_on_loss)
    given = {"blocking": "blocking_timeout" in options, **options}

    def name(instance: Any, *_: Any, **__: Any) -> str:
        return instance_name(instance, using=using)

    late = Late(name, on_busy, given, cancel_on_loss)

    def decorate(method: Any) -> Any:
        return late(_refreshed(method) if refresh else method)

    return decorate


def _refreshed(method: Any) -> Any:
    """The method, which reads its instance again first."""
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        text = f"{method.__qualname__} is a generator: read the instance again in it, and leave refresh out"
        raise TypeError(text)
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def run_async(instance: Any, *arguments: Any, **keywords: Any) -> Any:
            await instance.arefresh_from_db()
            return await method(instance, *arguments, **keywords)

        return run_async

    @functools.wraps(method)
    def run(instance: Any, *arguments: Any, **keywords: Any) -> Any:
        instance.refresh_from_db()
        return method(instance, *arguments, **keywords)

    return run
