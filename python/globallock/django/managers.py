"""The manager that the decorators, the command and the admin of one process share."""

from __future__ import annotations

from typing import Any, List, Tuple

from django.core.signals import setting_changed

from ..base import GlobalLockManager

__all__ = ["get_shared_global_lock_manager"]

#: The manager, with the configuration that it was made from. None before the first use.
_shared: "List[Tuple[Any, GlobalLockManager]]" = []


def get_shared_global_lock_manager() -> GlobalLockManager:
    """Returns the manager of this process, so that a request costs no connection of its own.

    It is made from the settings at its first use, and again if they change, as in tests. Do not close it:
    others hold their locks by it.

    ::

        with get_shared_global_lock_manager().lock("rebuild-index", blocking=False) as lock: ...
    """
    from . import _get_config, get_default_global_lock_manager

    config = _get_config()
    for made_from, manager in list(_shared):
        if made_from == config:
            return manager
    manager = get_default_global_lock_manager()
    # In one step. Two threads at once may each make one, and both work.
    _shared[:] = [(config, manager)]
    return manager


def _forget(*, setting: str, **_: Any) -> None:
    # What is held by the old manager stays held by the lock objects themselves.
    if setting in ("CACHES", "DATABASES", "GLOBAL_LOCK_CONFIG"):
        _shared.clear()


setting_changed.connect(_forget, dispatch_uid="globallock.django.managers")
