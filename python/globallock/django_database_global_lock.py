"""Locks in the PostgreSQL database that a Django project uses."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from .addresses import Options, address, host_and_port, likeliest, milliseconds
from .config import from_source, refuse_gap
from .exceptions import InvalidOption
from .native import Engine, NativeGlobalLock

__all__ = ["DjangoDatabaseGlobalLock", "database_address"]

#: Options of psycopg's connections that mean the same here.
_SAME = (
    "application_name", "channel_binding", "connect_timeout", "passfile", "service", "sslcert", "sslkey",
    "sslmode", "sslrootcert", "target_session_attrs",
)  # fmt: skip
#: Those that tune psycopg or Django's own connections, and change nothing of a lock.
_TUNING = frozenset(
    {"client_encoding", "connection_factory", "context", "cursor_factory", "gssencmode", "isolation_level",
     "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "pool",
     "prepare_threshold", "server_side_binding", "tcp_user_timeout"}
)  # fmt: skip
#: Ours, among the options of the engine.
_OURS = ("connections", "durability", "interop", "listen", "plain", "schema")


class DjangoDatabaseGlobalLock(NativeGlobalLock):
    """A lock in the database that the option ``database`` names, ``default`` by default.

    Locks have connections of their own, so that a transaction of the project neither delays nor undoes them.
    """

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from the settings of a database."""
        with from_source(config):
            refuse_gap(cls.__name__, config)
            options = Options(cls.__name__, config.global_lock_engine_options)
            alias = options.text("database") or "default"
            ours = {name: options.text(name) for name in _OURS}
            ours["timeout"] = milliseconds(options.seconds("timeout"))
            options.finish()
            url = database_address(alias, prefix=str(config.global_lock_key_prefix), **ours)
            return Engine(url, config.get("lock_ttl"), config.get("label"))

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses options that this engine does not know, when its manager is made.

        The database is looked at when it is first needed, because tests name another one until then.
        """
        with from_source(config):
            refuse_gap(cls.__name__, config)
            options = Options(cls.__name__, config.global_lock_engine_options)
            for name in ("database", *_OURS):
                options.text(name)
            options.seconds("timeout")
            options.finish()


def database_address(alias: str, **ours: Any) -> str:
    """The address of the locks in one of the project's databases, as Django connects to it now."""
    given = _settings(alias)
    options = given.get("OPTIONS") or {}
    what = f"the database {alias!r}"
    if not isinstance(options, Mapping):
        raise InvalidOption(f"{what}: its OPTIONS are of type {type(options).__name__}, not a mapping")
    known: "Dict[str, Any]" = {name: options[name] for name in _SAME if options.get(name) is not None}
    for name in options:
        if name not in _SAME and name not in _TUNING:
            raise InvalidOption(
                f"{what} has {name!r} among its OPTIONS, which the locks' own connections cannot follow: "
                "write an address into GLOBAL_LOCK_CONFIG, such as 'postgresql://user:password@host/name'"
            )
    host, port = str(given.get("HOST") or ""), str(given.get("PORT") or "")
    if host.startswith("/") or "," in host:
        # Sockets, and several hosts with their ports: as psycopg takes them.
        known.update({"host": host, "port": port or None})
        hosts = ""
    else:
        hosts = host_and_port(host, port) if host and port else host
        if port and not host:
            known["port"] = port
    user, password = given.get("USER") or None, given.get("PASSWORD") or None
    name = str(given.get("NAME") or "")
    # The tables are made by whoever needs them first, where that is permitted, and by `migrate`.
    return address(
        "postgresql", hosts, f"/{name}" if name else "", user, password, setup="yes", **known, **ours
    )


def _settings(alias: str) -> "Mapping[str, Any]":
    """The settings of a database as they are now: tests give it another name while they run."""
    from django.db import connections
    from django.utils.connection import ConnectionDoesNotExist

    try:
        connection = connections[alias]
    except ConnectionDoesNotExist as error:
        known = ", ".join(repr(name) for name in connections)
        meant = likeliest(alias, connections)
        hint = f"did you mean {meant!r}?" if meant else f"known are {known}"
        raise InvalidOption(f"there is no database {alias!r} in DATABASES: {hint}") from error
    if connection.vendor != "postgresql":
        raise InvalidOption(
            f"the database {alias!r} is {connection.display_name}, and locks live in PostgreSQL only: set "
            "GLOBAL_LOCK_CONFIG to an address, such as 'redis://127.0.0.1:6379', or name another database: "
            "{'global_lock_engine_options': {'database': 'NAME'}}"
        )
    settings: "Mapping[str, Any]" = connection.settings_dict
    return settings
