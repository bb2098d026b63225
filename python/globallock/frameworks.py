"""What the modules for frameworks have in common. No framework is a dependency of this package."""

from __future__ import annotations

import importlib
import string
import weakref
from typing import Any, Callable, Union

from .base import GlobalLockManager
from .exceptions import InvalidOption

__all__ = ["Lockman", "fields", "imported", "managed"]

#: A manager, or what makes one.
Lockman = Union[GlobalLockManager, "Callable[[], GlobalLockManager]"]


def imported(module: str, here: str, package: str) -> Any:
    """Imports a module of a framework, and says what to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{here} needs {package}: pip install {package}") from error


_made: "weakref.WeakKeyDictionary[Any, GlobalLockManager]" = weakref.WeakKeyDictionary()


def managed(lockman: Lockman) -> GlobalLockManager:
    """The manager itself, or the one that a function has made: it is called once."""
    if isinstance(lockman, GlobalLockManager):
        return lockman
    found = _made.get(lockman)
    if found is None:
        made = lockman()
        if not isinstance(made, GlobalLockManager):
            kind = type(made).__name__
            raise InvalidOption(f"lockman is of type {kind}: give a GlobalLockManager, or what makes one")
        found = _made.setdefault(lockman, made)
    return found


def fields(name: str) -> "list[str]":
    """The fields of a name, without what follows a dot or a bracket in them."""
    try:
        parsed = [each[1] for each in string.Formatter().parse(name) if each[1] is not None]
    except ValueError as error:
        raise InvalidOption(f"the name {name!r} is not understood: {error}") from error
    found = [field.split(".")[0].split("[")[0] for field in parsed]
    if any(not field.isidentifier() for field in found):
        raise InvalidOption(f"the name {name!r} has a field that is no name of a parameter")
    return found
