"""The options of locks, for the checkers of types."""

from __future__ import annotations

from typing import Any, Optional, TypedDict, TypeVar

from .addresses import Seconds

__all__ = ["AllOptions", "AsyncAllOptions", "AsyncLockOptions", "LockOptions", "OnceOptions", "both"]


class _Options(TypedDict, total=False):
    timeout: Optional[Seconds]
    sleep: Optional[float]
    blocking: Optional[bool]
    lock_ttl: Optional[Seconds]
    grace: Optional[Seconds]
    hold_at_least: Optional[Seconds]
    auto_renew: bool
    renew_interval: Seconds
    thread_local: bool
    raise_on_release_error: bool


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
