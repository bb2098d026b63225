"""Names of locks that contain arguments, and what is done where a lock is taken."""

from __future__ import annotations

import inspect
import string
from typing import Any, Callable, Mapping, Union

from ..exceptions import InvalidOption, NotLocked

__all__ = ["OnBusy", "Namer", "busy", "check_on_busy", "view_name"]

#: ``"raise"``, ``"skip"``, or what is called in place of the function, with the same arguments.
OnBusy = Union[str, Callable[..., Any]]


class Namer:
    """Makes the name of a lock from the arguments of a call: ``"order/{order_id}"``."""

    def __init__(self, template: str, function: "Callable[..., Any]") -> None:
        self._template = template
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        self._has_fields = bool(fields)
        self._signature = inspect.signature(function) if fields else None
        if self._signature is None:
            return
        parameters = self._signature.parameters
        # Others may come as keywords, which are known at the call only.
        is_open = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        for field in fields:
            root = field.replace("[", ".").partition(".")[0]
            if not is_open and root not in parameters:
                known = ", ".join(parameters)
                raise InvalidOption(f"the lock {template!r} names {root!r}, which is none of: {known}")

    def __call__(self, arguments: "tuple[Any, ...]", keywords: "Mapping[str, Any]") -> str:
        """The name for these arguments."""
        if self._signature is None:
            # Braces that are doubled stand for one, with and without fields.
            return self._template.format()
        bound = self._signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                values.update(values.pop(name))
        try:
            return self._template.format_map(values)
        except KeyError as error:
            known = ", ".join(values)
            text = f"the lock {self._template!r} names {error.args[0]!r}, which is none of: {known}"
            raise InvalidOption(text) from None


def view_name(
    template: str, request: Any, arguments: "tuple[Any, ...]", keywords: "Mapping[str, Any]"
) -> str:
    """Makes the name of a view's lock from what Django gives to the view.

    The signature of a view tells nothing, because most are wrapped: ``request`` has that name, and what the
    address contains has its own, or a number from 0 on.
    """
    try:
        return template.format(*arguments, request=request, **keywords)
    except (KeyError, IndexError) as error:
        known = ", ".join(["request", *keywords])
        text = f"the lock {template!r} names {error.args[0]!r}; the view is given: {known}"
        raise InvalidOption(text) from None


def check_on_busy(on_busy: OnBusy) -> OnBusy:
    """Refuses what cannot be done where a lock is taken."""
    if on_busy not in ("raise", "skip") and not callable(on_busy):
        raise InvalidOption(f"on_busy is {on_busy!r}: give 'raise', 'skip' or a callable")
    return on_busy


def busy(on_busy: OnBusy, name: str, *arguments: Any, **keywords: Any) -> Any:
    """Does what was asked for where a lock is taken."""
    if callable(on_busy):
        return on_busy(*arguments, **keywords)
    if on_busy == "skip":
        return None
    raise NotLocked(name)
