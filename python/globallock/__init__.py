"""Distributed locks for many processes and hosts, in Redis, etcd, ZooKeeper, or a directory."""

from . import _interpreter as _interpreter
from ._rust import __version__
from .base import GlobalLockImplementationBase, GlobalLockManager
from .config import Config
from .constants import (
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
    NotLocked,
    StoreDenied,
    StoreUnavailable,
    StoreUnfit,
)
from .native import Claim, Value
from .once import Once, Ran, Turn
from .onlooker import Summary

__all__ = [
    "DJANGO_REDIS_GLOBAL_LOCK_CLASS",
    "ETCD_GLOBAL_LOCK_CLASS",
    "REDIS_GLOBAL_LOCK_CLASS",
    "ZOOKEEPER_GLOBAL_LOCK_CLASS",
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
    "NotLocked",
    "Once",
    "Ran",
    "StoreDenied",
    "StoreUnavailable",
    "StoreUnfit",
    "Summary",
    "Turn",
    "Value",
    "__version__",
]
