"""The fixtures for pytest, in a package of its own: a run that uses none does not import the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

import pytest

if TYPE_CHECKING:
    from globallock import GlobalLockManager
    from globallock.testing import Locks

__all__ = ["global_locks", "lockman"]


@pytest.fixture
def global_locks() -> "Iterator[Locks]":
    """Keeps the locks of all managers in memory while a test runs, and plays the part of others."""
    from globallock import testing

    with testing.locks() as locks:
        yield locks


@pytest.fixture
def lockman(global_locks: "Locks") -> "GlobalLockManager":
    """A manager whose locks are in memory."""
    return global_locks.lockman
