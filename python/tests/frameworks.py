"""Frameworks are installed for the tests of one CPython only. There, their tests must run."""

import importlib.util
import os
from importlib.metadata import distributions

import pytest


def has_framework(*modules):
    """Whether the tests of these frameworks are to run.

    ``GLOBALLOCK_FRAMEWORKS=1``: they must be installed. ``0``: no, because another CPython runs them.
    """
    wanted = os.environ.get("GLOBALLOCK_FRAMEWORKS")
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing and wanted == "1":
        raise ImportError(f"GLOBALLOCK_FRAMEWORKS=1, and these are not installed: {', '.join(missing)}")
    return not missing and wanted != "0"


def needs_framework(*modules):
    """Skips the tests of a module where its frameworks are not installed."""
    if not has_framework(*modules):
        pytest.skip(f"another CPython runs the tests of {', '.join(modules)}", allow_module_level=True)


def with_plugin():
    """The options for a pytest that has the plugin: none where the package is installed."""
    entries = (entry for each in distributions() for entry in each.entry_points)
    is_installed = any(entry.group == "pytest11" and entry.value == "pytest_globallock" for entry in entries)
    return () if is_installed else ("-p", "pytest_globallock")
