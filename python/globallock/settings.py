"""The configuration that a Django project's settings give, read when it is used."""

from __future__ import annotations

from typing import Any, Mapping

from .config import Sourced, read
from .constants import DATABASE_GLOBAL_LOCK_CLASS, DJANGO_REDIS_GLOBAL_LOCK_CLASS
from .exceptions import InvalidAddress, InvalidOption

__all__ = ["SETTING", "configuration", "setting"]

#: The setting: a configuration, or an address.
SETTING = "GLOBAL_LOCK_CONFIG"

#: How errors call it.
_SOURCE = f"the setting {SETTING}"


def setting() -> Any:
    """The setting as it is now, also under ``override_settings``; without it an empty configuration."""
    from django.conf import settings

    return getattr(settings, SETTING, {})


def configuration(given: Any) -> "dict[str, Any]":
    """Reads the setting. Without a store in it, locks live where :func:`_default_engine` says."""
    if given is not None and not isinstance(given, (str, Mapping)):
        raise InvalidOption(f"{_SOURCE} is of type {type(given).__name__}: give an address or a dict")
    try:
        config = read(given, {})
    except (InvalidAddress, InvalidOption) as error:
        raise type(error)(f"{_SOURCE}: {error}") from error
    options = config.get("global_lock_engine_options", {})
    if "global_lock_engine_class" not in config:
        config["global_lock_engine_class"] = _default_engine(options)
    engine = config["global_lock_engine_class"]
    # A copy, which the caller may change.
    if engine == DJANGO_REDIS_GLOBAL_LOCK_CLASS and isinstance(options, Mapping):
        config["global_lock_engine_options"] = {"redis-cache-name": "default", **options}
    elif isinstance(options, Mapping):
        config["global_lock_engine_options"] = dict(options)
    return Sourced(config, _SOURCE)


def _default_engine(options: Any) -> str:
    """The engine of a project that names none: the Redis of the cache ``default``, if that is one.

    Where it is none, it is the database ``default``, if that is PostgreSQL.
    """
    from django.conf import settings

    if isinstance(options, Mapping) and "database" in options:
        return DATABASE_GLOBAL_LOCK_CLASS
    named = isinstance(options, Mapping) and "redis-cache-name" in options
    cache = str(settings.CACHES.get("default", {}).get("BACKEND", "")).lower()
    if named or "redis" in cache or "valkey" in cache or not _has_postgresql("default"):
        return DJANGO_REDIS_GLOBAL_LOCK_CLASS
    return DATABASE_GLOBAL_LOCK_CLASS


def _has_postgresql(alias: str) -> bool:
    from django.core.exceptions import ImproperlyConfigured
    from django.db import connections
    from django.utils.connection import ConnectionDoesNotExist

    try:
        return bool(connections[alias].vendor == "postgresql")
    except (ConnectionDoesNotExist, ImproperlyConfigured):
        # No such database, or its driver is not there: then it is not used for locks either.
        return False
