"""Under eventlet, locks are refused with a sentence. Each test is a program, because eventlet patches all."""

import importlib.util
import os

import pytest
from conftest import ends, run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("eventlet") is None and os.environ.get("GLOBALLOCK_FRAMEWORKS") != "1",
    reason="eventlet is not installed",
)

BEGIN = """
import warnings
warnings.simplefilter("ignore")
import asyncio, eventlet
from globallock import GlobalLockError, GlobalLockManager
"""

REFUSED = """
lockman = GlobalLockManager("memory:eventlet")

def acquire():
    lockman.lock("a").acquire()

def enter():
    with lockman.lock("a"):
        print("the body runs")

def try_once():
    lockman.lock("a", blocking=False).acquire()

def several():
    lockman.lock_all(["a", "b"]).acquire()

def once():
    lockman.once("a", every=60).run(print)

for use in (acquire, enter, try_once, several, once):
    try:
        use()
    except GlobalLockError as error:
        assert type(error) is GlobalLockError
        print(use.__name__, error)
assert lockman.inspect("a") == []
lockman.close()
"""

#: What eventlet does not patch works as ever.
UNPATCHED = """
lockman = GlobalLockManager("memory:eventlet")
with lockman.lock("a") as lock:
    print(lock.is_locked)
lockman.close()
"""


@pytest.mark.parametrize("patched", ["monkey_patch()", "monkey_patch(all=False, thread=True)"])
def test_each_way_to_acquire_is_refused_in_a_patched_process(patched):
    refused = ends(run(f"{BEGIN}eventlet.{patched}{REFUSED}")).splitlines()
    assert [line.split()[0] for line in refused] == ["acquire", "enter", "try_once", "several", "once"]
    assert all("eventlet is not supported" in line and "Use gevent, " in line for line in refused)


def test_without_patches_locks_work():
    assert ends(run(BEGIN + UNPATCHED)) == "True\n"
