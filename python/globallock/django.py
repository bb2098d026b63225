"""Locks for a Django project, from its settings.

``GLOBAL_LOCK_CONFIG`` in the settings is a manager's configuration. Without it, locks live in the Redis of
the cache ``default``.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Callable, Optional

from django.conf import settings

from .base import GlobalLockManager
from .constants import DJANGO_REDIS_GLOBAL_LOCK_CLASS

__all__ = ["GLOBAL_LOCK_CONFIG", "get_default_global_lock_manager", "locked"]

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


def locked(name: Optional[str] = None, **options: Any) -> "Callable[[type], type]":
    """Makes a decorator for management commands: while one runs, a second one of that name says so and ends.

    ::

        @locked()
        class Command(BaseCommand): ...

    ``name`` defaults to the command's module. Options are those of ``lock()``; the default is not to wait.
    """

    def decorate(command: type) -> type:
        lock_name = name or command.__module__
        handle = command.execute  # type: ignore[attr-defined]

        @functools.wraps(handle)
        def execute(self: Any, *arguments: Any, **keywords: Any) -> Any:
            lockman = get_default_global_lock_manager()
            with lockman, lockman.lock(lock_name, **{"blocking": False, **options}) as lock:
                if lock.is_locked:
                    return handle(self, *arguments, **keywords)
            lately = "" if options.get("hold_at_least") is None else ", or was a short time ago"
            self.stderr.write(f"{lock_name} is running already{lately}")
            return None

        command.execute = execute  # type: ignore[attr-defined]
        return command

    return decorate
