"""The configuration of a manager."""

from __future__ import annotations

from typing import Any

from .constants import (
    DEFAULT_GLOBAL_LOCK_ENGINE_CLASS,
    DEFAULT_GLOBAL_LOCK_KEY_PREFIX,
    GLOBALLOCK_REDIS_AUTO_RENEW_FLAG,
    GLOBALLOCK_REDIS_RENEW_INTERVAL,
)

__all__ = ["Config"]


class Config(dict):  # type: ignore[type-arg]
    """A dict whose items are attributes too.

    Keys: ``global_lock_engine_class``, ``global_lock_engine_options``, ``global_lock_key_prefix``; and as
    defaults of ``lock()``: ``timeout``, ``lock_ttl``, ``sleep``, ``blocking``, ``blocking_timeout``. For
    locks in Redis by the options of redis-py or of a cache, ``gap``: how long the key is left free now and
    then for other programs' locks that poll it, in seconds; 0.15 by default, and never with 0.

    >>> config = Config(timeout=60, global_lock_key_prefix="shop:")
    >>> config.timeout, config["global_lock_key_prefix"]
    (60, 'shop:')
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setdefault("global_lock_engine_class", DEFAULT_GLOBAL_LOCK_ENGINE_CLASS)
        self.setdefault("global_lock_engine_options", {})
        self.setdefault("global_lock_key_prefix", DEFAULT_GLOBAL_LOCK_KEY_PREFIX)
        self.setdefault("auto_renew", GLOBALLOCK_REDIS_AUTO_RENEW_FLAG)
        self.setdefault("renew_interval", GLOBALLOCK_REDIS_RENEW_INTERVAL)

    def __repr__(self) -> str:
        # An engine's options may contain a password, for example in an address.
        shown = {key: value for key, value in self.items() if key != "global_lock_engine_options"}
        given = self.get("global_lock_engine_options")
        shown["global_lock_engine_options"] = dict.fromkeys(given, ...) if isinstance(given, dict) else ...
        return f"Config({shown!r})"

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        try:
            del self[key]
        except KeyError:
            raise AttributeError(key) from None
