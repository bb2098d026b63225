"""What the interpreter itself does to exceptions that may arise at any moment."""

import contextlib
import sys


@contextlib.contextmanager
def again(kind, raising):
    """Has an exception of a kind raised again that the interpreter has swallowed in one of its own callbacks
    of weak references, which can run at any moment."""
    ignored = sys.unraisablehook

    def hook(unraisable):
        is_its_own = getattr(unraisable.object, "__module__", None) in ("_weakrefset", "weakref")
        if unraisable.exc_type is kind and is_its_own:
            raising()
        else:
            ignored(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = ignored


def end_what_the_interpreter_left(lockman):
    """Before 3.10, CPython itself may raise between a block and its end: then not even a `threading.Lock` is
    released that the block has taken."""
    if sys.version_info < (3, 10):
        for lock, acquisition in list(lockman._held):
            lock._holdings.exit(acquisition)
            lock._give_back(acquisition)
