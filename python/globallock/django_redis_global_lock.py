"""Locks in the Redis that Django's cache uses."""

from __future__ import annotations

from typing import Any

from .addresses import Options, host_and_port
from .exceptions import InvalidOption
from .native import Engine
from .redis_global_lock import RedisGlobalLock, Sentinels, redis_address

__all__ = ["DjangoRedisGlobalLock"]

_OURS = frozenset(
    {"host", "port", "db", "username", "password", "path", "socket_timeout", "socket_connect_timeout",
     "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
)  # fmt: skip


class DjangoRedisGlobalLock(RedisGlobalLock):
    """A lock in the Redis of the cache that the option ``redis-cache-name`` names, ``default`` by default.

    The cache's key prefix and version do not apply to locks.
    """

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from the settings of a cache."""
        options = Options(cls.__name__, config.global_lock_engine_options)
        alias = options.text("redis-cache-name") or "default"
        options.finish()
        url = cls._address(alias, config.global_lock_key_prefix)
        return Engine(url, config.get("lock_ttl"), config.get("label"))

    @classmethod
    def _address(cls, alias: str, prefix: str) -> str:
        pool = _pool(alias)
        # redis-py puts things of its own beside the settings, so those that are known are picked.
        given = {key: value for key, value in pool.connection_kwargs.items() if key in _OURS}
        kind = pool.connection_class.__name__
        if hasattr(pool, "sentinel_manager"):
            given["ssl"] = "SSL" in kind or bool(pool.connection_kwargs.get("ssl"))
            return redis_address(cls.__name__, given, prefix, _sentinels(pool))
        if kind not in ("Connection", "SSLConnection", "UnixDomainSocketConnection"):
            raise InvalidOption(f"the cache {alias!r} uses connections of its own ({kind}), which cannot be used here")
        given["ssl"] = kind == "SSLConnection"
        return redis_address(cls.__name__, given, prefix)


def _pool(alias: str) -> Any:
    """The connection pool of a cache, of django-redis or of Django itself."""
    from django.core.cache import caches

    cache: Any = caches[alias]
    own = getattr(cache, "_cache", None)
    try:
        if own is not None and hasattr(own, "get_client") and not hasattr(cache, "client"):
            # Django's own RedisCache has no public way to its connections.
            return own.get_client(None, write=True).connection_pool
        return cache.client.get_client(write=True).connection_pool
    except (AttributeError, NotImplementedError, TypeError) as error:
        backend = f"{type(cache).__module__}.{type(cache).__qualname__}"
        raise InvalidOption(f"the cache {alias!r} ({backend}) has no single Redis server behind it") from error


def _sentinels(pool: Any) -> Sentinels:
    """The sentinels of which a cache asks where the primary is."""
    known = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    hosts = ",".join(host_and_port(str(one["host"]), one.get("port", 26379)) for one in known)
    return Sentinels(hosts, pool.service_name, known[0].get("username"), known[0].get("password"))
