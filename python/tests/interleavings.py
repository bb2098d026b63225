"""What threads, tasks and processes do with one lock: steps that a test chooses, checked for overlap.

As a program, this is a process of its own: each line of its input is the steps of one actor.
"""

import asyncio
import contextlib
import json
import os
import sys
import time

from globallock import GlobalLockManager, NotLocked

#: What an actor may do. `held` ones are inside for a moment; the others leave nothing behind.
STEPS = ["with", "try", "bare", "bare try", "stray release", "twice", "cancel", "nested"]


class Inside:
    """A place for one at a time, on this host: whoever finds another one in it has found an overlap."""

    def __init__(self, path):
        self.path, self.overlaps, self.entered = path, 0, 0

    def __enter__(self):
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            self.overlaps += 1
        self.entered += 1

    def __exit__(self, *_):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Locks:
    """The lock objects of one process, which its actors share or not."""

    def __init__(self, url, name):
        self.lockman, self.name = GlobalLockManager(url), name
        self.shared = self.lockman.lock(name), self.lockman.lock(name, blocking=False)

    def pair(self, is_shared):
        """One that waits, and one that does not."""
        return self.shared if is_shared else (
            self.lockman.lock(self.name), self.lockman.lock(self.name, blocking=False)
        )


def act(locks, inside, is_shared, steps):
    """An actor that is a thread."""
    waits, tries = locks.pair(is_shared)
    for step in steps:
        lock = tries if "try" in step or step == "cancel" else waits
        if step in ("with", "try", "nested"):
            with lock as held:
                if held.is_locked:
                    with inside:
                        time.sleep(0.0005)
                        if step == "nested":
                            with tries as inner:
                                assert not inner.is_locked
                            assert lock.is_locked
        elif step in ("bare", "bare try", "cancel", "twice"):
            if lock.acquire():
                with inside:
                    if step == "twice":
                        with contextlib.suppress(NotLocked):
                            lock.acquire()
                lock.release()
        else:
            free(lock)


def free(lock):
    """A release by one that holds nothing, which must free nothing of another one's."""
    try:
        acquired = lock._holdings.current()
        # One that has never acquired would be handed over the only one, which is no mistake of the lock.
        if acquired is None:
            lock.release()
    except NotLocked:
        pass


async def act_async(locks, inside, is_shared, steps):
    """An actor that is a task."""
    waits, tries = (locks.lockman.aio.lock(lock.name) for lock in locks.pair(False))
    waits.sync, tries.sync = locks.pair(is_shared)
    for step in steps:
        lock = tries if "try" in step else waits
        if step in ("with", "try", "nested"):
            async with lock as held:
                if held.is_locked:
                    with inside:
                        await asyncio.sleep(0.0005)
                        if step == "nested":
                            async with tries as inner:
                                assert not inner.is_locked
                            assert lock.is_locked
        elif step == "cancel":
            await cancelled(lock, inside)
        elif step in ("bare", "bare try", "twice"):
            if await lock.acquire():
                with inside:
                    await asyncio.sleep(0)
                    if step == "twice":
                        with contextlib.suppress(NotLocked):
                            await lock.acquire()
                await lock.release()
        else:
            free(lock.sync)


async def cancelled(lock, inside):
    """Waits for the lock in a task that is cancelled somewhere on its way."""

    async def work():
        async with lock:
            with inside:
                await asyncio.sleep(0)

    task = asyncio.ensure_future(work())
    for _ in range(len(lock.name) % 7):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})


def main():
    url, name, path = sys.argv[1:]
    locks, inside = Locks(url, name), Inside(path)
    for line in sys.stdin:
        is_shared, steps = json.loads(line)
        act(locks, inside, is_shared, steps)
        print(json.dumps([inside.overlaps, inside.entered]), flush=True)


if __name__ == "__main__":
    main()
