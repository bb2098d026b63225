"""Tests of frameworks run on one CPython only, and there they must run."""

import importlib
import os

import pytest


def need(*modules):
    """Skips a module of tests whose frameworks are not installed, except where they have to be."""
    wanted = os.environ.get("GLOBALLOCK_FRAMEWORKS")
    if wanted == "0":
        pytest.skip("run on the newest CPython only", allow_module_level=True)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            if wanted == "1":
                raise
            pytest.skip(f"{module} is not installed", allow_module_level=True)
