"""Distributed locks for many processes and hosts, in Redis, etcd, ZooKeeper, or a directory.

>>> with GlobalLockManager("memory:shop") as lockman:
...     with lockman.hold("nightly-report", blocking_timeout=5):
...         print("writes the report")
writes the report

In the examples of the docstrings ``lockman`` is a manager whose store is empty. The names of this package are
imported, and so are ``asyncio``, ``os``, ``queue``, ``threading`` and ``timedelta``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from . import _interpreter as _interpreter
from ._rust import __version__
from .base import GlobalLockImplementationBase, GlobalLockManager
from .config import Config
from .constants import (
    DATABASE_GLOBAL_LOCK_CLASS,
    DJANGO_REDIS_GLOBAL_LOCK_CLASS,
    ETCD_GLOBAL_LOCK_CLASS,
    REDIS_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
)
from .exceptions import (
    Evicted,
    GlobalLockClassNotFoundException,
    GlobalLockError,
    HeldTooLong,
    InvalidAddress,
    InvalidName,
    InvalidOption,
    LockLost,
    Loss,
    NotLocked,
    Reason,
    StaleToken,
    StoreDenied,
    StoreUnavailable,
    StoreUnfit,
)
from .kinds import AllLocks, ReadWriteLock
from .native import Claim, NativeGlobalLock, Value
from .once import Once, Ran, Turn
from .onlooker import AsyncWatch, Summary, Watch
from .options import AllOptions, AsyncAllOptions, AsyncLockOptions, LockOptions, OnceOptions

if TYPE_CHECKING:
    from .aio import (
        AsyncAllLocks,
        AsyncLock,
        AsyncLocks,
        AsyncOnce,
        AsyncReadWriteLock,
        AsyncTurn,
    )

__all__ = [
    "DATABASE_GLOBAL_LOCK_CLASS",
    "DJANGO_REDIS_GLOBAL_LOCK_CLASS",
    "ETCD_GLOBAL_LOCK_CLASS",
    "REDIS_GLOBAL_LOCK_CLASS",
    "ZOOKEEPER_GLOBAL_LOCK_CLASS",
    "AllLocks",
    "AllOptions",
    "AsyncAllLocks",
    "AsyncAllOptions",
    "AsyncLock",
    "AsyncLockOptions",
    "AsyncLocks",
    "AsyncOnce",
    "AsyncReadWriteLock",
    "AsyncTurn",
    "AsyncWatch",
    "Claim",
    "Config",
    "Evicted",
    "GlobalLockClassNotFoundException",
    "GlobalLockError",
    "GlobalLockImplementationBase",
    "GlobalLockManager",
    "HeldTooLong",
    "InvalidAddress",
    "InvalidName",
    "InvalidOption",
    "LockLost",
    "LockOptions",
    "Loss",
    "NativeGlobalLock",
    "NotLocked",
    "Once",
    "OnceOptions",
    "Ran",
    "ReadWriteLock",
    "Reason",
    "StaleToken",
    "StoreDenied",
    "StoreUnavailable",
    "StoreUnfit",
    "Summary",
    "Turn",
    "Value",
    "Watch",
    "__version__",
]

#: What is imported when it is first asked for.
_LATER = frozenset(
    {"AsyncAllLocks", "AsyncLock", "AsyncLocks", "AsyncOnce", "AsyncReadWriteLock", "AsyncTurn"}
)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from . import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *_LATER})
