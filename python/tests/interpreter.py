"""What the interpreter itself does to exceptions that may arise at any moment."""

import contextlib
import sys


@contextlib.contextmanager
def again(kind, raising):
    """Has an exception of a kind raised again that the interpreter has swallowed in a callback of others: of
    a weak reference, or of the garbage collector, as Hypothesis has one. These can run at any moment."""
    ignored = sys.unraisablehook

    def hook(unraisable):
        module = getattr(unraisable.object, "__module__", None) or "globallock"
        if unraisable.exc_type is kind and module.split(".")[0] != "globallock":
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
