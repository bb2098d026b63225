"""The host is suspended: every limit goes on meanwhile.

A host cannot be suspended in a test. So a program is stopped, and a library that is loaded into it gives its
clocks the difference that a suspension makes.
"""

import os
import shutil
import signal
import struct
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT, eventually, run
from globallock import GlobalLockManager
from globallock.kinds import AllLocks

#: How late an owner may learn what it should have learnt while it was suspended, with a busy machine.
LATE = 3.0

COMMON = """
import asyncio, sys, threading, time
from globallock import GlobalLockManager

def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)

lockman = GlobalLockManager(sys.argv[1], lock_ttl=3)
"""

#: Reads all the time whether a lock is held. Prints when a reading began that still said so, and when the
#: loss was told.
THREADS = COMMON + """
lock = lockman.lock(sys.argv[2])
assert lock.acquire()
told = []
lost = threading.Event()
lock.on_lost(lambda reason: (told.append(now()), lost.set()))
believed = began = now()
assert lock.is_locked
print("granted", flush=True)
while lock.is_locked:
    believed, began = began, now()
    time.sleep(0.001)
assert lost.wait(30)
print(believed, told[0])
"""

TASKS = COMMON + """
async def main():
    lock = lockman.aio.lock(sys.argv[2])
    assert await lock.acquire()
    lost = asyncio.ensure_future(lock.lost())
    lost.add_done_callback(lambda _: told.append(now()))
    believed = began = now()
    assert lock.is_locked
    print("granted", flush=True)
    while lock.is_locked:
        believed, began = began, now()
        await asyncio.sleep(0.001)
    assert await lost
    await asyncio.sleep(0)
    print(believed, told[0])

told = []
asyncio.run(main())
"""

#: Waits for two locks together, for 8 seconds. Prints how long that took.
BOTH = COMMON + """
names = sys.argv[2], sys.argv[3]
print("waits", flush=True)
since = now()
assert not lockman.lock_all(names, blocking_timeout=8).acquire()
print(now() - since)
"""

BOTH_TASKS = COMMON + """
async def main():
    names = sys.argv[2], sys.argv[3]
    print("waits", flush=True)
    since = now()
    assert not await lockman.aio.lock_all(names, blocking_timeout=8).acquire()
    print(now() - since)

asyncio.run(main())
"""


#: Prints when it was asked to end, six seconds after the grant.
ASKED = COMMON + """
lock = lockman.lock(sys.argv[2], timeout=6, grace=300)
assert lock.acquire()
asked = lock.asked_to_end_event()
print("granted", flush=True)
assert asked.wait(60) and lock.is_locked
print(now())
"""

ASKED_TASKS = COMMON + """
async def work():
    print("granted", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print(now())

asyncio.run(lockman.aio.lock(sys.argv[2], timeout=6, grace=300).run(work))
"""


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Suspended:
    """A program whose clocks can be shown a suspension."""

    def __init__(self, directory, program, *arguments):
        source = ROOT / "crates" / "globallock-conformance" / "src" / "server" / "clock.c"
        library, self.shifts = directory / "clock.so", directory / "shifts"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        self.shifts.write_bytes(bytes(16))
        clock = {"LD_PRELOAD": str(library), "GLOBALLOCK_CLOCK": str(self.shifts)}
        self.process = run(program, *arguments, env={**os.environ, **clock})
        self.process.stdout.readline()

    def suspend(self, meanwhile):
        """Suspends it until something is done, and returns when it goes on."""
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)
        with open(f"/proc/{pid}/stat") as stat:
            eventually("it is stopped", lambda: stat.seek(0) or ") T " in stat.read())
        since = now()
        meanwhile()
        awake = now()
        with open(self.shifts, "r+b") as shifts:
            shifts.write(struct.pack("=qq", 0, int((awake - since) * 1e9)))
        os.kill(pid, signal.SIGCONT)
        return awake

    def numbers(self):
        printed, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return [float(number) for number in printed.split()]


needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or not hasattr(time, "CLOCK_BOOTTIME"),
    reason="it needs Linux and a C compiler",
)


@needs_compiler
@pytest.mark.parametrize("program", [THREADS, TASKS], ids=["threads", "tasks"])
def test_a_lock_is_lost_at_the_first_look_after_a_suspension(program, redis_server, name, tmp_path):
    owner = Suspended(tmp_path, program, redis_server.url, name)
    with GlobalLockManager(redis_server.url) as lockman:
        lock = lockman.lock(name)
        # The owner cannot renew, so the lock becomes free.
        awake = owner.suspend(lambda: lock.acquire() and lock.release())
    believed, told = owner.numbers()
    assert believed < awake, f"it held the lock for {believed - awake} s more"
    assert told < awake + LATE


@needs_compiler
@pytest.mark.parametrize("program", [ASKED, ASKED_TASKS], ids=["threads", "tasks"])
def test_an_owner_is_asked_to_end_after_a_suspension_as_if_there_was_none(program, name, tmp_path):
    # In a directory a lock outlasts a suspension.
    owner = Suspended(tmp_path, program, f"file://{tmp_path}/locks", name)
    awake = owner.suspend(lambda: threading.Event().wait(8))
    [asked] = owner.numbers()
    assert awake <= asked < awake + LATE


@needs_compiler
@pytest.mark.parametrize("program", [BOTH, BOTH_TASKS], ids=["threads", "tasks"])
def test_the_limit_of_several_locks_goes_on_in_a_suspension(program, redis_server, name, tmp_path):
    with GlobalLockManager(redis_server.url) as lockman:
        first, second = lockman.lock(f"{name}-1"), lockman.lock(f"{name}-2")
        assert first.acquire() and second.acquire()
        waiter = Suspended(tmp_path, program, redis_server.url, first.name, second.name)
        eventually("it waits", lambda: len(lockman.inspect(first.name)) == 2)
        # Two seconds are left when it wakes, and then it is granted the first of them.
        waiter.suspend(lambda: (threading.Event().wait(6), first.release()))
        [took] = waiter.numbers()
        assert 8 - 0.1 < took < 8 + LATE


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_what_is_left_of_a_limit_is_counted_by_the_clock_that_goes_on(monkeypatch):
    shown = {time.CLOCK_BOOTTIME: 1000.0, time.CLOCK_MONOTONIC: 10.0}
    monkeypatch.setattr(time, "clock_gettime", shown.__getitem__)
    lock = SimpleNamespace(_request_within=lambda limit: limit)
    until = AllLocks([lock], 10)._until()
    left = []
    for _ in range(3):
        left.append(AllLocks._request(lock, until))
        shown[time.CLOCK_BOOTTIME] += 8
    assert left == [10, 2, 0]
