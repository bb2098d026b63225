"""The configuration of a manager."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, Mapping

from .addresses import boolean, is_text, likeliest, seconds, suggestion
from .constants import (
    DEFAULT_GLOBAL_LOCK_ENGINE_CLASS,
    DEFAULT_GLOBAL_LOCK_KEY_PREFIX,
    GLOBALLOCK_REDIS_AUTO_RENEW_FLAG,
    GLOBALLOCK_REDIS_RENEW_INTERVAL,
    URL_GLOBAL_LOCK_CLASS,
)
from .exceptions import GlobalLockClassNotFoundException, InvalidAddress, InvalidOption

__all__ = ["KEYS", "Config", "Sourced", "check", "configured", "from_source", "read", "refuse_gap"]

_ENGINE, _OPTIONS = "global_lock_engine_class", "global_lock_engine_options"
_PREFIX = "global_lock_key_prefix"


class Config(dict):  # type: ignore[type-arg]
    """A dict whose items are attributes too.

    Its keys, their types and their defaults are in ``docs/python-configuration.md``. A manager refuses those
    that it does not know, and values of a wrong type.

    >>> config = Config(timeout=60, global_lock_key_prefix="shop:")
    >>> config.timeout, config["global_lock_key_prefix"]
    (60, 'shop:')
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setdefault(_ENGINE, DEFAULT_GLOBAL_LOCK_ENGINE_CLASS)
        self.setdefault(_OPTIONS, {})
        self.setdefault(_PREFIX, DEFAULT_GLOBAL_LOCK_KEY_PREFIX)
        self.setdefault("auto_renew", GLOBALLOCK_REDIS_AUTO_RENEW_FLAG)
        self.setdefault("renew_interval", GLOBALLOCK_REDIS_RENEW_INTERVAL)

    def __repr__(self) -> str:
        # An engine's options may contain a password, for example in an address.
        shown = {key: value for key, value in self.items() if key != _OPTIONS}
        given = self.get(_OPTIONS)
        shown[_OPTIONS] = dict.fromkeys(given, ...) if isinstance(given, dict) else ...
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


class Sourced(dict):  # type: ignore[type-arg]
    """A configuration that knows where it is from, so that its errors can say so."""

    def __init__(self, config: "Mapping[str, Any]", source: str) -> None:
        super().__init__(config)
        self.source = source


def _engine(key: str, value: Any) -> None:
    """The engine's class is imported, and its errors are those of the import."""


def _mapping(key: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InvalidOption(f"the key {key} is of type {type(value).__name__}: give a mapping")


def _text(key: str, value: Any) -> None:
    if not is_text(value):
        kind = type(value).__name__
        raise InvalidOption(f"the key {key} is of type {kind}: it is not a text that can be sent")


#: The keys of a configuration, and what checks the value of each. ``None`` is the same as to leave a key out.
KEYS: "Dict[str, Callable[[str, Any], object]]" = {
    "url": _text,
    _ENGINE: _engine,
    _OPTIONS: _mapping,
    _PREFIX: _text,
    "timeout": seconds,
    "lock_ttl": seconds,
    "sleep": seconds,
    "blocking": boolean,
    "blocking_timeout": seconds,
    "auto_renew": boolean,
    "renew_interval": seconds,
    "gap": seconds,
    "label": _text,
}

#: The keys that are long enough for one that is almost the same to be a mistake.
_LONG = [key for key in KEYS if len(key) > 5]

#: Options of one lock that are no keys of a configuration.
_OF_LOCKS = frozenset(
    {"capacity", "grace", "hold_at_least", "kind", "name", "permits", "thread_local", "with_value"}
)

#: Options of the engines' clients, which are sometimes written beside the key for them.
_OF_ENGINES = frozenset({"db", "host", "hosts", "password", "port", "redis-cache-name", "user", "username"})


def configured(config: Any, keywords: "Mapping[str, Any]") -> Config:
    """Makes a configuration of what a manager was given."""
    made = Config(read(config, keywords))
    if isinstance(config, Sourced):
        # No item, since it is nothing that a user sets.
        made.__dict__["_source"] = config.source
    return made


def read(config: Any, keywords: "Mapping[str, Any]") -> "dict[str, Any]":
    """Reads what a manager was given: an address, a mapping or nothing, and keywords, which come first."""
    if isinstance(config, str):
        _refuse_both("an address", keywords, "url")
        config = {"url": config}
    elif config is not None and not isinstance(config, Mapping):
        kind = type(config).__name__
        raise InvalidOption(f"the configuration is of type {kind}: give an address or a mapping")
    given = {**(config or {}), **keywords}
    unset = [key for key in ("url", _ENGINE, _OPTIONS, _PREFIX) if given.get(key) is None]
    for key in unset:
        given.pop(key, None)
    if "url" not in given:
        return given
    url = given.pop("url")
    if not is_text(url):
        kind = type(url).__name__
        raise InvalidAddress(f"the address is of type {kind}: give a text, such as redis://127.0.0.1:6379")
    _refuse_both("an address", given, _ENGINE, _OPTIONS)
    return {**given, _ENGINE: URL_GLOBAL_LOCK_CLASS, _OPTIONS: {"url": url}}


def _refuse_both(one: str, given: "Mapping[str, Any]", *others: str) -> None:
    for other in others:
        if given.get(other) is not None:
            raise InvalidOption(f"the store is given twice: by {one} and by {other}; give one of them")


def check(config: Config, engine: Any, keywords: "Mapping[str, Any]") -> None:
    """Refuses keys that are not known and values that no lock could use. Sends nothing to a store.

    An engine of another package may have keys and values of its own, and names its keys in its attribute
    ``CONFIG_KEYS``. One that does not name them may have any, but for those that look like a mistyped key.
    """
    own = getattr(engine, "CONFIG_KEYS", None)
    known = {*KEYS, *(own or ())}
    is_ours = isinstance(engine, type) and engine.__module__.split(".")[0] == __name__.split(".")[0]
    for key in config:
        if key not in known and (is_ours or own is not None):
            raise InvalidOption(f"{_unknown(key, keywords)}{_meant(key, known)}")
        if key not in known and likeliest(key, _LONG, 0.85) is not None:
            name = getattr(engine, "__name__", "the engine")
            raise InvalidOption(
                f"{_unknown(key, keywords)}{suggestion(key, _LONG)} If it is a key of {name}, name it in "
                f"{name}.CONFIG_KEYS"
            )
    if not hasattr(engine, "make_engine"):
        return
    for key, value in config.items():
        if key in KEYS and value is not None:
            KEYS[key](key, value)
    # Not those of a class that is derived from it, which may have clients of its own.
    if "check_options" in vars(engine):
        engine.check_options(config)


def _unknown(key: Any, keywords: "Mapping[str, Any]") -> str:
    what = "GlobalLockManager() has no option" if key in keywords else "the configuration has no key"
    return f"{what} {key!r}"


def _meant(key: Any, known: "set[str]") -> str:
    if key in _OF_LOCKS:
        return ": it is an option of lock()"
    if key in _OF_ENGINES:
        return f": write it into {_OPTIONS}"
    return suggestion(key, known) or f"; known are: {', '.join(sorted(known))}"


def refuse_gap(engine: str, config: Any) -> None:
    """Refuses the key ``gap`` for an engine by whose options no gaps are left."""
    if config.get("gap") is not None:
        raise InvalidOption(
            f"{engine} has no key 'gap', which is for Redis by the options of redis-py or of a cache; in the "
            "address of a Redis write it as redis://host?gap=150ms"
        )


@contextlib.contextmanager
def from_source(config: Any) -> "Iterator[None]":
    """Lets errors about a configuration say where it is from, if that is known."""
    try:
        yield
    except (GlobalLockClassNotFoundException, InvalidAddress, InvalidOption) as error:
        source = config.__dict__.get("_source")
        if source is None or str(error).startswith(f"{source}: "):
            raise
        raise type(error)(f"{source}: {error}") from error
