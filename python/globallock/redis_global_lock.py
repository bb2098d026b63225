"""Locks in Redis, from the options of redis-py's connection pool."""

from __future__ import annotations

import importlib
from typing import Any, Mapping, NamedTuple, Optional

from .addresses import Options, address, host_and_port, milliseconds, seconds
from .config import from_source
from .exceptions import InvalidOption
from .native import Engine, NativeGlobalLock

__all__ = ["RedisGlobalLock"]

#: Options of redis-py that tune its pool, its sockets or its decoding.
_TUNING = frozenset(
    {
        "client_name", "decode_responses", "encoding", "encoding_errors", "health_check_interval", "lib_name",
        "lib_version", "max_connections", "parser_class", "protocol", "retry", "retry_on_error",
        "retry_on_timeout", "socket_keepalive", "socket_keepalive_options", "socket_read_size", "socket_type",
        "timeout",
    }
)  # fmt: skip


#: How long the key is left free now and then, in seconds, by the configuration of earlier releases: those,
#: and redis-py, poll each 0.1 s, and would starve beside locks that hand over among themselves.
GAP = 0.15

#: The longest that it may be.
LONGEST_GAP = 10.0


class RedisGlobalLock(NativeGlobalLock):
    """A lock in Redis. As in earlier releases, a subclass may override ``get_redis_connection_pool``."""

    HOOKS = NativeGlobalLock.HOOKS - {"get_redis_connection_pool"}

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from ``global_lock_engine_options``: those of ``redis.ConnectionPool``."""
        with from_source(config):
            options, prefix = config.global_lock_engine_options, config.global_lock_key_prefix
            url = redis_address(cls.__name__, options, prefix, gap=gap_of(config))
            return Engine(url, config.get("lock_ttl"), config.get("label"))

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses options that this engine does not know, when its manager is made."""
        cls.make_engine(config)

    def new_engine(self) -> Engine:
        """Makes the connection, to the server of the subclass's pool if the subclass has one."""
        pool = self._own_pool()
        if pool is None:
            return super().new_engine()
        config, name = self.config, type(self).__name__
        url = pool_address(name, pool, config.global_lock_key_prefix, gap_of(config))
        return Engine(url, config.get("lock_ttl"), config.get("label"))

    def _own_pool(self) -> Any:
        if type(self).get_redis_connection_pool is RedisGlobalLock.get_redis_connection_pool:
            return None
        return self.get_redis_connection_pool()

    def get_redis_connection_pool(self) -> Any:
        """Makes redis-py's pool of these options.

        If a subclass overrides this, the core uses the server of the subclass's pool.
        """
        redis: Any = importlib.import_module("redis")
        return redis.ConnectionPool(**self.config.global_lock_engine_options)


def gap_of(config: Any) -> Optional[str]:
    """Reads the item ``gap`` of a configuration, in the form that addresses take; ``None`` if it is 0."""
    given = config.get("gap")
    gap = GAP if given is None else seconds("gap", given)
    if gap > LONGEST_GAP:
        raise InvalidOption(f"the key gap is {gap:g}: give a number of seconds from 0 to {LONGEST_GAP:g}")
    return milliseconds(gap) if gap > 0 else None


class Sentinels(NamedTuple):
    """The sentinels that know the primary of a service."""

    hosts: str
    service: str
    user: Optional[str]
    password: Optional[str]


def redis_address(
    engine: str,
    given: Mapping[str, Any],
    prefix: str,
    sentinels: Optional[Sentinels] = None,
    gap: Optional[str] = None,
) -> str:
    """Turns the options of redis-py's pool into an address, of sentinels if there are any."""
    options = Options(engine, given)
    if "{" in prefix or "}" in prefix:
        raise InvalidOption(
            f"{engine}: global_lock_key_prefix {prefix!r} contains a brace, by which a cluster of Redis "
            "chooses where a key is: write it without"
        )
    options.ignore(_TUNING)
    host, port = options.text("host") or "localhost", options.number("port") or 6379
    db = options.number("db") or 0
    user, password = options.text("username"), options.text("password")
    path = options.text("path", "unix_socket_path")
    timeout = milliseconds(options.seconds("socket_timeout", "socket_connect_timeout"))
    connection = getattr(options.take("connection_class"), "__name__", "Connection")
    if connection not in ("Connection", "SSLConnection", "UnixDomainSocketConnection"):
        raise InvalidOption(f"{engine}: the option connection_class={connection} is not offered")
    tls = bool(options.take("ssl")) or connection == "SSLConnection"
    ca, cert, key = (options.text(name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
    required = "certificates are always checked here"
    options.refuse("ssl_cert_reqs", ("required", 2), required)
    options.refuse("ssl_check_hostname", (True,), required)
    options.finish()
    common = {"prefix": prefix, "timeout": timeout, "gap": gap}
    if path is not None:
        return address("redis+unix", "", path, user, password, db=db, **common)
    if tls:
        common.update(ca=ca, cert=cert, key=key)
    scheme = "rediss" if tls else "redis"
    if sentinels is None:
        return address(scheme, host_and_port(host, port), f"/{db}", user, password, **common)
    common.update(sentinel_user=sentinels.user, sentinel_password=sentinels.password)
    where = f"/{sentinels.service}/{db}"
    return address(f"{scheme}+sentinel", sentinels.hosts, where, user, password, **common)


#: The settings that are taken from a pool; redis-py adds others of its own.
_PICKED = frozenset(
    {"host", "port", "db", "username", "password", "path", "socket_timeout", "socket_connect_timeout",
     "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
)  # fmt: skip


def pool_address(engine: str, pool: Any, prefix: str, gap: Optional[str] = None) -> str:
    """Turns a connection pool of redis-py into an address."""
    given = {key: value for key, value in pool.connection_kwargs.items() if key in _PICKED}
    kind = pool.connection_class.__name__
    if hasattr(pool, "sentinel_manager"):
        given["ssl"] = "SSL" in kind or bool(pool.connection_kwargs.get("ssl"))
        return redis_address(engine, given, prefix, _sentinels(pool), gap)
    if kind not in ("Connection", "SSLConnection", "UnixDomainSocketConnection"):
        raise InvalidOption(f"{engine}: the pool has its own kind of connection ({kind}): not offered")
    given["ssl"] = kind == "SSLConnection"
    return redis_address(engine, given, prefix, gap=gap)


def _sentinels(pool: Any) -> Sentinels:
    """The sentinels that a pool asks for the primary."""
    found = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    hosts = ",".join(host_and_port(str(one["host"]), one.get("port", 26379)) for one in found)
    return Sentinels(hosts, pool.service_name, found[0].get("username"), found[0].get("password"))
