"""What the core says, field by field; classes for users are made of it."""

from __future__ import annotations

from typing import Optional, Tuple

__all__ = ["EntryFields", "ReasonFields", "SummaryFields", "ValueFields"]

#: Of a claim: its key and id, whether it is held, its permits, the capacity, its fencing token, its owner's
#: host, process and label, its age, and for how long it is kept.
EntryFields = Tuple[
    str,
    Optional[str],
    bool,
    int,
    int,
    int,
    Tuple[str, Optional[int], Optional[str]],
    Optional[float],
    Optional[float],
]

#: Of a name: its kind, how many hold it and wait for it, the highest fencing token, and the oldest age.
SummaryFields = Tuple[str, Optional[str], int, int, int, Optional[float]]

#: Of a value: its bytes, fencing token and age.
ValueFields = Tuple[bytes, int, float]

#: Why an owner must end its work: which kind of loss, or ``asked``, and a sentence.
ReasonFields = Tuple[str, str]
