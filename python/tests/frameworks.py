"""Frameworks are installed for the tests of one CPython only. There, their tests must run."""

import importlib.util
import os

import pytest


def needs_framework(*modules):
    """Skips the tests of a module where its frameworks are not installed, unless this run must have them.

    ``GLOBALLOCK_FRAMEWORKS=1``: they must be there. ``0``: skipped, because another CPython runs them.
    """
    if os.environ.get("GLOBALLOCK_FRAMEWORKS") == "0":
        pytest.skip("another CPython runs the tests of frameworks", allow_module_level=True)
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing and os.environ.get("GLOBALLOCK_FRAMEWORKS") == "1":
        raise ImportError(f"GLOBALLOCK_FRAMEWORKS is set, and these are not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)
