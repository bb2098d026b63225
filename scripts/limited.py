"""Runs a test program. If a test takes too long, ends the program as failed, and names the test.

libtest has no limit of its own, but reports every test that has run for a minute. Such a test may go on until
the limit, and so may a program that prints nothing at all. The limit is 5 minutes, or GLOBALLOCK_TEST_LIMIT
seconds (at least 60).
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# After how many seconds libtest reports a test that still runs.
LONG = 60
LIMIT = max(float(os.environ.get("GLOBALLOCK_TEST_LIMIT", "300")), LONG)
RUNS = re.compile(rb"test (\S+)(?: - should panic)? has been running for over \d+ seconds")
ENDED = re.compile(rb"test (\S+)(?: - should panic)? \.\.\. \S")
TIMED_OUT = 124
# The parent may ignore these, as nohup does. The tests and their children would inherit that.
SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]


def descendants(process):
    """A process and its descendants, from the kernel's list of processes."""
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
    # The terminal sends SIGINT to both: the test program ends by it, and this one waits for that.
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
            limit = f"{LIMIT:.0f} s"
            what = f"these tests had not ended after {limit}" if ends else f"no test has ended for {limit}"
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
        # Ends by the same signal as the test program, so that cargo names it.
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    return status


sys.exit(main(sys.argv[1:]))
