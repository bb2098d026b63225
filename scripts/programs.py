"""The test programs: what they are, and how one of them is run."""

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILED = re.compile(r"^test (\S+)(?: - should panic)?\s+\.\.\. FAILED", re.MULTILINE)


def built():
    """The test programs: of each its name, its file and the directory to run it in."""
    what = ["--locked", "--workspace", "--all-targets", "--no-run", "--message-format=json"]
    messages = subprocess.run(
        ["cargo", "test", *what], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    for message in map(json.loads, messages.splitlines()):
        if message.get("executable") and message["profile"]["test"]:
            yield message["target"]["name"], message["executable"], Path(message["manifest_path"]).parent


def run(file, directory, output, threads, niceness=0):
    """Runs a test program, with so many tests at a time, and its output in a file. Gives its exit status, and
    the names of tests that failed."""
    with output.open("wb") as written:
        status = subprocess.run(
            ["nice", "-n", str(niceness), "python3", ROOT / "scripts" / "limited.py", file],
            cwd=directory,
            env=os.environ | {"RUST_TEST_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        ).returncode
    return status, FAILED.findall(output.read_text(errors="replace"))
