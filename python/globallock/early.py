"""What is wrong with the options of a lock, told where they are written and not when it is acquired."""

from __future__ import annotations

import functools
from typing import Any, Iterable, Mapping

from .addresses import YEAR, lock_name, seconds, suggestion
from .base import GlobalLockManager
from .exceptions import InvalidName, InvalidOption
from .lock_options import KNOWN, Times
from .native import NativeGlobalLock

__all__ = ["refuse_lockman", "refuse_name", "refuse_options"]

#: What any engine refuses, in bytes.
_LONGEST_NAME = 512


def refuse_options(door: str, options: "Mapping[str, Any]", own: "Iterable[str]", lockman: Any) -> None:
    """Refuses options that no lock could have; sends nothing to a store.

    :param door: the function that was given the options, for the error.
    :param own: the options that the function has besides those of ``lock()``.
    :param lockman: the manager, if it is known already.
    """
    is_known = isinstance(lockman, GlobalLockManager)
    refuse_lockman(lockman)
    manager = lockman if is_known else _any_manager()
    engine: Any = manager.lock_class
    is_ours = isinstance(engine, type) and issubclass(engine, NativeGlobalLock)
    if is_ours:
        for option in options:
            if option not in KNOWN:
                hint = suggestion(option, {*KNOWN, *own})
                if not (hint or is_known):
                    hint = ": if it is one of your own engine, give the manager itself as lockman=…"
                raise InvalidOption(f"{door}() has no option {option!r}{hint}")
    given = dict(options)
    if not is_known and given.get("grace") is not None and given.get("timeout") is None:
        # The configuration may have the timeout that it needs.
        given["timeout"] = max(0.1, YEAR - seconds("grace", given["grace"]))
    lock = manager.lock("any", **given)
    if is_ours:
        Times.of(lock, lock._renews())


@functools.lru_cache(maxsize=None)
def _any_manager() -> GlobalLockManager:
    """Stands for a manager that is not known yet. It never connects."""
    return GlobalLockManager("memory:options")


def refuse_lockman(lockman: Any) -> None:
    """Refuses what is neither a manager nor makes one."""
    if not (lockman is None or isinstance(lockman, GlobalLockManager) or callable(lockman)):
        kind = type(lockman).__name__
        raise InvalidOption(f"lockman is of type {kind}: give a GlobalLockManager, or what makes one")


def refuse_name(name: Any) -> None:
    """Refuses what no store could have as a name."""
    size = len(lock_name(name).encode())
    if not 0 < size <= _LONGEST_NAME or "\0" in name:
        why = f"it has {size} bytes, the limit is {_LONGEST_NAME}" if size else "it is empty"
        why = "it contains a NUL character" if "\0" in name else why
        raise InvalidName(f"invalid lock name {name[:64]!r}: {why}")
