"""Locks in the Redis that Django's cache uses."""

from __future__ import annotations

import importlib
from typing import Any

from .addresses import Options
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
        options = Options(cls.__name__, config.global_lock_engine_options)
        alias = options.text("redis-cache-name") or "default"
        options.finish()
        pool, prefix = cache_pool(alias), config.global_lock_key_prefix
        url = pool_address(f"{cls.__name__}: cache {alias!r}", pool, prefix, gap_of(config))
        return Engine(url, config.get("lock_ttl"), config.get("label"))

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

    cache: Any = caches[alias]
    own = getattr(cache, "_cache", None)
    try:
        if own is not None and hasattr(own, "get_client") and not hasattr(cache, "client"):
            # Django's own RedisCache has no public access to its connections.
            return own.get_client(None, write=True).connection_pool
        return cache.client.get_client(write=True).connection_pool
    except (AttributeError, NotImplementedError, TypeError) as error:
        backend = f"{type(cache).__module__}.{type(cache).__qualname__}"
        text = f"the cache {alias!r} ({backend}) has no single Redis server behind it"
        raise InvalidOption(text) from error
