"""What the modules for frameworks have in common. No framework is a dependency of this package."""

from __future__ import annotations

import importlib
import inspect
import string
import weakref
from typing import Any, Callable, Mapping, Union

from .base import GlobalLockManager
from .exceptions import InvalidOption

__all__ = ["Lockman", "Name", "Names", "imported", "managed"]

#: The name of a lock: a text with fields, or what makes it of the arguments.
Name = Union[str, "Callable[..., str]"]
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


class Names:
    """The names of a function's locks, which are made of its arguments."""

    def __init__(self, name: Name, function: "Callable[..., Any]") -> None:
        self._name, self._signature = name, inspect.signature(function)
        if callable(name):
            return
        parameters = self._signature.parameters.values()
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
        for field in fields(name):
            if field not in self._signature.parameters and not takes_any:
                shown = getattr(function, "__qualname__", repr(function))
                raise InvalidOption(f"the name {name!r} has the field {field!r}, which {shown}() has not")

    def of(self, args: "tuple[Any, ...]", kwargs: "Mapping[str, Any]") -> str:
        """The name for one call."""
        if callable(self._name):
            return self._name(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for each in self._signature.parameters.values():
            if each.kind is each.VAR_KEYWORD:
                values.update(values.pop(each.name))
        return self._name.format_map(values)


def fields(name: str) -> "list[str]":
    """The fields of a name, without what follows a dot or a bracket in them."""
    try:
        parsed = [each[1] for each in string.Formatter().parse(name) if each[1] is not None]
    except ValueError as error:
        raise InvalidOption(f"the name {name!r} is not understood: {error}") from error
    found = [field.split(".")[0].split("[")[0] for field in parsed]
    if any(not field.isidentifier() for field in found):
        raise InvalidOption(f"the name {name!r} has a field that is no name of an argument")
    return found
