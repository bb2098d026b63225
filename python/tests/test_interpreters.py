"""Interpreters on which locks would not be safe are refused at the import, with a sentence."""

import pytest
from conftest import ends, run

#: Tells that it is a free-threaded build, before the package is imported.
FREE_THREADED = """
import sys
sys.abiflags = "t"
try:
    import globallock
except ImportError as error:
    print(error)
"""

#: Imports the package in a subinterpreter of the kind that is named, and then in the main one.
SUBINTERPRETER = """
import sys

program = f'''
import sys
sys.path[:] = {sys.path!r}
try:
    import globallock
except ImportError as error:
    print(error, flush=True)
else:
    print("imported", flush=True)
'''
kind = sys.argv[1]
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=kind == "isolated")
else:
    made = interpreters.create(kind)
interpreters.run_string(made, program)
interpreters.destroy(made)

from globallock import GlobalLockManager

with GlobalLockManager("memory:after") as lockman, lockman.lock("a") as lock:
    print(lock.is_locked)
"""


def test_a_free_threaded_build_is_refused():
    assert "free-threaded build: use the ordinary build of CPython 3." in ends(run(FREE_THREADED))


@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_subinterpreter_is_refused_and_the_main_one_goes_on(kind):
    refused, after = ends(run(SUBINTERPRETER, kind)).splitlines()
    assert refused.startswith("globallock cannot be used in a subinterpreter: import it in the main ")
    assert after == "True"
