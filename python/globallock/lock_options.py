"""Reads the options of one lock, and refuses what no lock could have in the words of those who gave it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional

from .addresses import YEAR, boolean, seconds, suggestion
from .exceptions import InvalidOption

if TYPE_CHECKING:
    from .native import NativeGlobalLock

__all__ = ["KNOWN", "LONGEST_VALUE", "MOST_PERMITS", "Times", "count", "kind", "limit", "refuse_unknown"]

#: Options of earlier releases and of redis-py's locks that are accepted. The core renews by itself, so only
#: ``auto_renew=False`` has an effect, and a release that fails never raises.
ACCEPTED = frozenset({"auto_renew", "raise_on_release_error", "renew_interval", "thread_local"})

#: All options of ``lock()``.
_KNOWN = ACCEPTED | {
    "blocking", "blocking_timeout", "grace", "hold_at_least", "lock_ttl", "name", "sleep", "timeout",
    "with_value",
}  # fmt: skip

#: Those that ``lock()`` reads by itself, and what the methods for other kinds of locks give it.
KNOWN = _KNOWN | {"capacity", "kind", "permits"}

_KINDS = ("mutex", "permits", "read", "write")

#: The most permits that a semaphore may have, and the most bytes that a value may have.
MOST_PERMITS = 536_870_911
LONGEST_VALUE = 1024


class Times(NamedTuple):
    """The times of one acquisition in seconds; ``None`` is no limit, or the default."""

    wait: Optional[float]
    max_hold: Optional[float]
    lease: Optional[float]
    #: After how long the owner is asked to end, if its end is planned.
    ask_after: Optional[float]
    hold_at_least: Optional[float]

    @classmethod
    def of(cls, lock: NativeGlobalLock, renews: bool) -> "Times":
        """Reads them from a lock, and checks that they go together."""
        waits = lock.blocking is None or boolean("blocking", lock.blocking)
        wait = _time("blocking_timeout", lock.blocking_timeout) if waits else 0.0
        lease, hold = _time("lock_ttl", lock.lock_ttl), _time("timeout", lock.timeout)
        # It has no effect, but one that is no time is a mistake. Most have the default.
        if lock.sleep != 0.1:
            _time("sleep", lock.sleep)
        limits = "timeout"
        if lease is not None and not renews:
            # Without renewal the lease would end the hold. So it becomes the max hold time.
            if hold is None or lease < hold:
                hold, limits = lease, "lock_ttl, because of auto_renew=False"
            lease = None
        ask_after, grace = None, _time("grace", lock.grace)
        if grace is not None:
            if hold is None:
                raise InvalidOption("the option grace needs a timeout, after which it begins")
            # The store's limit lies behind the grace, so that nobody else is granted the lock before.
            ask_after, hold, limits = hold, hold + grace, f"{limits} and grace"
            if hold > YEAR:
                raise InvalidOption(f"{limits} are {hold:.0f} s together, which is more than a year")
        least = _time("hold_at_least", lock.hold_at_least)
        if least is not None and hold is not None and least > hold:
            raise InvalidOption(
                f"the option hold_at_least is {least:g} s, and the lock is held for {hold:g} s at most "
                f"({limits})"
            )
        return cls(wait, hold, lease, ask_after, least)


def _time(option: str, value: Any) -> Optional[float]:
    return None if value is None else seconds(option, value)


def kind(value: Any) -> str:
    """Reads the kind of a lock."""
    if not isinstance(value, str) or value not in _KINDS:
        raise InvalidOption(f"the option kind must be one of {list(_KINDS)}{suggestion(value, _KINDS)}")
    return value


def count(option: str, value: Any, most: int) -> int:
    """Reads a number of permits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        # Python refuses to write the digits of very large numbers.
        number = str(value) if is_number and abs(value) < 2**64 else "too large"
        shown = number if is_number else f"of type {type(value).__name__}"
        raise InvalidOption(f"the option {option} is {shown}: give a whole number from 1 to {most}")
    return int(value)


def refuse_unknown(engine: str, options: Mapping[str, Any]) -> None:
    """Refuses those of the other options of ``lock()`` that nobody knows, and wrong values of the rest."""
    for option, value in options.items():
        if option not in ACCEPTED:
            raise InvalidOption(f"{engine}: lock() has no option {option!r}{suggestion(option, _KNOWN)}")
        if value is not None:
            (seconds if option == "renew_interval" else boolean)(option, value)


def limit(option: str, value: Any) -> Optional[float]:
    """Reads for how long to wait: also no limit, an endless one, and one that has passed already."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or (isinstance(value, (int, float)) and value > YEAR):
        return None
    if isinstance(value, (int, float)) and value < 0:
        return 0.0
    return seconds(option, value)
