"""The examples in the docstrings of everything that is public."""

import ast
import asyncio
import collections
import doctest
import inspect
import itertools
import os
import queue
import threading
from datetime import timedelta

import globallock
import globallock.aio
import pytest
from globallock import GlobalLockImplementationBase, GlobalLockManager

#: Only a server that knows users refuses one: test_servers.py shows it.
WITHOUT_EXAMPLE = {"StoreDenied"}

#: Methods, also those of the core, and properties.
MEMBERS = (property, classmethod, staticmethod, type(lambda: None), type(str.split))


def is_ours(cls):
    return cls.__module__.split(".")[0] == "globallock"


def is_options(thing):
    """Whether this is a TypedDict: the fields of those are the options that lock() documents."""
    return isinstance(thing, type) and hasattr(thing, "__total__")


def public():
    """Everything public that needs an example, by its name: what is inherited stands where it is defined."""
    found = {"globallock": globallock}
    for module in (globallock, globallock.aio):
        for name in module.__all__:
            thing = getattr(module, name)
            if not callable(thing) or is_options(thing) or name in WITHOUT_EXAMPLE:
                continue
            found[name] = thing
            for cls in filter(is_ours, getattr(thing, "__mro__", ())):
                for member, value in vars(cls).items():
                    if not member.startswith("_") and isinstance(value, MEMBERS):
                        # CPython 3.9 documents a class method as a class method.
                        found[f"{cls.__name__}.{member}"] = getattr(value, "__func__", value)
    return found


PUBLIC = public()


def examples(thing):
    return doctest.DocTestParser().get_examples(inspect.getdoc(thing) or "")


def shows_a_result(thing):
    """Whether an example of it fails where the thing does something else."""
    return any(example.want or example.exc_msg for example in examples(thing))


def names_used(thing):
    trees = [ast.parse(example.source) for example in examples(thing)]
    nodes = list(itertools.chain.from_iterable(map(ast.walk, trees)))
    return {getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
            for node in nodes}  # fmt: skip


class OwnLock(GlobalLockImplementationBase):
    """A lock of an engine that a user wrote, so that the base class of all engines does the work."""

    mutexes = collections.defaultdict(threading.Lock)

    def _do_acquire(self):
        self.lock = self.mutexes[self.name]
        return self.lock.acquire(blocking=False)


@pytest.fixture
def names(request):
    """The names that the examples of one docstring may use, with a store of its own."""
    names = {name: getattr(globallock, name) for name in globallock.__all__}
    names.update(asyncio=asyncio, os=os, queue=queue, threading=threading, timedelta=timedelta)
    config = f"memory:{request.node.name}"
    if request.node.callspec.params["what"].startswith("GlobalLockImplementationBase."):
        config = {"global_lock_engine_class": OwnLock}
    with GlobalLockManager(config) as lockman:
        yield {**names, "lockman": lockman, "__name__": "__main__"}


def failures(what, thing, names):
    """Runs the examples of a docstring, and returns what is wrong with them; empty if nothing is."""
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", names, what, what, 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    return "".join(report)


@pytest.mark.parametrize("what", sorted(PUBLIC))
def test_the_example_holds(what, names):
    thing = PUBLIC[what]
    assert examples(thing), f"{what} has no example: write one with >>> into its docstring"
    assert shows_a_result(thing), f"the example of {what} shows no result, so it cannot fail"
    wrong = failures(what, thing, names)
    assert not wrong, wrong


@pytest.mark.parametrize("what", sorted(name for name in PUBLIC if "." in name))
def test_the_example_uses_what_it_is_for(what):
    member = what.split(".")[1]
    assert member in names_used(PUBLIC[what]), f"the example of {what} does not use {member}"


def test_no_example_is_written_so_that_it_is_not_run():
    def is_left_out(thing):
        lines = [line.strip() for line in (inspect.getdoc(thing) or "").split("\n")]
        return "::" in lines or any(".. code" in line or "+SKIP" in line for line in lines)

    assert [what for what, thing in PUBLIC.items() if is_left_out(thing)] == []


def test_what_has_no_example_is_public_and_has_a_docstring():
    for name in WITHOUT_EXAMPLE:
        assert name in globallock.__all__ and inspect.getdoc(getattr(globallock, name))


def test_everything_public_is_found():
    of_each_kind = {
        "globallock", "GlobalLockManager", "GlobalLockManager.aio", "NativeGlobalLock.make_engine",
        "Shield.acquire", "Shield.release", "TurnBase.due", "AsyncLocks.list", "NotLocked", "Loss",
    }  # fmt: skip
    assert of_each_kind <= set(PUBLIC)
    assert not any(name.endswith("Options") for name in PUBLIC)


class Wrong:
    def without(self):
        """Does something."""

    def empty(self):
        """Does something.

        >>> lock = lockman.lock("a")
        """

    def failing(self):
        """Does something.

        >>> lockman.names()
        ['a']
        """


@pytest.mark.parametrize("what", ["without", "empty", "failing"])
def test_a_wrong_example_is_found(what, lockman):
    thing = getattr(Wrong, what)
    found = failures(what, thing, {"lockman": lockman})
    assert not (shows_a_result(thing) and found == "")
    assert ("Expected" in found) == (what == "failing")
