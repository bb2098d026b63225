"""Turns the options of other clients into the address of a store."""

from __future__ import annotations

import datetime
import logging
import os
from typing import Any, Iterable, Mapping, Optional, Union
from urllib.parse import quote

from .exceptions import InvalidName, InvalidOption

__all__ = [
    "Options",
    "Seconds",
    "address",
    "host_and_port",
    "is_text",
    "lock_name",
    "milliseconds",
    "seconds",
    "split_prefix",
]

_logger = logging.getLogger("globallock.base")

#: A time: a number of seconds, or a ``timedelta``.
Seconds = Union[float, datetime.timedelta]


def is_text(value: Any) -> bool:
    """Whether this is a text that can be encoded, and so sent."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def lock_name(value: Any) -> str:
    """Checks the name of a lock."""
    if not is_text(value):
        kind = type(value).__name__
        raise InvalidName(f"invalid lock name of type {kind}: it is not a text that can be sent")
    return str(value)


def seconds(option: str, value: Any) -> float:
    """Reads a time in seconds, from any kind of number or a ``timedelta``."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    try:
        time = float("nan") if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        time = float("nan")
    if not 0 <= time < 1e15:
        raise InvalidOption(f"the option {option} is not a number of seconds from 0 on")
    return time


class Options:
    """The options of an engine. Each is used, ignored, or refused by name; no message contains a secret."""

    def __init__(self, engine: str, options: Mapping[str, Any]) -> None:
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            raise InvalidOption(f"{engine}: global_lock_engine_options is of type {kind}, not a mapping")
        self._engine = engine
        self._left = dict(options)

    def take(self, *names: str) -> Any:
        """Takes the first of these options that is set."""
        values = [self._left.pop(name, None) for name in names]
        return next((value for value in values if value is not None), None)

    def text(self, *names: str) -> Optional[str]:
        """Takes an option that is a text, or bytes of one."""
        value = self.take(*names)
        if value is None:
            return None
        text = value
        if isinstance(value, bytes):
            text = value.decode(errors="surrogateescape")
        elif isinstance(value, int) and not isinstance(value, bool):
            text = str(value)
        elif isinstance(value, os.PathLike):
            text = os.fspath(value)
        if not is_text(text):
            raise self.wrong(names[-1], "text")
        return str(text)

    def number(self, name: str) -> Optional[int]:
        """Takes an option that is a whole number from 0 on, or the digits of one."""
        value = self.take(name)
        if value is None or value == "":
            return None
        try:
            number = int(value) if isinstance(value, (int, str)) else -1
        except ValueError:
            number = -1
        if not 0 <= number < 2**31:
            raise self.wrong(name, "whole number from 0 on")
        return number

    def seconds(self, *names: str) -> Optional[float]:
        """Takes several options that are times, and returns the shortest."""
        given = [(name, self.take(name)) for name in names]
        return min((seconds(name, value) for name, value in given if value is not None), default=None)

    def wrong(self, name: str, wanted: str) -> InvalidOption:
        """Makes the error for an option of the wrong type or range."""
        return InvalidOption(f"{self._engine}: the option {name!r} is not a {wanted}")

    def ignore(self, names: Iterable[str]) -> None:
        """Drops and logs options that tune another client's connections, and change nothing of a lock."""
        for name in sorted(set(names).intersection(self._left)):
            if self._left.pop(name) is not None:
                _logger.info("%s: the option %r is ignored: it is not needed here", self._engine, name)

    def refuse(self, name: str, allowed: Iterable[Any], instead: str) -> None:
        """Takes an option of which only some values are offered here."""
        value = self._left.pop(name, None)
        if value is not None and value not in tuple(allowed):
            shown = f"={value!r}" if isinstance(value, (bool, int, str)) else ""
            raise InvalidOption(f"{self._engine}: the option {name}{shown} is not offered: {instead}")

    def finish(self) -> None:
        """Refuses options that are set and that nothing has taken."""
        for name, value in self._left.items():
            if value is not None or not isinstance(name, str):
                raise InvalidOption(f"{self._engine}: the option {name!r} is not known here")


def address(
    scheme: str,
    hosts: str,
    path: str = "",
    user: Optional[str] = None,
    password: Optional[str] = None,
    **options: Any,
) -> str:
    """Writes an address, and escapes whatever could be misread."""
    credentials = ""
    if user is not None or password is not None:
        credentials = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@"
    given = {key: str(value) for key, value in options.items() if value is not None}
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in given.items())
    return f"{scheme}://{credentials}{hosts}{quote(path)}" + (f"?{query}" if query else "")


def host_and_port(host: str, port: Any) -> str:
    """Writes a host and its port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def milliseconds(time: Optional[float]) -> Optional[str]:
    """Writes a time, given in seconds, in the form that addresses take."""
    return None if time is None else f"{max(1, round(time * 1000))}ms"


def split_prefix(prefix: str) -> "tuple[str, str]":
    """Splits a prefix into a path that ends with a slash, and the rest, which becomes part of the names."""
    directory, slash, rest = prefix.rpartition("/")
    return directory + slash, rest
