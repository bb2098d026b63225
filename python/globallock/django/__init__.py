"""Locks for a Django project, from its settings.

``GLOBAL_LOCK_CONFIG`` in the settings is a manager's configuration, or an address. Without it, locks live in
the Redis of the cache ``default``, or in the database ``default`` if that cache is no Redis and the database
is PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import settings
from ..base import GlobalLockManager
from .decorators import locked
from .instances import instance_name, lock_instance, locked_instance
from .managers import get_shared_global_lock_manager
from .transactions import transaction_lock
from .views import locked_view

if TYPE_CHECKING:
    GLOBAL_LOCK_CONFIG: Any

__all__ = [
    "GLOBAL_LOCK_CONFIG",
    "get_default_global_lock_manager",
    "get_shared_global_lock_manager",
    "instance_name",
    "lock_instance",
    "locked",
    "locked_instance",
    "locked_view",
    "transaction_lock",
]


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
