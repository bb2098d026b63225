"""What the core tells of locks and their stores: handed to the logger ``globallock``, and to metrics."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict

from . import _rust

__all__ = ["LOGGED", "Fields", "add_listener", "hear", "refresh", "remove_listener"]

_logger = logging.getLogger("globallock")

#: The fields of an event. All events have the same ones, ``None`` where one does not apply.
Fields = Dict[str, Any]

#: The fields that a log record has as attributes.
LOGGED = ("event", "lock", "fencing_token", "place", "waited", "held", "reason", "store")

#: Who wants to hear of all events, in the thread that logs.
_listeners: "list[Callable[[Fields], None]]" = []

#: Whether the core was told that the logger is at level DEBUG.
_debugging = False


def refresh() -> None:
    """Tells the core if the logger's level has changed: below DEBUG, it passes over what happens often."""
    global _debugging
    debugging = _logger.isEnabledFor(logging.DEBUG)
    if debugging is not _debugging:
        # In this order: an exception that arises in between must not keep the core from being told.
        _rust.listen(debugging, bool(_listeners))
        _debugging = debugging


def add_listener(listener: "Callable[[Fields], None]") -> None:
    """Calls ``listener`` with each event from now on, in the thread that logs, one at a time."""
    _listeners.append(listener)
    _rust.listen(_debugging, True)


def remove_listener(listener: "Callable[[Fields], None]") -> None:
    """Does not call ``listener`` any more; nothing if it was not added."""
    if listener in _listeners:
        _listeners.remove(listener)
    _rust.listen(_debugging, bool(_listeners))


def hear(level: int, text: str, fields: Fields, left_out: int) -> None:
    """Logs an event, if ``level`` is not 0, and tells the listeners; called by the core's thread."""
    if left_out:
        slow = "%s events were left out, because logging or metrics are slow"
        _logger.warning(slow, left_out, extra=_extra({"event": "left_out"}))
        tell({**dict.fromkeys(fields), "event": "left_out", "count": left_out})
    if level and _logger.isEnabledFor(level):
        _logger.log(level, "%s%s", text, _detail(fields), extra=_extra(fields))
    tell(fields)


def tell(fields: Fields) -> None:
    """Tells the listeners of an event. A listener that raises is reported, and the others still hear."""
    for listener in list(_listeners):
        try:
            listener(fields)
        except Exception:  # noqa: BLE001 - a user's function; the events after it must go on
            _logger.exception("a listener of metrics failed", extra=_extra({"event": "listener_failed"}))


def _extra(fields: Fields) -> Fields:
    return {name: fields.get(name) for name in LOGGED}


def _detail(fields: Fields) -> str:
    event = fields["event"]
    if event == "waiting" and fields["place"] is not None:
        return f", behind {fields['place']}"
    if event in ("granted", "not_granted"):
        return f", after {fields['waited']:.3f} s"
    if event == "released":
        return f", held for {fields['held']:.3f} s"
    return ""
