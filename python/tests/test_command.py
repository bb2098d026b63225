"""The command `globallock` of the wheel is the program itself, and shares its locks with Python."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import globallock
import pytest
from globallock import GlobalLockManager

COMMAND = Path(sys.executable).with_name("globallock")

pytestmark = pytest.mark.skipif(
    os.environ.get("GLOBALLOCK_WHEEL") != "1", reason="the package is not installed from a wheel"
)


def command(*arguments, **options):
    return subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, text=True, **options)


def test_it_is_the_program_itself_of_the_same_release():
    assert COMMAND.read_bytes()[:4] == b"\x7fELF"
    printed, _ = command("--version").communicate(timeout=60)
    assert printed.split()[1].replace("-rc.", "rc") == globallock.__version__


def test_it_ends_as_its_command_does(tmp_path):
    run = ["run", "--url", f"file://{tmp_path}", "a", "--", "sh", "-c"]
    assert command(*run, "exit 7").wait(60) == 7
    assert command(*run, "kill -TERM $$").wait(60) in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_an_interrupt_reaches_its_command(tmp_path):
    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    run = ["run", "--url", f"file://{tmp_path}", "a", "--", "sh", "-c", script]
    # In a session of its own, so that the signal reaches nobody else.
    process = command(*run, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert (printed, process.returncode) == ("interrupted\n", 3)


def test_it_shares_its_locks_with_python(tmp_path):
    url = f"file://{tmp_path}"
    with GlobalLockManager(url) as lockman, lockman.lock("shared") as lock:
        assert lock.is_locked
        busy = command("run", "--url", url, "--no-wait", "shared", "--", "true", stderr=subprocess.DEVNULL)
        assert busy.wait(60) == 75
    assert command("run", "--url", url, "--no-wait", "shared", "--", "true").wait(60) == 0
