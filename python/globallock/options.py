"""The options of locks, for the checkers of types."""

from __future__ import annotations

from typing import Any, Optional, TypedDict, TypeVar

from .addresses import Seconds

__all__ = [
    "AllOptions",
    "AsyncAllOptions",
    "AsyncLockOptions",
    "CacheOptions",
    "LockOptions",
    "OnceOptions",
    "OtherOptions",
    "both",
]


class _Accepted(TypedDict, total=False):
    auto_renew: bool
    renew_interval: Seconds
    thread_local: bool
    raise_on_release_error: bool


class OtherOptions(_Accepted, total=False):
    """The options of ``lock()`` that are no parameters of it."""

    #: ``"mutex"``, ``"read"``, ``"write"`` or ``"permits"``, for which there are ``rwlock()`` and
    #: ``semaphore()``.
    kind: str
    permits: int
    capacity: int


class _Options(_Accepted, total=False):
    timeout: Optional[Seconds]
    sleep: Optional[Seconds]
    blocking: Optional[bool]
    lock_ttl: Optional[Seconds]
    grace: Optional[Seconds]
    hold_at_least: Optional[Seconds]


class CacheOptions(TypedDict, total=False):
    """The options of the lock of a cache that are no parameters of redis-py's locks."""

    lock_ttl: Optional[Seconds]
    grace: Optional[Seconds]
    hold_at_least: Optional[Seconds]
    with_value: bool
    auto_renew: bool
    renew_interval: Seconds
    raise_on_release_error: bool
    #: Accepted, as that of redis-py, with this value only.
    lock_class: None


class AllOptions(_Options, total=False):
    """The options of each of several locks: see :meth:`GlobalLockManager.lock`."""

    with_value: bool


class OnceOptions(_Options, total=False):
    """The options of ``once()``: see :meth:`GlobalLockManager.lock`."""

    blocking_timeout: Optional[Seconds]


class LockOptions(OnceOptions, total=False):
    """The options of a lock: see :meth:`GlobalLockManager.lock`."""

    with_value: bool


class AsyncAllOptions(AllOptions, total=False):
    """The options of each of several locks for asyncio."""

    #: Whether the block is cancelled when a lock ends: see :meth:`AsyncLocks.lock`.
    cancel_on_loss: bool


class AsyncLockOptions(LockOptions, total=False):
    """The options of a lock for asyncio."""

    #: Whether the block is cancelled when its lock ends: see :meth:`AsyncLocks.lock`.
    cancel_on_loss: bool


Given = TypeVar("Given", LockOptions, AsyncLockOptions)


def both(first: Given, second: Given) -> Given:
    """Puts options together; the second ones win."""
    options: Any = {**first, **second}
    merged: Given = options
    return merged
