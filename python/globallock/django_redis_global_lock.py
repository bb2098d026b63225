"""Locks in the Redis that Django's cache uses."""

from __future__ import annotations

import importlib
from typing import Any

from .addresses import Options, likeliest
from .config import from_source
from .exceptions import InvalidOption
from .native import Engine
from .redis_global_lock import RedisGlobalLock, gap_of, pool_address

__all__ = ["DjangoRedisGlobalLock"]


class DjangoRedisGlobalLock(RedisGlobalLock):
    """A lock in the Redis of the cache that the option ``redis-cache-name`` names, ``default`` by default.

    The cache's key prefix and version do not apply to locks. As in earlier releases, a subclass may override
    ``get_redis_connection``.
    """

    HOOKS = RedisGlobalLock.HOOKS - {"get_redis_connection"}

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from the settings of a cache."""
        with from_source(config):
            alias = cls._alias(config)
            pool, prefix = cache_pool(alias), config.global_lock_key_prefix
            url = pool_address(f"{cls.__name__}: cache {alias!r}", pool, prefix, gap_of(config))
            return Engine(url, config.get("lock_ttl"), config.get("label"))

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses options that this engine does not know, when its manager is made.

        The cache is looked at when it is first needed, because settings may be overridden until then.
        """
        with from_source(config):
            cls._alias(config)
            gap_of(config)

    @classmethod
    def _alias(cls, config: Any) -> str:
        options = Options(cls.__name__, config.global_lock_engine_options)
        alias = options.text("redis-cache-name") or "default"
        options.finish()
        return alias

    def _own_pool(self) -> Any:
        if type(self).get_redis_connection is DjangoRedisGlobalLock.get_redis_connection:
            return super()._own_pool()
        return self.get_redis_connection().connection_pool

    def get_redis_connection(self) -> Any:
        """Makes django-redis's client of the cache.

        If a subclass overrides this, the core uses the server of the subclass's client.
        """
        alias = self.config.global_lock_engine_options.get("redis-cache-name", "default")
        django_redis: Any = importlib.import_module("django_redis")
        return django_redis.get_redis_connection(alias)


def cache_pool(alias: str) -> Any:
    """The connection pool of a cache, be it django-redis's or Django's own."""
    from django.core.cache import caches

    try:
        cache: Any = caches[alias]
    except Exception as error:  # noqa: BLE001 - whatever the cache's own client raises
        text = f"the cache {alias!r} cannot be made: {_why(error)}; {_instead(alias)}"
        raise InvalidOption(text) from error
    backend = f"{type(cache).__module__}.{type(cache).__qualname__}"
    try:
        own = getattr(cache, "_cache", None)
        if own is not None and hasattr(own, "get_client") and not hasattr(cache, "client"):
            # Django's own RedisCache has no public access to its connections.
            return own.get_client(None, write=True).connection_pool
        return cache.client.get_client(write=True).connection_pool
    except (AttributeError, NotImplementedError, TypeError) as error:
        text = f"the cache {alias!r} ({backend}) has no single Redis server behind it; {_instead(alias)}"
        raise InvalidOption(text) from error
    except Exception as error:  # noqa: BLE001 - as above
        text = f"the cache {alias!r} ({backend}) does not name its server: {_why(error)}; {_instead(alias)}"
        raise InvalidOption(text) from error


def _why(error: Exception) -> str:
    """Why a cache could not be made. The text of other errors may be a part of an address with a password."""
    from django.core.cache import InvalidCacheBackendError

    is_known = isinstance(error, (ImportError, InvalidCacheBackendError))
    return str(error).rstrip(".") if is_known else type(error).__name__


def _instead(alias: str) -> str:
    """What to set so that locks live somewhere else than in this cache."""
    from django.conf import settings

    def is_redis(backend: Any) -> bool:
        return "redis" in str(backend).lower() or "valkey" in str(backend).lower()

    caches = {name: cache for name, cache in settings.CACHES.items() if name != alias}
    fit = [name for name, cache in caches.items() if is_redis(cache.get("BACKEND"))]
    name = likeliest(alias, caches) or next(iter(fit), "NAME")
    return (
        "set GLOBAL_LOCK_CONFIG to an address, such as 'redis://127.0.0.1:6379', or to a cache in one Redis: "
        f"{{'global_lock_engine_options': {{'redis-cache-name': {name!r}}}}}"
    )
