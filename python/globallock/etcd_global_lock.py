"""Locks in etcd, from the options of python-etcd3's client."""

from __future__ import annotations

from typing import Any

from .addresses import Options, address, host_and_port, milliseconds, split_prefix
from .base import normalize_key_prefix_for_path
from .native import Engine, NativeGlobalLock

__all__ = ["EtcdGlobalLock"]

#: The original package holds python-etcd3's one key. Our locks hold it too, for fleets of both packages.
INTEROP = "python-etcd3"


class EtcdGlobalLock(NativeGlobalLock):
    """A lock in etcd."""

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from ``global_lock_engine_options``: the options of ``etcd3.client``."""
        options = Options(cls.__name__, config.global_lock_engine_options)
        host, port = options.text("host") or "localhost", options.number("port") or 2379
        user, password = options.text("user"), options.text("password")
        ca, cert, key = (options.text(name) for name in ("ca_cert", "cert_cert", "cert_key"))
        timeout = milliseconds(options.seconds("timeout"))
        options.finish()
        directory, rest = split_prefix("/locks/" + _normalized(config))
        tls = {"ca": ca, "cert": cert, "key": key} if ca is not None or cert is not None else {}
        scheme = "etcds" if tls else "etcd"
        hosts = host_and_port(host, port)
        url = address(
            scheme, hosts, "", user, password, prefix=directory, timeout=timeout, interop=INTEROP, **tls
        )
        return Engine(url, config.get("lock_ttl"), config.get("label"), rest)

    @property
    def lock_key(self) -> str:
        """The key of the lock in its store, without python-etcd3's ``/locks/``."""
        return _normalized(self.config) + self.name


def _normalized(config: Any) -> str:
    return normalize_key_prefix_for_path(str(config.global_lock_key_prefix)).lstrip("/")
