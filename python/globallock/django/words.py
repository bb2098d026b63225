"""How locks are shown to people: on a terminal, and in the admin."""

from __future__ import annotations

from typing import List, Optional, Sequence

from ..engine import Claim

__all__ = ["lasted", "printable", "table", "who"]

#: Seconds of the units that a time is written in, two of them at most.
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def lasted(seconds: Optional[float]) -> str:
    """Writes a time: ``2 h 10 min``. A dash where the store does not know it."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    for number, (unit, length) in enumerate(_UNITS[:-1]):
        if left >= length:
            smaller, small = _UNITS[number + 1]
            rest = left % length // small
            return f"{left // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{left} s"


def printable(text: Optional[str]) -> str:
    """Escapes what would change a terminal, or the direction of the text around it."""
    if not text:
        return "-"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def who(claim: Claim) -> str:
    """Names the owner of a claim: ``nightly (pid 312 on db1)``."""
    where = f"pid {claim.pid} on {printable(claim.host)}" if claim.pid is not None else printable(claim.host)
    return f"{printable(claim.label)} ({where})" if claim.label else where


def table(head: Sequence[str], rows: "Sequence[Sequence[str]]") -> "List[str]":
    """Lays out rows below their head, as wide as the widest entry."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(entry.ljust(width) for entry, width in zip(line, widths)).rstrip() for line in lines]
