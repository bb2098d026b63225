"""Locks in any store, by its address."""

from __future__ import annotations

from typing import Any

from .addresses import Options, refuse_typos
from .config import from_source, refuse_gap
from .constants import DEFAULT_GLOBAL_LOCK_KEY_PREFIX
from .exceptions import InvalidAddress, InvalidOption
from .native import Engine, NativeGlobalLock

__all__ = ["UrlGlobalLock"]


class UrlGlobalLock(NativeGlobalLock):
    """A lock in the store at ``global_lock_engine_options["url"]``."""

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from an address, with the options that the address has."""
        with from_source(config):
            engine = cls._engine_of(config)
            if "_source" in config.__dict__:
                # The core reads the address now, so that what is wrong with it is said with where it is from.
                engine.native.connect()
            return engine

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses what is not an address, when the manager is made."""
        with from_source(config):
            cls._engine_of(config)

    @classmethod
    def _engine_of(cls, config: Any) -> Engine:
        refuse_gap("an address", config)
        if config.global_lock_key_prefix != DEFAULT_GLOBAL_LOCK_KEY_PREFIX:
            raise InvalidOption(
                "an address has no key 'global_lock_key_prefix': write the prefix into it, as in "
                "redis://host?prefix=team"
            )
        options = Options(cls.__name__, config.global_lock_engine_options)
        url = options.text("url")
        options.finish()
        if url is None:
            raise InvalidAddress("UrlGlobalLock needs the option 'url', such as redis://127.0.0.1:6379")
        refuse_typos(url)
        return Engine(url, config.get("lock_ttl"), config.get("label"))
