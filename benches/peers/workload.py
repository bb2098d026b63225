"""The workloads of a peer's lock. Each prints its result as one line of JSON.

`pairs SECONDS`: acquire and release, uncontended, as often as possible.
`contend OWNERS HOLD THINK SECONDS`: processes that take one lock in turn.
"""

import json
import multiprocessing
import sys
import time


def pairs(connect, seconds):
    lock = connect("bench-pairs")
    lock.acquire()
    lock.release()
    done = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        lock.acquire()
        lock.release()
        done += 1
    print(json.dumps({"pairs_per_second": done / (time.perf_counter() - began)}))


def own(connect, owner, hold, think, run, state, barrier, results):
    lock = connect("bench-contend")
    by, at, inside, held = state
    hand_offs, grants = [], 0
    barrier.wait()
    until = time.monotonic() + run
    while time.monotonic() < until:
        lock.acquire()
        granted = time.monotonic()
        inside.value += 1
        assert inside.value == 1, "two owners are inside at once"
        if by.value not in (owner, -1):
            hand_offs.append(granted - at.value)
        grants += 1
        time.sleep(hold)
        held.value += time.monotonic() - granted
        by.value, at.value = owner, time.monotonic()
        inside.value -= 1
        lock.release()
        time.sleep(think)
    results.put((grants, hand_offs))


def contend(connect, owners, hold, think, run):
    spawn = multiprocessing.get_context("fork")
    state = (spawn.Value("i", -1), spawn.Value("d", 0.0), spawn.Value("i", 0), spawn.Value("d", 0.0))
    barrier, results = spawn.Barrier(owners), spawn.Queue()
    arguments = (hold, think, run, state, barrier, results)
    processes = [spawn.Process(target=own, args=(connect, owner, *arguments)) for owner in range(owners)]
    for process in processes:
        process.start()
    outcomes = [results.get() for _ in processes]
    for process in processes:
        process.join()
    grants = [grants for grants, _ in outcomes]
    printed = {
        "ping": 0.0,
        "hand_offs": [time for _, times in outcomes for time in times],
        "grants": grants,
        "utilisation": state[3].value / run,
        "grants_per_second": sum(grants) / run,
    }
    print(json.dumps(printed))


def main(connect):
    verb, *numbers = sys.argv[2:]
    numbers = [float(number) for number in numbers]
    if verb == "pairs":
        pairs(connect, *numbers)
    else:
        contend(connect, int(numbers[0]), *numbers[1:])
