"""Real servers, each started once for all tests by the project's harness; and time limits."""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# The parent may ignore these signals, as nohup does. The tests and their children would inherit that.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_configure(config):
    global stderr
    # Before pytest replaces it with a file.
    stderr = os.dup(2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Ends the run and dumps all threads when a test does not even react to the signal of its own limit."""
    limit = float(item.config.getini("timeout") or 240) + 60
    faulthandler.dump_traceback_later(limit, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


class Server:
    def __init__(self, kind):
        self.process = subprocess.Popen(
            [TARGET / "debug" / "globallock-server", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.fields = json.loads(self.process.stdout.readline())
        self.url, self.port = self.fields["url"], self.fields["port"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def server(kind):
    started = Server(kind)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def redis_server():
    yield from server("redis")


@pytest.fixture(scope="session")
def etcd_server():
    yield from server("etcd")


@pytest.fixture(scope="session")
def zookeeper_server():
    yield from server("zookeeper")


@pytest.fixture
def redis_config(redis_server):
    return {"global_lock_engine_options": {"host": "127.0.0.1", "port": redis_server.port}}


@pytest.fixture(params=["redis", "etcd", "zookeeper", "file"])
def url(request, tmp_path):
    """The address of each kind of store."""
    if request.param == "file":
        return f"file://{tmp_path}/locks"
    return request.getfixturevalue(f"{request.param}_server").url


@pytest.fixture
def name(request):
    """A lock's name that no other test uses."""
    return f"{request.node.name}-{time.time_ns()}"


def eventually(what, condition, limit=30):
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, f"not within {limit} s: {what}"
        time.sleep(0.005)


def run(program, *arguments, **options):
    """Starts a program in this interpreter."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )


def ends(process):
    """Waits until a program ends, checks that it succeeded, and returns what it printed."""
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    return printed
