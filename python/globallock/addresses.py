"""From the options that other clients take to the address of a store."""

from __future__ import annotations

import logging
from typing import Any, Iterable, Mapping, Optional
from urllib.parse import quote

from .exceptions import InvalidOption

__all__ = ["Options", "address", "host_and_port", "milliseconds", "split_prefix"]

_logger = logging.getLogger("globallock.base")


class Options:
    """The options of an engine, each to be used, set aside, or refused by name."""

    def __init__(self, engine: str, options: Mapping[str, Any]) -> None:
        self._engine = engine
        self._left = dict(options)

    def take(self, *names: str) -> Any:
        """Takes the first of these options that is set."""
        values = [self._left.pop(name, None) for name in names]
        return next((value for value in values if value is not None), None)

    def text(self, *names: str) -> Optional[str]:
        """Takes an option that is a text, or bytes of one."""
        value = self.take(*names)
        return value.decode() if isinstance(value, bytes) else None if value is None else str(value)

    def set_aside(self, names: Iterable[str]) -> None:
        """Drops options that tune another client's connections, and change nothing of what a lock does; says so."""
        for name in sorted(set(names) & set(self._left)):
            if self._left.pop(name) is not None:
                _logger.info("%s: the option %r has no counterpart here, and is not needed", self._engine, name)

    def refuse(self, name: str, allowed: Iterable[Any], instead: str) -> None:
        """Takes an option that can only have some values here."""
        value = self._left.pop(name, None)
        if value is not None and value not in tuple(allowed):
            raise InvalidOption(f"{self._engine}: the option {name}={value!r} is not offered: {instead}")

    def finish(self) -> None:
        """Refuses what nobody took, unless it is not set."""
        for name, value in self._left.items():
            if value is not None:
                raise InvalidOption(f"{self._engine}: the option {name!r} is not known here")


def address(
    scheme: str,
    hosts: str,
    path: str = "",
    user: Optional[str] = None,
    password: Optional[str] = None,
    **options: Any,
) -> str:
    """Writes an address, with everything escaped that could be misread."""
    credentials = ""
    if user is not None or password is not None:
        credentials = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@"
    given = {key: str(value) for key, value in options.items() if value is not None}
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in given.items())
    return f"{scheme}://{credentials}{hosts}{quote(path)}" + (f"?{query}" if query else "")


def host_and_port(host: str, port: Any) -> str:
    """Writes a host and its port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def milliseconds(*seconds: Any) -> Optional[str]:
    """Writes the shortest of these times, given in seconds, as an address takes it."""
    given = [float(time) for time in seconds if time is not None]
    return f"{max(1, round(min(given) * 1000))}ms" if given else None


def split_prefix(prefix: str) -> "tuple[str, str]":
    """Splits a path's prefix into the part that ends with a slash, and the rest, which belongs to the names."""
    directory, slash, rest = prefix.rpartition("/")
    return directory + slash, rest
