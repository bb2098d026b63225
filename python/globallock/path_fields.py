"""The values of a path's parameters, as the function of a request is given them by FastAPI."""

from __future__ import annotations

import enum
import string
import weakref
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Iterable, Iterator, Mapping

from .frameworks import imported

__all__ = ["converted", "formatted"]

#: What FastAPI reads for a function whose route does not say it, with the parameters of the path.
_read: "weakref.WeakKeyDictionary[Any, dict[frozenset[str], Any]]" = weakref.WeakKeyDictionary()


def converted(connection: Any, wanted: "Iterable[str]") -> "dict[str, Any]":
    """The parameters of the path, those that are ``wanted`` with the types that the function declares.

    A client may write one value in several ways, such as ``7`` and ``07``. What names a lock must be the
    value that the function works with.
    """
    values: "dict[str, Any]" = dict(connection.path_params)
    errors: "list[Any]" = []
    for name in wanted:
        field = _declared(connection, name) if name in values else None
        if field is not None:
            value, wrong = field.validate(values[name], {}, loc=("path", name))
            values[name] = value
            errors.extend(wrong if isinstance(wrong, list) else [wrong] if wrong else [])
    if errors:
        # As FastAPI itself does, which would find it only after the lock was granted.
        exceptions: Any = imported("fastapi.exceptions", "globallock.fastapi", "fastapi")
        is_socket = connection.scope["type"] == "websocket"
        kind = "WebSocketRequestValidationError" if is_socket else "RequestValidationError"
        raise getattr(exceptions, kind)(errors)
    return values


def _declared(connection: Any, name: str) -> Any:
    """FastAPI's field for a parameter of the path; ``None`` if nothing declares its type."""
    for dependant in _dependants(connection):
        for field in _fields(dependant):
            if field.alias == name:
                return field
    return None


def _dependants(connection: Any) -> "Iterator[Any]":
    """What FastAPI knows of the request's function and its dependencies, the most exact first."""
    scope = connection.scope
    # A router that was included has a path of its own, which newer ones keep beside the route.
    included = scope.get("fastapi")
    if isinstance(included, dict):
        yield getattr(included.get("effective_route_context"), "dependant", None)
    route, endpoint = scope.get("route"), scope.get("endpoint")
    dependant = getattr(route, "dependant", None)
    yield dependant
    if dependant is not None and endpoint is not None:
        yield _of_endpoint(endpoint, frozenset(connection.path_params))


def _of_endpoint(endpoint: Any, names: "frozenset[str]") -> Any:
    """What FastAPI makes of a function itself, whose route has these parameters in its path."""
    try:
        known = _read.setdefault(endpoint, {})
    except TypeError:
        # An object that cannot be a key is read each time.
        known = {}
    if names not in known:
        utils: Any = imported("fastapi.dependencies.utils", "globallock.fastapi", "fastapi")
        path = "".join(f"/{{{each}}}" for each in sorted(names))
        known[names] = utils.get_dependant(path=path, call=endpoint)
    return known[names]


def _fields(dependant: Any) -> "Iterator[Any]":
    """The parameters of the path of a function, and then of its dependencies."""
    if dependant is not None:
        yield from dependant.path_params
        for each in dependant.dependencies:
            yield from _fields(each)


class _Formatter(string.Formatter):
    """Writes values that are equal in the same way, on each version of Python."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, enum.Enum):
            value = value.value
        if not format_spec:
            if isinstance(value, float):
                value += 0.0  # of which the two zeros become one
            elif isinstance(value, Decimal) and value.is_finite():
                value, format_spec = value.normalize() + 0, "f"
            elif isinstance(value, datetime) and value.tzinfo is not None:
                value = value.astimezone(timezone.utc)
        return str(super().format_field(value, format_spec))


def formatted(name: str, values: "Mapping[str, Any]") -> str:
    """Puts values into the fields of a name."""
    return _Formatter().vformat(name, (), values)
