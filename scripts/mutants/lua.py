#!/usr/bin/env python3
"""Changes one thing at a time in the Lua scripts of the Redis store, and runs the tests on each change.

    python3 scripts/mutants/lua.py run [--shard K/N] [--only FILE] [--again] [--hasty]
    python3 scripts/mutants/lua.py list [--only FILE]

A change that no test notices has survived: `run` ends with status 1 if one has that `lua_explained.txt` does
not explain. What has been run is kept in the target directory, and not run again until the code of that
script changes; `--again` runs survivors again.

The scripts are text inside the programs of the tests (`include_str!`). They are changed there, in a copy of
each program, with the same number of bytes: what is longer takes its room from a comment. So nothing has to
be compiled, the product knows nothing of it, and each change is run by the real client on the real server.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "crates/globallock/src/stores/redis"
EXPLAINED = Path(__file__).with_name("lua_explained.txt")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# What kills most comes first. They wait more than they work, so that more of them run than there are cores.
# Tests of addresses, rights, refusals and connections learn nothing of the scripts.
TESTS = [
    (
        "redis",
        [
            "scripts::",
            "wire::",
            "answers::",
            "costs::",
            "crowds::one_call",
            "versions::",
            "gaps::",
            "strangers::",
            "--test-threads=8",
        ],
    ),
    ("conformance", ["redis::", "redis-6::", "redis-gaps::", "--test-threads=8"]),
    ("redis", ["full::", "--test-threads=8"]),
    (
        "redis",
        [
            "times::",
            "promptness::",
            "crowds::",
            "keys::",
            "faults::flushed",
            "faults::a_waiter",
            "full::",
            "--test-threads=8",
        ],
    ),
]

# The least percentage that the tests have to notice.
GOAL = 90

TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'(?:[^'\\\n]|\\.)*')|(?P<number>\b\d+\b)|(?P<word>[A-Za-z_][\w.]*)"
    r"|(?P<operator>==|~=|<=|>=|\.\.\.|\.\.|[-+*/^#<>=(){}\[\],;:.%])|(?P<space>\s+)"
)
OPERATORS = {
    "==": ["~="],
    "~=": ["=="],
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "+": ["-"],
    "-": ["+"],
    "*": ["/"],
    "/": ["*"],
}
WORDS = {
    "and": ["or"],
    "or": ["and"],
    "not": [""],
    "true": ["false"],
    "false": ["true"],
    "math.min": ["math.max"],
    "math.max": ["math.min"],
    "HELD": ["WAITING"],
    "WAITING": ["HELD"],
    "GONE": ["WAITING"],
    "ASK_AGAIN": ["GONE"],
}
STRINGS = {
    "'0'": ["'1'"],
    "'1'": ["'0'"],
    "'w'": ["''"],
    "'XX'": ["'NX'"],
    "'-inf'": ["'+inf'"],
    "'+inf'": ["'-inf'"],
}
STATEMENT = re.compile(r"(?:redis\.call|[a-z_]+)\(|[a-z_][\w.]*(?:, [a-z_][\w.]*)* = |return$")


def tokens(text):
    at = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise SystemExit(f"no Lua at: {text[at : at + 40]!r}")
        yield match.lastgroup, match.group(), at
        at = match.end()


def statements(text):
    """The spans of statements that can be left out: calls, and assignments to what exists."""
    plain = "".join(
        re.sub(r"[^\n]", " ", part) if kind == "comment" else part for kind, part, _ in tokens(text)
    )
    for line in re.finditer(r"^[ ]*(?=\S)", plain, re.MULTILINE):
        start = line.end()
        if not STATEMENT.match(plain, start):
            continue
        depth, end = 0, start
        while end < len(plain):
            if plain[end] in "({":
                depth += 1
            elif plain[end] in ")}":
                depth -= 1
            elif plain[end] == "\n" and depth == 0 and not re.match(r"\s*(\.\.|and |or )", plain[end:]):
                break
            end += 1
        code = plain[start:end].rstrip()
        # Arguments on lines of their own look like calls.
        if depth == 0 and not code.endswith(",") and not re.search(r"[,(]$", plain[: line.start()].rstrip()):
            yield start, start + len(code)


def mutants(name):
    """Yields (key, text): where and what is changed, and the changed script."""
    text = (SCRIPTS / name).read_text()
    seen = {}

    def mutant(start, end, replacement, what):
        first = text.rfind("\n", 0, start) + 1
        last = text.find("\n", start)
        line = " ".join(text[first:last].split())
        changed = text[:start] + replacement + text[end:]
        if what is None:
            what = " ".join(changed[first : changed.find("\n", start)].split())
        number = text.count("\n", 0, start) + 1
        base = f"{name}: {line} -> {what}"
        seen[base] = seen.get(base, 0) + 1
        what = {"file": name, "line": number, "key": base, "turn": seen[base]}
        return what, fitted(text, changed, start + len(replacement))

    all_tokens = [token for token in tokens(text) if token[0] not in ("comment", "space")]
    for at, (kind, part, start) in enumerate(all_tokens):
        before = all_tokens[at - 1] if at else ("", "", 0)
        others = []
        if kind == "operator":
            begins = (
                before[1] in ("return", "and", "or") or before[0] == "operator" and before[1] not in ")]}"
            )
            unary = part == "-" and begins
            others = [] if unary else OPERATORS.get(part, [])
        elif kind == "word":
            others = WORDS.get(part, [])
            # `local HELD, WAITING = ...` names them.
            if part.isupper() and re.match(r"local [A-Z]", text[text.rfind("\n", 0, start) + 1 :]):
                others = []
        elif kind == "string":
            others = STRINGS.get(part, [])
        elif (
            kind == "number"
            and not before[1].startswith("KEYS")
            and text[start - 5 : start] not in ("KEYS[", "ARGV[")
        ):
            # One more is nothing to what only measures; and the first character of a text is Lua's 0th as
            # well.
            other = int(part) + 1 if int(part) < 100 else int(part) * 2
            first = re.search(r"string\.sub\([^,()]+, $", text[:start])
            others = [str(other)] + (["0"] if part == "1" and not first else [])
        for other in others:
            yield mutant(start, start + len(part), other, None)
    for start, end in statements(text):
        code = text[start:end]
        # In front of `end` alone a `return` may go.
        yield mutant(start, end, re.sub(r"[^\n]", " ", code), "(left out)")


def fitted(text, changed, at):
    """The changed script with as many bytes as before."""
    more = len(changed.encode()) - len(text.encode())
    if more <= 0:
        return changed[:at] + " " * -more + changed[at:]
    comments = sorted((part for kind, part, _ in tokens(changed) if kind == "comment"), key=len, reverse=True)
    longest = comments[0]
    if len(longest) - 3 < more:
        raise SystemExit("no comment is long enough to make room")
    return changed.replace(longest, longest[:-more], 1)


def version(text):
    """A name for the code, whatever the comments say."""
    code = " ".join(part for kind, part, _ in tokens(text) if kind not in ("comment", "space"))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def programs():
    command = [
        "cargo",
        "test",
        "--locked",
        "-p",
        "globallock-conformance",
        "--no-run",
        "--message-format=json",
    ]
    for test in sorted({test for test, _ in TESTS}):
        command += ["--test", test]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    paths = {}
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["kind"] == ["test"]:
            paths[message["target"]["name"]] = Path(message["executable"])
    return {test: paths[test].read_bytes() for test, _ in TESTS}


def run_tests(program, arguments, until):
    """True when all pass, the first that fails, or None when the time is up."""
    environment = {**os.environ, "RUST_BACKTRACE": "0", "TMPDIR": str(program.parent)}
    process = subprocess.Popen(
        [program, *arguments],
        cwd=ROOT / "crates/globallock-conformance",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )

    def end():
        # With its servers, and with owners that it has stopped and not continued.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(max(until - time.monotonic(), 0), end)
    alarm.start()
    try:
        for line in process.stdout:
            if line.startswith("test ") and line.rstrip().endswith("FAILED"):
                return line.split()[1]
        return True if process.wait() == 0 else None if time.monotonic() >= until else "the program"
    finally:
        alarm.cancel()
        end()
        process.wait()
        process.stdout.close()


def verdict(program, arguments, until):
    """As `run_tests`, but what fails must fail again, alone: a busy machine is no proof."""
    skip = []
    while True:
        failed = run_tests(program, [*arguments, *skip], until)
        if failed in (True, None) or run_tests(program, [failed, "--exact"], until) is not True:
            return failed
        skip += ["--skip", failed]


def judge(built, name, original, changed, limit, groups):
    until = time.monotonic() + limit
    with tempfile.TemporaryDirectory(dir=TARGET, ignore_cleanup_errors=True) as directory:
        for test, arguments in TESTS[:groups]:
            if original not in built[test]:
                raise SystemExit(f"{name} is not in the program {test} as it stands here")
            program = Path(directory) / test
            program.write_bytes(built[test].replace(original, changed.encode()))
            program.chmod(0o755)
            passed = verdict(program, arguments, until)
            program.unlink()
            if passed is None:
                return "timed out", test
            if passed is not True:
                return "killed", f"{test} {passed}"
    return "survived" if groups >= len(TESTS) else "unjudged", ""


def explained(all_mutants):
    """The reasons by (key, turn). One that could mean several changes must say which: ` #2` is the second."""
    turns = {}
    for mutant, _ in all_mutants:
        turns.setdefault(mutant["key"], set()).add(mutant["turn"])
    reasons = {}
    for line in EXPLAINED.read_text().splitlines() if EXPLAINED.exists() else []:
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.rpartition(" | ")
            if not key or not reason.strip():
                raise SystemExit(f"{EXPLAINED.name}: no reason: {line}")
            named = re.fullmatch(r"(.*) #(\d+)", key.strip())
            key, which = (
                (named[1], {int(named[2])}) if named else (key.strip(), turns.get(key.strip(), set()))
            )
            if len(which) > 1:
                raise SystemExit(f"{EXPLAINED.name}: which of {len(which)}? {key}")
            if not which or not which <= turns.get(key, set()):
                raise SystemExit(f"{EXPLAINED.name}: there is no such change: {key}")
            reasons[(key, next(iter(which)))] = reason.strip()
    return reasons


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["run", "list"])
    parser.add_argument("--shard", default="0/1", help="the k-th of n parts")
    parser.add_argument("--only", help="one script")
    parser.add_argument("--again", action="store_true", help="run those again that have survived before")
    parser.add_argument(
        "--hasty", action="store_true", help="do not run what is explained and was not run yet"
    )
    parser.add_argument(
        "--groups", type=int, default=len(TESTS), help="only so many groups of tests: no survivors"
    )
    parser.add_argument("--limit", type=float, default=180, help="seconds for the tests of one change")
    options = parser.parse_args()
    # So that the program that runs is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    part, parts = map(int, options.shard.split("/"))
    if not 0 <= part < parts:
        sys.exit(f"there is no part {options.shard}: the first of 8 is 0/8, the last 7/8")
    names = [options.only] if options.only else sorted(path.name for path in SCRIPTS.glob("*.lua"))
    found = [mutant for name in names for mutant in mutants(name)]
    # Neighbours go to different parts.
    found = [mutant for number, mutant in enumerate(found) if number % parts == part]
    if options.verb == "list":
        for mutant, _ in found:
            print(f"{mutant['file']}:{mutant['line']}: {mutant['key'].partition(': ')[2]}")
        return 0

    reasons = explained([mutant for path in SCRIPTS.glob("*.lua") for mutant in mutants(path.name)])
    store = TARGET / "mutants-lua.jsonl"
    originals = {name: (SCRIPTS / name).read_bytes() for name in names}
    versions = {name: version(original.decode()) for name, original in originals.items()}
    known = {}
    if store.exists():
        for line in store.read_text().splitlines():
            entry = json.loads(line)
            known[entry["version"], entry["key"], entry["turn"]] = entry
    built = programs()
    if not passes_unchanged(built, options.limit, options.groups):
        return 2
    table = {}
    left, noticed_all_the_same = [], []
    tests = programs_name(built)
    for number, (mutant, changed) in enumerate(found, 1):
        place = versions[mutant["file"]], mutant["key"], mutant["turn"]
        entry = known.get(place)
        is_explained = (mutant["key"], mutant["turn"]) in reasons
        is_left = entry is None or entry["result"] == "survived"
        # Tests that were added since may notice it.
        is_old = entry is not None and is_left and entry.get("tests") != tests
        if options.hasty and is_explained and is_left:
            entry = {"result": "survived"}
        elif entry is None or is_old or options.again and is_left:
            since = time.monotonic()
            original = originals[mutant["file"]]
            result, by = judge(built, mutant["file"], original, changed, options.limit, options.groups)
            seconds = round(time.monotonic() - since, 1)
            entry = {
                **mutant,
                "version": place[0],
                "result": result,
                "by": by,
                "seconds": seconds,
                "tests": tests,
            }
            if result != "unjudged":
                with store.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            print(f"{number}/{len(found)} {result} ({seconds} s) {mutant['key']} [{by}]", flush=True)
        result = entry["result"]
        if is_explained and result in ("killed", "timed out"):
            noticed_all_the_same.append(mutant["key"])
        if result == "survived":
            result = "explained" if is_explained else "survived"
            if result == "survived":
                left.append(f"{mutant['file']}:{mutant['line']}: {mutant['key'].partition(': ')[2]}")
        row = table.setdefault(mutant["file"], {})
        row[result] = row.get(result, 0) + 1
    columns = ["killed", "timed out", "explained", "survived", "unjudged"]
    print(f"\n{'':20}" + "".join(f"{column:>11}" for column in columns))
    for name, row in table.items():
        print(f"{name:20}" + "".join(f"{row.get(column, 0):>11}" for column in columns))
    print(
        f"{'all':20}"
        + "".join(f"{sum(row.get(column, 0) for row in table.values()):>11}" for column in columns)
    )
    for line in left:
        print(f"survived: {line}")
    for key in noticed_all_the_same:
        print(f"explained, but noticed: {key}")
    noticed = sum(row.get("killed", 0) + row.get("timed out", 0) for row in table.values())
    judged = noticed + sum(row.get("explained", 0) + row.get("survived", 0) for row in table.values())
    print(f"{100 * noticed / max(judged, 1):.1f} % of {judged} are noticed; {GOAL} % should be")
    return (
        1
        if left or noticed_all_the_same or parts == 1 and not options.only and 100 * noticed < GOAL * judged
        else 0
    )


def programs_name(built):
    return hashlib.sha256(b"".join(built[test] for test in sorted(built))).hexdigest()


def passes_unchanged(built, limit, groups):
    """Whether the tests pass on what is not changed. Asked once for the same programs."""
    name = programs_name(built) + repr(TESTS[:groups])
    store = TARGET / "mutants-lua-unchanged"
    if store.exists() and store.read_text() == name:
        return True
    with tempfile.TemporaryDirectory(dir=TARGET, ignore_cleanup_errors=True) as directory:
        for test, arguments in TESTS[:groups]:
            program = Path(directory) / test
            program.write_bytes(built[test])
            program.chmod(0o755)
            since = time.monotonic()
            passed = verdict(program, arguments, since + limit)
            print(
                f"{test}: {'passes' if passed is True else passed} ({time.monotonic() - since:.1f} s)",
                flush=True,
            )
            if passed is not True:
                return False
    store.write_text(name)
    return True


if __name__ == "__main__":
    sys.exit(main())
