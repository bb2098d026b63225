#!/usr/bin/env python3
"""Runs every test program once: those that are busy enough alone, then the others, several at a time.
Those that only compute take what is left of the processors beside the first ones.

What failed is named once more at the end, with what it said, where it is found even if only the last lines of
the output are kept."""

import argparse
import collections
import concurrent.futures
import sys
import tempfile
import time
from pathlib import Path

import programs

#: What needs the machine for itself: many cases side by side, crowds of thousands, and stores that fail while
#: others must not.
BUSY = "conformance crowds scenarios".split()
#: What waits for nothing.
COMPUTING = "model choices".split()
#: Those that take longest, which begin: a long one that began last would run alone.
LONGEST = "cli zookeeper custom_store etcd redis mutants postgres hostile".split()
#: How many tests run at a time in one program, and in each of several: more than there are processors, since
#: most wait.
ALONE, EACH = 4, 3
#: How many lines are repeated of what failed tests said.
SAID = 60


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lanes", type=int, default=2, help="how many programs run at a time")
    lanes = parser.parse_args().lanes
    order = {name: number for number, name in enumerate(LONGEST)}
    built = sorted(programs.built(), key=lambda program: order.get(program[0], len(order)))
    busy, computing, waiting = (collections.deque() for _ in range(3))
    for program in built:
        kind = busy if program[0] in BUSY else computing if program[0] in COMPUTING else waiting
        kind.append(program)
    failures = []
    with tempfile.TemporaryDirectory() as directory:
        run_all([(busy, ALONE, 0), (computing, ALONE, 19)], failures, Path(directory))
        run_all([(waiting, EACH, 0)] * lanes, failures, Path(directory))
    if failures:
        print("failed tests:")
        for failed, _ in failures:
            print("\n".join(failed))
        print("\n".join([line for _, output in failures for line in said(output)][-SAID:]))
    sys.exit(1 if failures else 0)


def run_all(lanes, failures, directory):
    """Runs programs in lanes: of each those that wait, how many tests of one run at a time, and how nice it
    is."""
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        runs = [
            pool.submit(run_lane, *lane, failures, directory / f"{number}")
            for number, lane in enumerate(lanes)
        ]
        try:
            for run in runs:
                run.result()
        finally:
            # After an interrupt, those that run end, and no other begins.
            for waiting, *_ in lanes:
                waiting.clear()


def run_lane(waiting, at_a_time, niceness, failures, output):
    while True:
        try:
            name, file, directory = waiting.popleft()
        except IndexError:
            return
        began = time.monotonic()
        status, failed = programs.run(file, directory, output, at_a_time, niceness)
        text = output.read_text(errors="replace")
        # In one piece, so that the outputs of programs do not mix.
        print(f"{name} ({file}): {time.monotonic() - began:.0f} s{text}", flush=True)
        if status:
            failures.append(([f"{name}: {what}" for what in failed or [f"status {status}"]], text))


def said(output):
    """What failed tests said, each without its stack."""
    left = 0
    for line in output.splitlines():
        if "panicked at " in line:
            left = 12
        elif line.startswith(("stack backtrace:", "note: ")):
            left = 0
        if left and line.strip():
            left -= 1
            yield line[:400]


if __name__ == "__main__":
    main()
