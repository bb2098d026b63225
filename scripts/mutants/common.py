"""What there is to try, and what became of it."""

import collections
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = "crates/globallock/src"
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
RESULTS = WORK / "results.json"
TOOL = os.environ.get("CARGO_MUTANTS", "cargo-mutants")


def mutants_of(group, only=None):
    """The mutants of a group: each with a key that outlives changes elsewhere in its file."""
    files = [file for file in group["files"] if not only or file in only]
    if not files:
        return []
    command = [TOOL, "mutants", "--list", "--json", "--diff", "-d", str(ROOT), "-p", "globallock"]
    for file in files:
        command += ["-f", f"{SOURCES}/{file}.rs"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found, seen = [], collections.Counter()
    for mutant in listed:
        file = mutant["file"].removeprefix(f"{SOURCES}/").removesuffix(".rs")
        lines = (ROOT / mutant["file"]).read_text().splitlines()
        line = lines[mutant["span"]["start"]["line"] - 1].strip()
        what = re.sub(r"^\S+?:\d+:\d+: ", "", mutant["name"])
        number = seen[file, what, line]
        seen[file, what, line] += 1
        found.append(
            {
                "key": "|".join([file, what, line, str(number)]),
                "name": mutant["name"],
                "path": mutant["file"],
                "diff": mutant["diff"],
                "entry": mutant,
                "file": file,
                "what": what,
                "line": line,
            }
        )
    missing = set(files) - {mutant["file"] for mutant in found}
    for file in sorted(missing):
        if not (ROOT / SOURCES / f"{file}.rs").exists():
            sys.exit(f"groups.toml names {file}.rs, which does not exist")
    return found


class Results:
    """What became of each mutant, by its key."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def outcome(self, mutant):
        result = self.all.get(mutant["key"])
        return result and result["outcome"]

    def note(self, mutant, outcome, seconds, stage):
        with self.lock:
            self.all[mutant["key"]] = {"outcome": outcome, "seconds": round(seconds, 1), "stage": stage}
            written = RESULTS.with_suffix(".new")
            written.write_text(json.dumps(self.all, indent=0, sort_keys=True))
            written.rename(RESULTS)
