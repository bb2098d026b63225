"""Locks in etcd, from the options of python-etcd3's client."""

from __future__ import annotations

from typing import Any

from .addresses import Options, address, host_and_port, lock_name, milliseconds, split_prefix
from .base import normalize_key_prefix_for_path
from .config import from_source, refuse_gap
from .native import Engine, NativeGlobalLock

__all__ = ["EtcdGlobalLock"]

#: The original package holds python-etcd3's one key. Our locks hold it too, for fleets of both packages.
INTEROP = "python-etcd3"


class EtcdGlobalLock(NativeGlobalLock):
    """A lock in etcd."""

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from ``global_lock_engine_options``: the options of ``etcd3.client``."""
        with from_source(config):
            refuse_gap(cls.__name__, config)
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

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses options that this engine does not know, when its manager is made."""
        cls.make_engine(config)

    @property
    def _prefixed_name(self) -> str:
        """The core's name of this lock.

        The earlier releases drop the slashes before the whole key. So do we, or a process of theirs and one
        of ours would have two locks of one name.
        """
        name = lock_name(self.name)
        return self._engine.add_prefix(name if _normalized(self.config) else name.lstrip("/"))

    @property
    def lock_key(self) -> str:
        """The key of the lock in its store, without python-etcd3's ``/locks/``."""
        return (_normalized(self.config) + self.name).lstrip("/")


def _normalized(config: Any) -> str:
    return normalize_key_prefix_for_path(str(config.global_lock_key_prefix)).lstrip("/")
