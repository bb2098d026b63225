"""Names the lock of a call by the arguments of the function."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import string
import types
from typing import Any, Callable, Dict, Optional, Tuple, Union

from .deferred import function_of, shown
from .exceptions import InvalidName, InvalidOption

__all__ = ["Name", "namer"]

#: The name of a lock: a text, with fields of the function's parameters such as ``order/{order_id}``; a
#: function that makes it of the same arguments; or ``None`` for the function's own name.
Name = Union[str, Callable[..., str], None]

_Arguments = Tuple[Any, ...]
_Keywords = Dict[str, Any]

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

#: What the interpreter does between loading a function and its arguments, which changes neither.
_BETWEEN = frozenset({"BUILD_MAP", "CACHE", "DICT_MERGE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "PUSH_NULL"})
_CALL = ["function", "args", "kwargs", "CALL_FUNCTION_EX"]


def namer(function: Any, name: Name) -> "Callable[[_Arguments, _Keywords], str]":
    """Makes what names the lock of each call."""
    if name is not None and not isinstance(name, str):
        make = name
        return lambda args, kwargs: make(*args, **kwargs)
    if name is None:
        named = function_of(function)
        own = f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"
        return lambda args, kwargs: own
    fields = _fields(name)
    if not fields:
        fixed = name.format()
        return lambda args, kwargs: fixed
    called = _inner(function)
    signature = _signature(called)
    parameters = signature.parameters
    named_ones = {each.name for each in parameters.values() if each.kind not in _VARIABLE}
    others = [each.name for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
    for field in fields:
        known = re.split(r"[.\[]", field)[0]
        if known not in named_ones and _is_wrapper(called):
            raise InvalidOption(
                f"the name {name!r} has the field {{{field}}}, and {shown(function)} is made by another "
                "decorator, which may change the arguments: put @locked below it, or give a function as name"
            )
        if known not in parameters and not (others and known.isidentifier()):
            raise InvalidOption(
                f"the name {name!r} has the field {{{field}}}, and {shown(function)} has no such parameter "
                f"but {', '.join(parameters) or 'none'}: write {{{{ for a brace"
            )

    def made(args: _Arguments, kwargs: _Keywords) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments: "Dict[str, Any]" = {}
        for other in others:
            arguments.update(bound.arguments[other])
        # Where a keyword has the name of a positional parameter, the parameter is meant.
        arguments.update(bound.arguments)
        for field in fields:
            known = re.split(r"[.\[]", field)[0]
            if known not in arguments:
                raise InvalidName(
                    f"the name {name!r} needs the argument {known!r}, and {shown(function)} got none"
                )
        return name.format_map(arguments)

    return made


def _fields(name: str) -> "list[str]":
    """The fields of a name that is a format."""
    try:
        parsed = [(field, spec) for _, field, spec, _ in string.Formatter().parse(name) if field is not None]
    except ValueError as error:
        raise InvalidOption(f"the name {name!r} is no format ({error}): write {{{{ for a brace") from None
    for field, spec in parsed:
        if spec and "{" in spec:
            raise InvalidOption(
                f"the name {name!r} has a field in the field {{{field}}}: give a function as name"
            )
    return [field for field, _ in parsed]


def _signature(function: Any) -> inspect.Signature:
    """The signature of a function itself: one that it wraps may have other arguments."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except ValueError:
        raise InvalidOption(
            f"the parameters of {shown(function)} are not known: give a function as name"
        ) from None


def _is_wrapper(function: Any) -> bool:
    function = function_of(function)
    return hasattr(function, "__wrapped__") and getattr(function, "__signature__", None) is None


def _inner(function: Any) -> Any:
    """The function that is called in the end with the very arguments that this one is called with."""
    if isinstance(function, functools.partial):
        return functools.partial(_inner(function.func), *function.args, **function.keywords)
    if inspect.ismethod(function):
        return types.MethodType(_inner(function.__func__), function.__self__)
    while _is_wrapper(function) and _passes_on(function):
        function = function.__wrapped__
    return function


def _passes_on(wrapper: Any) -> bool:
    """Whether a function that wraps another one surely calls it with its own arguments.

    That is read from its code: it has the parameters ``*args, **kwargs``, each of its calls is
    ``function(*args, **kwargs)``, and it does nothing else with the function and the keywords.
    """
    if type(wrapper) is type(functools.lru_cache(len)):
        return True
    if not isinstance(wrapper, types.FunctionType):
        return False
    if str(wrapper.__globals__.get("__name__")).partition(".")[0] == __name__.partition(".")[0]:
        # One of this package's own decorators.
        return True
    code = wrapper.__code__
    if code in _SINGLE_DISPATCH:
        return True
    if code.co_argcount or code.co_kwonlyargcount or code.co_flags & _VARIADIC != _VARIADIC:
        return False
    names = {code.co_varnames[0]: "args", code.co_varnames[1]: "kwargs"}
    wrapped: Any = wrapper.__wrapped__  # type: ignore[attr-defined]
    for free, cell in zip(code.co_freevars, wrapper.__closure__ or ()):
        if _content(cell) is wrapped:
            names[free] = "function"
    return _only_calls(code, names)


def _only_calls(code: types.CodeType, names: "Dict[str, str]") -> bool:
    """Whether the code uses the function and the keywords in calls with the very arguments alone."""
    if names.keys() & set(code.co_cellvars):
        # A function within may change them.
        return False
    steps: "list[str]" = []
    for step in dis.get_instructions(code):
        if step.opname in _BETWEEN:
            continue
        if not any(word in step.opname for word in ("FAST", "DEREF", "CLOSURE")):
            steps.append(step.opname)
            continue
        # One instruction may be about two variables. Where it stores one, it is the first.
        used = list(step.argval) if isinstance(step.argval, tuple) else [step.argval]
        if step.opname.startswith("STORE_FAST_LOAD_FAST") and used[0] not in names:
            used[0] = step.opname
        elif not step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and names.keys() & set(used):
            # It is changed, or used by a function within.
            return False
        steps.extend(names.get(each, "another") for each in used)
    calls, at = 0, 0
    while at < len(steps):
        if steps[at : at + len(_CALL)] == _CALL:
            calls, at = calls + 1, at + len(_CALL)
        elif steps[at] in ("function", "kwargs"):
            return False
        else:
            at += 1
    return calls > 0


def _content(cell: Any) -> Optional[Any]:
    try:
        return cell.cell_contents
    except ValueError:
        return None


_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_SINGLE_DISPATCH = {getattr(functools.singledispatch(lambda _: None), "__code__", None)}
