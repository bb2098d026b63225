#!/usr/bin/env python3
"""Runs every test program again and again while the machine has too much to do: `make loaded ROUNDS=50`.

A test that fails here once has found something: a wait that is too short, or a promise that is not kept. As
many loops as there are processors do nothing but compute meanwhile, and several test programs run at a time,
in another order each round. What every program did is added to `target/loaded/results.jsonl`, and the output
of those that failed is kept beside it, so that many rounds can be run in parts. The last lines count all
rounds of this commit.
"""

import argparse
import collections
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import programs

RESULTS = Path(os.environ.get("CARGO_TARGET_DIR", programs.ROOT / "target")).resolve() / "loaded"
#: How many tests of each program run at a time.
THREADS = 4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--lanes", type=int, default=3, help="how many programs run at a time")
    parser.add_argument("--only", action="append", help="only this program; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.check_output(head, cwd=programs.ROOT, text=True).strip()
    built = [program for program in programs.built() if not arguments.only or program[0] in arguments.only]
    if not built:
        sys.exit("no test program has that name")
    RESULTS.mkdir(parents=True, exist_ok=True)
    what = f"{len(built)} programs, {arguments.rounds} rounds"
    print(f"{what}, seed {arguments.seed}, commit {commit[:9]}", flush=True)
    order = random.Random(arguments.seed)
    runs = collections.deque()
    for _ in range(arguments.rounds):
        round_ = f"{time.time_ns()}-{len(runs)}"
        runs += [(round_, len(built), *program) for program in order.sample(built, len(built))]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        lanes = [threading.Thread(target=lane, args=(runs, commit)) for _ in range(arguments.lanes)]
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
    finally:
        runs.clear()
        for loop in busy:
            loop.kill()
            loop.wait()
    sys.exit(summary(commit))


def lane(runs, commit):
    while True:
        try:
            round_, count, name, file, directory = runs.popleft()
        except IndexError:
            return
        output = RESULTS / f"{round_}.{Path(file).name}"
        began = time.monotonic()
        status, failed = programs.run(file, directory, output, THREADS)
        result = {
            "commit": commit,
            "round": round_,
            "programs": count,
            "program": name,
            "status": status,
            "seconds": round(time.monotonic() - began),
            "load": round(os.getloadavg()[0], 1),
            "failed": failed,
        }
        with (RESULTS / "results.jsonl").open("a") as results:
            results.write(json.dumps(result) + "\n")
        if status == 0:
            output.unlink()
        else:
            print(f"{name}: {' '.join(failed) or f'status {status}'}: see {output}", flush=True)


def summary(commit):
    """Prints what became of all rounds of a commit that came to their end, and gives an exit status."""
    lines = map(json.loads, (RESULTS / "results.jsonl").read_text().splitlines())
    rounds = collections.defaultdict(list)
    for result in lines:
        if result["commit"] == commit:
            rounds[result["round"]].append(result)
    whole = [results for results in rounds.values() if len(results) == results[0]["programs"]]
    results = [result for results in whole for result in results]
    failures = collections.Counter(
        f"{result['program']}: {test}"
        for result in results
        if result["status"]
        for test in result["failed"] or [f"status {result['status']}"]
    )
    if not results:
        print("no round came to its end")
        return 1
    loads = sorted(result["load"] for result in results)
    print(
        f"{len(whole)} rounds, {len(results)} runs of programs, load {loads[0]} to {loads[-1]}"
        f" (median {statistics.median(loads)}): {failures.total()} failures"
    )
    for failure, count in failures.most_common():
        print(f"  {count} x {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
