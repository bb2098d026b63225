"""Runs the contended workload with redis-py's Lock in threads, and prints the result as one line of JSON."""

import json
import sys
import threading
import time

import redis

port, owners, hold, think, run, sleep = (float(argument) for argument in sys.argv[1:7])
owners = int(owners)

pings = []
client = redis.Redis(port=int(port))
for _ in range(2000):
    began = time.perf_counter()
    client.ping()
    pings.append(time.perf_counter() - began)

state = {"by": None, "at": 0.0, "held": 0.0, "inside": 0}
grants = [0] * owners
hand_offs = []
barrier = threading.Barrier(owners)


def own(owner):
    connection = redis.Redis(port=int(port))
    barrier.wait()
    until = time.perf_counter() + run
    while time.perf_counter() < until:
        lock = connection.lock("bench-redis-py", timeout=10, sleep=sleep)
        lock.acquire()
        granted = time.perf_counter()
        state["inside"] += 1
        assert state["inside"] == 1, "two owners are inside at once"
        if state["by"] not in (owner, None):
            hand_offs.append(granted - state["at"])
        grants[owner] += 1
        time.sleep(hold)
        state["held"] += time.perf_counter() - granted
        state["by"], state["at"] = owner, time.perf_counter()
        state["inside"] -= 1
        lock.release()
        time.sleep(think)


threads = [threading.Thread(target=own, args=(owner,)) for owner in range(owners)]
began = time.perf_counter()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
elapsed = time.perf_counter() - began
print(
    json.dumps(
        {
            "ping": sorted(pings)[len(pings) // 2],
            "hand_offs": hand_offs,
            "grants": grants,
            "utilisation": state["held"] / elapsed,
            "grants_per_second": sum(grants) / elapsed,
        }
    )
)
