"""Locks for a Django project, from its settings.

``GLOBAL_LOCK_CONFIG`` in the settings is a manager's configuration. Without it, locks live in the Redis of
the cache ``default``.
"""

from __future__ import annotations

import copy
from typing import Any

from django.conf import settings

from ..base import GlobalLockManager
from ..constants import DJANGO_REDIS_GLOBAL_LOCK_CLASS
from .decorators import locked
from .instances import instance_name, lock_instance, locked_instance
from .managers import get_shared_global_lock_manager
from .views import locked_view

__all__ = [
    "GLOBAL_LOCK_CONFIG",
    "get_default_global_lock_manager",
    "get_shared_global_lock_manager",
    "instance_name",
    "lock_instance",
    "locked",
    "locked_instance",
    "locked_view",
]

GLOBAL_LOCK_CONFIG = getattr(settings, "GLOBAL_LOCK_CONFIG", {})


def _get_config() -> "dict[str, Any]":
    config = copy.deepcopy(GLOBAL_LOCK_CONFIG)
    engine = config.setdefault("global_lock_engine_class", DJANGO_REDIS_GLOBAL_LOCK_CLASS)
    if engine == DJANGO_REDIS_GLOBAL_LOCK_CLASS:
        config.setdefault("global_lock_engine_options", {}).setdefault("redis-cache-name", "default")
    return config


def get_default_global_lock_manager() -> GlobalLockManager:
    """Makes a manager from the settings; each call makes a new one."""
    return GlobalLockManager(_get_config())
