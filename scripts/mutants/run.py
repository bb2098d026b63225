#!/usr/bin/env python3
"""Searches for changes of the code that no test notices: `make mutants`.

    run.py run [--group G]... [--file F]... [--shard K/N] [--jobs J] [--again] [--first] [--skip REGEX]
    run.py report

`groups.toml` says which code is changed and which tests have to notice; `explained.toml` says why some
changes are none that a test could or should notice. `run` tries the mutants of its shard and remembers what
became of each in `target/mutants/results.json`; `--again` tries only those that survived. `report` prints the
table by file, and fails if a mutant was not tried, a survivor has no explanation, an explanation has no
mutant, or a group misses its goal.

cargo-mutants (27.1 or newer) says what the mutants are. They are tried here, in a copy of the sources so that
work on them may go on meanwhile: the quickest tests first, those that need more only for what these do not
notice. Most are built into one program, which is told the one to be (`together.py`); the others are built one
by one.
"""

import argparse
import collections
import fcntl
import filecmp
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import judging
import together
from common import HERE, ROOT, SOURCES, WORK, Results, mutants_of

# How many seconds a mutant may take to build, and its tests at least, however quick they usually are: what
# takes longer waits for what never comes.
BUILD_LIMIT = 900
LEAST_LIMIT = 20
# How many bytes of addresses its tests may use.
MOST_MEMORY = 8 << 30
# So few are built one by one, which takes less than building all of them.
FEW = 12
# The first test that fails tells enough.
FAILED = re.compile(rb"^test \S.* \.\.\. FAILED", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="try mutants")
    run.add_argument("--group", action="append", help="only this group of groups.toml")
    run.add_argument("--file", action="append", help="only this file, such as redis/keys")
    run.add_argument("--shard", default="0/1", help="every N-th mutant from the K-th on")
    run.add_argument("--jobs", type=int, default=1, help="how many of a program to try at a time")
    run.add_argument("--again", action="store_true", help="only those that survived, or were not tried")
    run.add_argument("--skip", help="not those whose names match this, in a hurry: the report misses them")
    run.add_argument("--first", action="store_true", help="only with the quickest tests")
    report = verbs.add_parser("report", help="judge what became of all")
    report.add_argument("--part", action="store_true", help="mutants that were not tried are no failure")
    arguments = parser.parse_args()
    chosen = tomllib.loads((HERE / "groups.toml").read_text())
    groups = chosen["group"]
    if arguments.verb == "run":
        sys.exit(run_all(groups, arguments))
    sys.exit(judging.judge(chosen, arguments.part))


# --- Trying them
# ------------------------------------------------------------------------------------------------------


def run_all(groups, arguments):
    WORK.mkdir(parents=True, exist_ok=True)
    index, count = (int(part) for part in arguments.shard.split("/"))
    if not 0 <= index < count:
        sys.exit(f"there is no part {arguments.shard}: the first of 8 is 0/8, the last 7/8")
    # All build in one place, where each would change what the others try.
    alone = open(WORK / "lock", "w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another search uses {WORK}: give each a CARGO_TARGET_DIR of its own")
    results = Results()
    tasks = []
    for group in groups:
        if arguments.group and group["name"] not in arguments.group:
            continue
        if arguments.first:
            group["stages"] = group["stages"][:1]
        tries = mutants_of(group, arguments.file)
        if arguments.again:
            tries = [mutant for mutant in tries if results.outcome(mutant) in (None, "survived")]
        if arguments.skip:
            tries = [mutant for mutant in tries if not re.search(arguments.skip, mutant["name"])]
        tasks += [(group, mutant) for mutant in tries[index::count]]
    print(f"{len(tasks)} mutants", flush=True)
    left = tasks
    if len(tasks) > FEW:
        program = Together(tasks)
        held = [task for task in tasks if program.holds(task[1])]
        left = [task for task in tasks if not program.holds(task[1])]
        print(f"{len(held)} of them in one program", flush=True)
        if not try_all(held, results, program.test, arguments.jobs):
            return 1
    return 0 if not left or try_all(left, results, Alone().test, 1) else 1


def try_all(tasks, results, test, count):
    # In the order of the list, so that a file's mutants, which build quickly one after the other, stay
    # together.
    tasks = collections.deque(tasks)
    jobs = [Job(tasks, results, test) for _ in range(count)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    for why in {str(job.failed) for job in jobs if job.failed}:
        print(why, file=sys.stderr)
    return not any(job.failed for job in jobs)


def environment(build):
    values = os.environ | {
        "CARGO_TARGET_DIR": str(WORK / build),
        "CARGO_INCREMENTAL": "1",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_PROFILE_TEST_DEBUG": "0",
        # A mutant leaves unused what the original needs.
        "RUSTFLAGS": "--cap-lints=allow",
        # The same examples for each mutant, none kept, and no smaller ones looked for.
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_RNG_SEED": "1",
    }
    values.pop("RUST_BACKTRACE", None)
    return values


def build(stage, tree, values):
    """The programs of a stage's tests, each with its directory; and what the compiler said if it failed."""
    split = stage.index("--") if "--" in stage else len(stage)
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json", *stage[:split]]
    built = subprocess.run(command, cwd=tree, env=values, capture_output=True, text=True, timeout=BUILD_LIMIT)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    if built.returncode != 0:
        return None, [message["message"] for message in messages if message["reason"] == "compiler-message"]
    return [
        ([message["executable"], *stage[split + 1 :]], Path(message["manifest_path"]).parent)
        for message in messages
        if message.get("executable") and message["profile"]["test"]
    ], []


def run_tests(programs, values, limit):
    """What the first failure, or the time, makes of a mutant."""
    for command, directory in programs:
        tests = subprocess.Popen(
            command,
            cwd=directory,
            env=values,
            start_new_session=True,
            preexec_fn=bounded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            said, ends = b"", time.monotonic() + limit
            while True:
                if not select.select([tests.stdout], [], [], max(0, ends - time.monotonic()))[0]:
                    return "timeout"
                part = os.read(tests.stdout.fileno(), 1 << 16)
                said += part
                if FAILED.search(said):
                    return "killed"
                if not part:
                    break
            if tests.wait(max(1, ends - time.monotonic())):
                return "killed"
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            # With whatever the tests have started.
            try:
                os.killpg(tests.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            tests.wait()
            tests.stdout.close()
    return "survived"


def twice(programs, values, limit, stage):
    """As `run_tests`, but what a busy machine may have done, beside servers or with the time, must happen
    twice."""
    outcome = run_tests(programs, values, limit)
    if outcome == "timeout" or outcome == "killed" and stage > 0:
        outcome = run_tests(programs, values, 2 * limit)
    return outcome


class Usual:
    """How long each stage takes without a mutant; ends everything where its tests fail without one."""

    def __init__(self):
        self.seconds = {}

    def limit(self, stage, programs, values):
        if tuple(stage) not in self.seconds:
            began = time.monotonic()
            if run_tests(programs, values, 600) != "survived":
                raise SystemExit(f"without a mutant these tests fail: {' '.join(stage)}")
            self.seconds[tuple(stage)] = time.monotonic() - began
            print(f"{' '.join(stage)}: {self.seconds[tuple(stage)]:.0f} s without a mutant", flush=True)
        return LEAST_LIMIT + 5 * self.seconds[tuple(stage)]


class Together:
    """The mutants that one build holds, by their number in it."""

    def __init__(self, tasks):
        self.tree, self.values = WORK / "tree", environment("build")
        copy_sources(self.tree)
        self.numbers = {mutant["key"]: number for number, (_, mutant) in enumerate(tasks, 1)}
        by_path = collections.defaultdict(list)
        for _, mutant in tasks:
            by_path[mutant["path"]].append((self.numbers[mutant["key"]], mutant["entry"]))
        self.left = set()
        self.sources = {path: self.write(path, entries) for path, entries in by_path.items()}
        root = self.tree / SOURCES / "lib.rs"
        root.write_text(root.read_text() + together.ASKED)
        self.programs, self.usual, self.lock = {}, Usual(), threading.Lock()
        for group in {group["name"]: group for group, _ in tasks}.values():
            for stage in group["stages"]:
                self.build(stage, by_path)

    def write(self, path, entries):
        source, left = together.gather(
            (ROOT / path).read_bytes(), [entry for entry in entries if entry[0] not in self.left]
        )
        self.left.update(left)
        written = self.tree / path
        if written.read_bytes() != source.text:
            written.write_bytes(source.text)
        return source

    def build(self, stage, by_path):
        while True:
            programs, messages = build(stage, self.tree, self.values)
            if programs is not None:
                self.programs[tuple(stage)] = programs
                return
            blamed = set()
            for message in messages:
                spans = message["spans"] if message["level"] == "error" else []
                for span in spans:
                    if span["file_name"] in self.sources:
                        blamed.update(self.sources[span["file_name"]].blamed(span["byte_start"]))
            if not blamed - self.left:
                told = "\n".join(
                    message["rendered"] or "" for message in messages if message["level"] == "error"
                )
                raise SystemExit(f"this does not build, and no mutant is to blame: {' '.join(stage)}\n{told}")
            self.left |= blamed
            for path, entries in by_path.items():
                self.sources[path] = self.write(path, entries)

    def test(self, stages, mutant):
        chosen = self.values | {together.VARIABLE: str(self.numbers[mutant["key"]])}
        for number, stage in enumerate(stages):
            programs = self.programs[tuple(stage)]
            with self.lock:
                limit = self.usual.limit(stage, programs, self.values)
            outcome = twice(programs, chosen, limit, number)
            if outcome != "survived":
                break
        return outcome, number

    def holds(self, mutant):
        return self.numbers[mutant["key"]] not in self.left


class Alone:
    """Builds one mutant after the other, where those together were built before, with all that they need."""

    def __init__(self):
        self.tree, self.values = WORK / "tree", environment("build")
        self.usual = Usual()
        copy_sources(self.tree)

    def test(self, stages, mutant):
        path = self.tree / mutant["path"]
        original = path.read_text()
        for number, stage in enumerate(stages):
            if tuple(stage) not in self.usual.seconds:
                programs, _ = build(stage, self.tree, self.values)
                if programs is None:
                    raise SystemExit(f"without a mutant this does not build: {' '.join(stage)}")
                self.usual.limit(stage, programs, self.values)
            try:
                path.write_text(changed(original, mutant["diff"]))
                programs, _ = build(stage, self.tree, self.values)
            finally:
                path.write_text(original)
            if programs is None:
                return "unviable", number
            outcome = twice(programs, self.values, self.usual.limit(stage, programs, self.values), number)
            if outcome != "survived":
                break
        return outcome, number


class Job(threading.Thread):
    """Tries one mutant after the other."""

    def __init__(self, tasks, results, test):
        super().__init__()
        self.tasks, self.results, self.test, self.failed = tasks, results, test, None

    def run(self):
        try:
            while True:
                try:
                    group, mutant = self.tasks.popleft()
                except IndexError:
                    return
                began = time.monotonic()
                outcome, stage = self.test(group["stages"], mutant)
                took = time.monotonic() - began
                self.results.note(mutant, outcome, took, stage)
                print(f"{outcome:9} {stage} {took:5.1f} s  {mutant['name']}", flush=True)
        except BaseException as failure:
            # A thread would end without a word; the others end as well.
            self.failed = failure
            self.tasks.clear()
            if not isinstance(failure, SystemExit):
                raise


def bounded():
    """A mutant may ask for memory without end."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def changed(text, diff):
    """The text with the one hunk of a mutant's diff."""
    lines = text.splitlines(keepends=True)
    hunk = diff.split("\n", 2)[2]
    start, count = re.match(r"@@ -(\d+)(?:,(\d+))? ", hunk).groups()
    start, count = int(start) - 1, int(count or 1)
    new = [line[1:] + "\n" for line in hunk.split("\n")[1:] if line[:1] in ("+", " ")]
    return "".join(lines[:start] + new + lines[start + count :])


def copy_sources(tree):
    """Brings a copy of the sources up to date; what did not change keeps its time, so that cargo builds
    nothing twice."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in wanted:
        source, copy = ROOT / name, tree / name
        if not copy.exists() or not filecmp.cmp(source, copy, shallow=False):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    for path in tree.rglob("*"):
        if path.is_file() and str(path.relative_to(tree)) not in wanted:
            path.unlink()


if __name__ == "__main__":
    main()
