"""Measures the package against redis-py's Lock on one Redis server, in one run.

Usage: compare.py URL. Every figure is a ratio of medians over rounds that alternate with the peer's.
"""

import asyncio
import json
import multiprocessing
import signal
import socket
import statistics
import sys
import threading
import time
from urllib.parse import urlsplit

import redis
import redis.asyncio
from globallock import GlobalLockManager

URL = sys.argv[1]
ROUNDS, SECONDS = 5, 1.0


def row(label, value, unit, goal=""):
    print(f"  {label:<58} {value:>10.2f} {unit:<8} {goal}", flush=True)


def pairs(make, threads):
    """How many uncontended pairs a second so many threads complete, each on a name of its own."""
    counts = []
    ready = threading.Barrier(threads)

    def work(number):
        acquire, release = make(number)
        done = 0
        ready.wait()
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            acquire()
            release()
            done += 1
        counts.append(done)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / SECONDS


def compare(label, ours, theirs, goal):
    ratios, rates = [], []
    for _ in range(ROUNDS):
        rate, peer = ours(), theirs()
        rates.append(rate)
        ratios.append(rate / peer)
    row(f"{label}: pairs/s", statistics.median(rates), "")
    row(f"{label}: pairs/s / redis-py's", statistics.median(ratios), "x", goal)


def synchronous():
    print("Uncontended acquire + release")
    lockman = GlobalLockManager(URL)
    client = redis.Redis.from_url(URL)

    def ours(number):
        lock = lockman.lock(f"bench-{number}", timeout=60)
        return lock.acquire, lock.release

    def theirs(number):
        lock = client.lock(f"bench-peer-{number}", timeout=60)
        return lock.acquire, lock.release

    compare("1 thread", lambda: pairs(ours, 1), lambda: pairs(theirs, 1), "goal >= 1.3")
    compare("16 threads", lambda: pairs(ours, 16), lambda: pairs(theirs, 16), "goal >= 5")


async def in_flight(make, tasks):
    count = 0
    until = time.perf_counter() + SECONDS

    async def work(number):
        nonlocal count
        lock = make(number)
        while time.perf_counter() < until:
            await lock.acquire()
            await lock.release()
            count += 1

    await asyncio.gather(*(work(number) for number in range(tasks)))
    return count / SECONDS


def asynchronous():
    print("Uncontended acquire + release with asyncio")

    def ours(tasks):
        async def main():
            lockman = GlobalLockManager(URL)
            return await in_flight(lambda number: lockman.aio.lock(f"bench-aio-{number}", timeout=60), tasks)

        return asyncio.run(main())

    def theirs(tasks):
        async def main():
            async with redis.asyncio.Redis.from_url(URL) as client:

                def make(number):
                    return client.lock(f"bench-aio-peer-{number}", timeout=60)

                return await in_flight(make, tasks)

        return asyncio.run(main())

    compare("1 in flight", lambda: ours(1), lambda: theirs(1), "goal >= 1")
    compare("100 in flight", lambda: ours(100), lambda: theirs(100), "goal >= 3")


def own(make, owner, hold, pause, state, ready, results):
    acquire, release = make()
    by, at = state
    hand_offs = []
    ready.wait()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        acquire()
        granted = time.monotonic()
        if by.value not in (owner, -1):
            hand_offs.append(granted - at.value)
        time.sleep(hold)
        by.value, at.value = owner, time.monotonic()
        release()
        time.sleep(pause)
    results.put(hand_offs)


def make_ours():
    lock = GlobalLockManager(URL).lock("bench-contend", timeout=60)
    return lock.acquire, lock.release


def make_theirs():
    lock = redis.Redis.from_url(URL).lock("bench-contend-peer", timeout=60)
    return lock.acquire, lock.release


def raw(pause):
    """The times of round trips of a bare socket after a pause, sorted."""
    where, times = urlsplit(URL), []
    with socket.create_connection((where.hostname, where.port or 6379)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(500):
            time.sleep(pause)
            sent = time.perf_counter()
            server.sendall(b"PING\r\n")
            assert server.recv(64) == b"+PONG\r\n"
            times.append(time.perf_counter() - sent)
    return sorted(times)


def contended(hold, pause):
    phases = f"{hold * 1e3:.0f} ms held, {pause * 1e3:.0f} ms paused"
    print(f"8 processes, {phases}: from a release to the grant of another")
    context = multiprocessing.get_context("fork")
    worst = {}
    for label, make in (("globallock", make_ours), ("redis-py, defaults", make_theirs)):
        state = (context.Value("i", -1), context.Value("d", 0.0))
        ready, results = context.Barrier(8), context.Queue()
        common = (hold, pause, state, ready, results)
        owners = [context.Process(target=own, args=(make, number, *common)) for number in range(8)]
        for owner in owners:
            owner.start()
        times = sorted(time for _ in owners for time in results.get())
        for owner in owners:
            owner.join()
        worst[label] = times[int(len(times) * 0.99)]
        row(f"{label}: p50", times[len(times) // 2] * 1e6, "us")
        row(f"{label}: p99", worst[label] * 1e6, "us")
        row(f"{label}: hand-offs/s", len(times) / 4, "")
    idle = raw(hold)
    row("a bare PING after such a hold: p50", idle[len(idle) // 2] * 1e6, "us")
    row("p99 / redis-py's", worst["globallock"] / worst["redis-py, defaults"], "x", "goal <= 0.1")


def interrupted():
    print("Ctrl-C in an acquire that waits")
    lockman = GlobalLockManager(URL)
    with lockman.lock("bench-interrupted", timeout=60):
        spent = []
        for number in range(20):
            sent = []

            def interrupt(number=number, sent=sent):
                # At any point between two checks for signals.
                time.sleep(0.2 + number * 0.007)
                sent.append(time.perf_counter())
                signal.raise_signal(signal.SIGINT)

            threading.Thread(target=interrupt).start()
            try:
                lockman.lock("bench-interrupted", timeout=60).acquire()
            except KeyboardInterrupt:
                spent.append(time.perf_counter() - sent[0])
    row("p50", statistics.median(spent) * 1e3, "ms")
    row("worst", max(spent) * 1e3, "ms", "goal <= 100")


def overhead():
    print("The cost of a call")
    lock = GlobalLockManager("memory:bench").lock("bench")
    for _ in range(2):
        began, count = time.perf_counter(), 20_000
        for _ in range(count):
            lock.acquire()
            lock.release()
        spent = time.perf_counter() - began
    row("acquire + release in this process's memory", spent / count * 1e6, "us")
    began = time.perf_counter()
    for _ in range(200_000):
        lock.is_locked  # noqa: B018 - what is measured
    row("is_locked", (time.perf_counter() - began) / 200_000 * 1e6, "us")


if __name__ == "__main__":
    print(json.dumps({"python": sys.version.split()[0], "redis-py": redis.__version__}))
    # The lock is wanted by several at all times. An owner that pauses for less than the peer's poll interval
    # acquires it again before the sleeping waiters do.
    contended(0.001, 0.003)
    contended(0.010, 0.050)
    synchronous()
    asynchronous()
    interrupted()
    overhead()
