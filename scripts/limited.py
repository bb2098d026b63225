"""Runs a program of tests, and ends it as failed when a test takes too long, with the names of those that did.

libtest has no limit of its own, but says which tests have run for a minute: such a test may go on until the limit. So may
a program that says nothing at all. The limit is 5 minutes, or so many seconds, from 60 on, as GLOBALLOCK_TEST_LIMIT says.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# When libtest says that a test runs.
LONG = 60
LIMIT = max(float(os.environ.get("GLOBALLOCK_TEST_LIMIT", "300")), LONG)
RUNS = re.compile(rb"test (\S+)(?: - should panic)? has been running for over \d+ seconds")
ENDED = re.compile(rb"test (\S+)(?: - should panic)? \.\.\. \S")
TIMED_OUT = 124
# Whoever started the tests may have had these ignored, as nohup does, and what they start would ignore them too.
SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]


def descendants(process):
    """The processes below one, from the kernel's list of all."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [process]
    for parent in found:
        found += children.get(parent, [])
    return found


def kill(process):
    for found in descendants(process):
        try:
            os.kill(found, signal.SIGKILL)
        except ProcessLookupError:
            pass


def main(command):
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    tests = subprocess.Popen(command, stdout=subprocess.PIPE)
    # The terminal sends this one to both.
    signal.signal(signal.SIGINT, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, lambda number, _: tests.send_signal(number))

    ends = {}
    last = b""
    silent = time.monotonic() + LIMIT
    while True:
        until = min([silent, *ends.values()])
        readable, _, _ = select.select([tests.stdout], [], [], max(until - time.monotonic(), 0))
        if not readable:
            names = ", ".join(sorted(name.decode(errors="replace") for name in ends))
            kill(tests.pid)
            tests.wait()
            what = f"these tests had not ended after {LIMIT:.0f} s" if ends else f"no test has ended for {LIMIT:.0f} s"
            print(f"\n{what}, and are killed with their program: {names or command[0]}", file=sys.stderr)
            return TIMED_OUT
        text = os.read(tests.stdout.fileno(), 65536)
        if not text:
            break
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        now = time.monotonic()
        silent = now + LIMIT
        *lines, last = (last + text).split(b"\n")
        for line in lines:
            for name in RUNS.findall(line):
                ends[name] = now + LIMIT - LONG
            for name in ENDED.findall(line):
                ends.pop(name, None)
    status = tests.wait()
    if status < 0:
        # As if there were nothing between: cargo names the signal.
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    return status


sys.exit(main(sys.argv[1:]))
