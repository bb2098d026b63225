"""Locks in any store, by its address."""

from __future__ import annotations

from typing import Any

from .addresses import Options
from .exceptions import InvalidAddress
from .native import Engine, NativeGlobalLock

__all__ = ["UrlGlobalLock"]


class UrlGlobalLock(NativeGlobalLock):
    """A lock in the store at ``global_lock_engine_options["url"]``."""

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from an address, with the options that the address has."""
        options = Options(cls.__name__, config.global_lock_engine_options)
        url = options.text("url")
        options.finish()
        if url is None:
            raise InvalidAddress("UrlGlobalLock needs the option 'url', such as redis://127.0.0.1:6379")
        return Engine(url, config.get("lock_ttl"), config.get("label"))
