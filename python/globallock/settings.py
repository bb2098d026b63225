"""The configuration that a Django project's settings give, read when it is used."""

from __future__ import annotations

from typing import Any, Mapping

from .config import Sourced, read
from .constants import DJANGO_REDIS_GLOBAL_LOCK_CLASS
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
    """Reads the setting. Without a store in it, locks live in the Redis of the cache ``default``."""
    if given is not None and not isinstance(given, (str, Mapping)):
        raise InvalidOption(f"{_SOURCE} is of type {type(given).__name__}: give an address or a dict")
    try:
        config = read(given, {})
    except (InvalidAddress, InvalidOption) as error:
        raise type(error)(f"{_SOURCE}: {error}") from error
    engine = config.setdefault("global_lock_engine_class", DJANGO_REDIS_GLOBAL_LOCK_CLASS)
    # A copy, which the caller may change.
    options = config.get("global_lock_engine_options", {})
    if engine == DJANGO_REDIS_GLOBAL_LOCK_CLASS and isinstance(options, Mapping):
        config["global_lock_engine_options"] = {"redis-cache-name": "default", **options}
    elif isinstance(options, Mapping):
        config["global_lock_engine_options"] = dict(options)
    return Sourced(config, _SOURCE)
