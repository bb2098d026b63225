"""Reads what users configure, and turns the options of other clients into the address of a store."""

from __future__ import annotations

import datetime
import difflib
import logging
import os
from typing import Any, Iterable, Mapping, Optional, Union
from urllib.parse import quote

from .exceptions import InvalidAddress, InvalidName, InvalidOption

__all__ = [
    "SCHEMES",
    "YEAR",
    "Options",
    "Seconds",
    "address",
    "boolean",
    "host_and_port",
    "is_text",
    "likeliest",
    "lock_name",
    "milliseconds",
    "refuse_typos",
    "refuse_unknown_parts",
    "seconds",
    "split_prefix",
    "suggestion",
]

_logger = logging.getLogger("globallock.base")

#: Which engine's options were told to be ignored.
_told: "set[tuple[str, str]]" = set()

#: A time: a number of seconds, or a ``timedelta``.
Seconds = Union[float, datetime.timedelta]


def is_text(value: Any) -> bool:
    """Whether this is a text that can be encoded, and so sent."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


#: The longest time that anything here may take, in seconds.
YEAR = 365 * 24 * 3600.0

#: From how many seconds on the times of a lock may be, where that is not 0, and what to do for no limit.
_SHORTEST = {"timeout": 0.1, "lock_ttl": 0.1, "hold_at_least": 0.001, "keep": 0.001, "every": 0.001}
_NO_LIMIT = {
    "timeout": "leave it out to hold the lock without a limit",
    "blocking_timeout": "leave it out to wait without a limit",
}

#: What is a number, and neither a flag nor anything else that can be compared with one.
_NUMBERS = (int, float)

#: The most bytes that a name may have in UTF-8, in every store.
_LONGEST_NAME = 512


def lock_name(value: Any, before: str = "") -> str:
    """Checks the name of a lock, and returns it behind what the configuration puts ``before`` it."""
    if not is_text(value):
        kind = type(value).__name__
        raise InvalidName(f"invalid lock name of type {kind}: it is not a text that can be sent")
    name = before + str(value)
    # The core's message would show the name with what is put before it, which its user has not written.
    length = len(name.encode())
    if before and length > _LONGEST_NAME:
        raise InvalidName(
            f"invalid lock name {value[:64]!r}…: it has {length} bytes with {before!r}, the end of "
            f"global_lock_key_prefix, and the limit is {_LONGEST_NAME}"
        )
    return name


def likeliest(name: Any, known: Iterable[str], least: float = 0.6) -> Optional[str]:
    """The known name that was most likely meant, if any is so close; 1 is equal."""
    if not isinstance(name, str):
        return None
    plain = {each.lower().replace("-", "_"): each for each in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), plain, 1, least)
    return plain[found[0]] if found else None


def suggestion(name: Any, known: Iterable[str]) -> str:
    """Asks whether the likeliest known name was meant, as the end of an error; empty if none is close."""
    found = likeliest(name, known)
    return "" if found is None else f": did you mean {found!r}?"


def seconds(option: str, value: Any, least: Optional[float] = None) -> float:
    """Reads a time in seconds, from any kind of number or a ``timedelta``."""
    shortest = _SHORTEST.get(option, 0.0) if least is None else least
    if type(value) in _NUMBERS and shortest <= value <= YEAR:
        # Each acquire comes here.
        return float(value)
    time = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    try:
        time = float("nan") if isinstance(time, (bool, str, bytes)) else float(time)
    except (TypeError, ValueError, OverflowError):
        time = float("nan")
    if not shortest <= time <= YEAR:
        no_limit = f"; {_NO_LIMIT[option]}" if option in _NO_LIMIT else ""
        raise InvalidOption(
            f"the option {option} is {_shown(value)}: give a number of seconds from {shortest:g} to "
            f"{YEAR:.0f} (a year), or a timedelta{no_limit}"
        )
    return time


def _shown(value: Any) -> str:
    """A value of the wrong type or range, for an error. A text is not shown, because it may be a secret."""
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds():.10g} s"
    if not isinstance(value, (str, bytes)):
        if isinstance(value, bool):
            return repr(value)
        try:
            return f"{float(value):.10g}"
        except (TypeError, ValueError):
            pass
        except OverflowError:
            return "too large a number"
    return f"of type {type(value).__name__}"


def boolean(option: str, value: Any) -> bool:
    """Reads an option that is true or false: also 0 and 1, and what is equal to them."""
    if value is True or value is False:
        return bool(value)
    try:
        if value in (True, False):
            return bool(value)
    except Exception:  # noqa: BLE001 - whatever a type of somebody else raises when it is compared
        pass
    raise InvalidOption(f"the option {option} is {_shown(value)}: give True or False")


class Options:
    """The options of an engine. Each is used, ignored, or refused by name; no message contains a secret."""

    def __init__(self, engine: str, options: Mapping[str, Any]) -> None:
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            raise InvalidOption(f"{engine}: global_lock_engine_options is of type {kind}, not a mapping")
        self._engine = engine
        self._left = dict(options)
        #: What was asked for, and so is known.
        self._known: "set[str]" = set()

    def take(self, *names: str) -> Any:
        """Takes the first of these options that is set."""
        self._known.update(names)
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

    def seconds(self, *names: str, least: float = 0.0) -> Optional[float]:
        """Takes several options that are times from ``least`` on, and returns the shortest."""
        given = [(name, self.take(name)) for name in names]
        times = [self._seconds(name, value, least) for name, value in given if value is not None]
        return min(times, default=None)

    def _seconds(self, name: str, value: Any, least: float) -> float:
        try:
            # Under a name of its own: an engine's `timeout` is not that of its locks.
            return seconds(f"{name!r} of global_lock_engine_options", value, least)
        except InvalidOption as error:
            raise InvalidOption(f"{self._engine}: {error}") from None

    def wrong(self, name: str, wanted: str) -> InvalidOption:
        """Makes the error for an option of the wrong type or range."""
        return InvalidOption(f"{self._engine}: the option {name!r} is not a {wanted}")

    def ignore(self, names: Iterable[str]) -> None:
        """Drops and logs options that tune another client's connections, and change nothing of a lock."""
        names = set(names)
        self._known |= names
        for name in sorted(names.intersection(self._left)):
            # Once is enough: a program may make a manager for each request.
            if self._left.pop(name) is not None and (self._engine, name) not in _told:
                _told.add((self._engine, name))
                _logger.info("%s: the option %r is ignored: it is not needed here", self._engine, name)

    def refuse(self, name: str, allowed: Iterable[Any], instead: str) -> None:
        """Takes an option of which only some values are offered here."""
        value = self.take(name)
        if value is not None and value not in tuple(allowed):
            shown = f"={value!r}" if isinstance(value, (bool, int, str)) else ""
            raise InvalidOption(f"{self._engine}: the option {name}{shown} is not offered: {instead}")

    def finish(self) -> None:
        """Refuses options that are set and that nothing has taken."""
        for name, value in self._left.items():
            if value is not None or not isinstance(name, str):
                meant = suggestion(name, self._known)
                raise InvalidOption(f"{self._engine}: the option {name!r} is not known here{meant}")


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


_REDIS = "prefix timeout gap commands password_file password_command"
_SENTINELS = f"{_REDIS} sentinel_user sentinel_password sentinel_password_file sentinel_password_command"
_ETCD = "prefix timeout interop password_file password_command"
_ZOOKEEPER = "prefix naming auth acl timeout password_file password_command"

_POSTGRES = (
    "schema prefix timeout durability connections listen setup plain interop password_file password_command "
    "passfile service host port application_name connect_timeout target_session_attrs sslmode sslrootcert "
    "sslcert sslkey channel_binding"
)

#: The schemes of addresses and the options that each has. The core has them too, and refuses what it does not
#: know. But it reads an address at the first request, and these are for those that make a manager.
SCHEMES = {
    "memory": "",
    "file": "network",
    "etcd": _ETCD,
    "etcds": f"{_ETCD} ca cert key",
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "zookeeper": _ZOOKEEPER,
    "zookeepers": f"{_ZOOKEEPER} ca cert key",
}
for _kind in ("redis", "valkey"):
    SCHEMES[_kind] = _REDIS
    SCHEMES[f"{_kind}s"] = f"{_REDIS} ca cert key"
    SCHEMES[f"{_kind}+unix"] = f"{_REDIS} db"
    SCHEMES[f"{_kind}+sentinel"] = _SENTINELS
    SCHEMES[f"{_kind}s+sentinel"] = f"{_SENTINELS} ca cert key"


def refuse_typos(url: str) -> None:
    """Refuses a scheme, or the name of an option, that is likely a mistyped one. Shows nothing else of it."""
    scheme = url.partition(":")[0].lower()
    meant = likeliest(scheme, SCHEMES, 0.8)
    if scheme not in SCHEMES and meant is not None:
        raise InvalidAddress(f"the address has the scheme {scheme!r}: did you mean {meant!r}?")
    known = SCHEMES.get(scheme, "").split()
    for pair in url.partition("?")[2].split("&"):
        name = pair.partition("=")[0]
        # Of what is less alike, the core knows better what is to be written in its place.
        meant = likeliest(name, known, 0.8)
        if name not in known and meant is not None:
            raise InvalidAddress(f"{scheme}: has no option {name!r}: did you mean {meant!r}?")


def refuse_unknown_parts(url: str) -> None:
    """Refuses schemes, options and ports that the core would refuse at the first request.

    For a check that must not start the core. What might be part of a password is neither judged nor shown.
    """
    scheme, _, rest = url.partition(":")
    scheme, (place, _, query) = scheme.lower(), rest.partition("?")
    if scheme not in SCHEMES:
        raise InvalidAddress(f"the scheme {scheme!r} is not known; known are: {', '.join(SCHEMES)}")
    known = SCHEMES[scheme].split()
    names = [] if "@" in query else [pair.partition("=")[0] for pair in query.split("&") if pair]
    for name in names:
        if name not in known:
            has = ", ".join(known) or "it has none"
            raise InvalidAddress(f"{scheme}: has no option {name!r}; known are: {has}")
    if "@" in query or scheme in ("memory", "file") or scheme.endswith("+unix"):
        return
    hosts = place.rpartition("@")[2].lstrip("/").partition("/")[0]
    for host in hosts.split(","):
        # The colons of an IPv6 address are in brackets.
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if port.isdigit() and not 1 <= int(port[:9]) <= 65535:
            raise InvalidAddress(f"{scheme}: a port is not a number from 1 to 65535")


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
