"""Locks for a Django project, from its settings.

``GLOBAL_LOCK_CONFIG`` in the settings is a manager's configuration, or an address. Without it, locks live in
the Redis of the cache ``default``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable, Optional

from . import settings
from .base import GlobalLockManager

if TYPE_CHECKING:
    GLOBAL_LOCK_CONFIG: Any

__all__ = ["GLOBAL_LOCK_CONFIG", "get_default_global_lock_manager", "locked"]


def __getattr__(name: str) -> Any:
    # Read when it is used, so that `override_settings` has an effect. Earlier releases have this attribute.
    if name == settings.SETTING:
        return settings.setting()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _get_config() -> "dict[str, Any]":
    # Tests of earlier releases set the attribute of this module.
    given = globals().get(settings.SETTING)
    return settings.configuration(settings.setting() if given is None else given)


def get_default_global_lock_manager() -> GlobalLockManager:
    """Makes a manager from the settings as they are now; each call makes a new one."""
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
