"""Random interleavings of threads, tasks and processes, by shared lock objects and by own ones."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interleavings import STEPS, Inside, Locks, act, act_async

PROGRAM = Path(__file__).with_name("interleavings.py")

#: Whether the actor uses the objects that the others of its kind use, and what it does.
actors = st.tuples(st.booleans(), st.lists(st.sampled_from(STEPS), min_size=1, max_size=4))
crowds = st.fixed_dictionaries(
    {
        "threads": st.lists(actors, max_size=4),
        "tasks": st.lists(actors, max_size=4),
        "processes": st.lists(actors, max_size=2),
    }
)


class Process:
    """A process with locks of its own, which serves one crowd after the other."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.overlaps = self.entered = 0

    def begin(self, actor):
        self.process.stdin.write(json.dumps(actor) + "\n")
        self.process.stdin.flush()

    def end(self):
        self.overlaps, self.entered = json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def run_crowd(crowd, locks, inside, processes):
    failures = []

    def attempt(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    async def tasks():
        await asyncio.gather(*(act_async(locks, inside, *actor) for actor in crowd["tasks"]))

    works = [(act, locks, inside, *actor) for actor in crowd["threads"]]
    threads = [threading.Thread(target=attempt, args=work) for work in works]
    threads.append(threading.Thread(target=attempt, args=(asyncio.run, tasks())))
    used = list(zip(processes, crowd["processes"]))
    for process, actor in used:
        process.begin(actor)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "an actor hangs"
    for process, _ in used:
        process.end()
    assert failures == []


@pytest.mark.parametrize("store", ["memory", "file", "redis"])
def test_no_two_are_ever_inside_and_nothing_is_left(store, request, tmp_path, name):
    url = {"memory": f"memory:{tmp_path}", "file": f"file://{tmp_path}/locks"}.get(store)
    url = url or request.getfixturevalue("redis_server").url
    locks, inside = Locks(url, name), Inside(tmp_path / "inside")
    count = 0 if store == "memory" else 2
    processes = [Process(url, name, inside.path) for _ in range(count)]
    kept = settings(max_examples=150, deadline=None, database=None, derandomize=False,
                    suppress_health_check=list(HealthCheck))

    @kept
    @given(crowds)
    def check(crowd):
        run_crowd(crowd, locks, inside, processes)
        assert inside.overlaps + sum(process.overlaps for process in processes) == 0
        eventually("nothing is left", lambda: locks.lockman.inspect(name) == [])
        assert locks.lockman.registered_locks() == []
        for lock in locks.shared:
            assert not lock._holdings.all() and not lock._holdings._blocks

    began = time.monotonic()
    check()
    for process in processes:
        process.stop()
    assert inside.entered > 60, "they were inside"
    assert store == "memory" or sum(process.entered for process in processes) > 10
    assert time.monotonic() - began < 200
