"""The Django app: with it in ``INSTALLED_APPS``, ``manage.py check`` checks the configuration of locks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks

from .base import GlobalLockManager
from .exceptions import GlobalLockClassNotFoundException, GlobalLockError

__all__ = ["GlobalLockAppConfig", "check_configuration"]


class GlobalLockAppConfig(AppConfig):
    """Registers the check."""

    name = "globallock"
    verbose_name = "Global locks"

    def ready(self) -> None:
        """Registers the check, once the settings are read."""
        checks.register(check_configuration)


def check_configuration(app_configs: Any = None, **_: Any) -> "list[checks.CheckMessage]":
    """Says whether locks can be made from the settings, without a request to the store."""
    from .django import _get_config

    hint = "Check GLOBAL_LOCK_CONFIG and the cache that it names ('default' if it names none)."
    try:
        lockman = GlobalLockManager(_get_config())
        make_engine = getattr(lockman.lock_class, "make_engine", None)
        if make_engine is not None:
            make_engine(lockman.config)
    except (GlobalLockClassNotFoundException, GlobalLockError) as error:
        return [checks.Error(str(error), hint=hint, id="globallock.E001")]
    except Exception as error:  # noqa: BLE001 - whatever the cache's own client raises
        return [checks.Error(f"{type(error).__name__}: {error}", hint=hint, id="globallock.E002")]
    return []
