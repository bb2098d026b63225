"""The clock by which limits are counted."""

from __future__ import annotations

import time

__all__ = ["now"]

#: The clock that goes on while the host is suspended. Linux and macOS have different names for it.
_GOING_ON = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Seconds since some moment, by a clock that nobody sets and that no suspension of the host stops."""
    return time.monotonic() if _GOING_ON is None else time.clock_gettime(_GOING_ON)
