"""Real servers, each started once for all tests by the project's harness; and time limits."""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import globallock
import pytest
from globallock import testing

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# The parent may ignore these signals, as nohup does. The tests and their children would inherit that.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


# Stores that only the oldest and the newest CPython are tested with, as they differ only below the package.
ELSEWHERE = {"etcd", "zookeeper", "postgres"} if os.environ.get("GLOBALLOCK_STORES") == "few" else set()


def pytest_collection_modifyitems(config, items):
    def is_elsewhere(item):
        parts = item.callspec.id.split("-") if hasattr(item, "callspec") else []
        return not ELSEWHERE.isdisjoint(parts)

    selected, deselected = [], []
    for item in items:
        (deselected if is_elsewhere(item) else selected).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected


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


class Late:
    """A port that leads to a server, but not yet: the first connections are closed without an answer."""

    def __init__(self, port, refusals):
        self.server = ("127.0.0.1", port)
        self.refusals = self.left = refusals
        self.open = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.left > 0:
                self.left -= 1
                client.close()
                continue
            server = socket.create_connection(self.server)
            self.open += client, server
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    @staticmethod
    def pass_on(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def refuse(self, count):
        """Cuts all connections, and refuses so many more."""
        self.left = count
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


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


@pytest.fixture(scope="session")
def postgres_server():
    yield from server("postgres")


@pytest.fixture
def redis_config(redis_server):
    return {"global_lock_engine_options": {"host": "127.0.0.1", "port": redis_server.port}}


@pytest.fixture(params=["redis", "etcd", "zookeeper", "postgres", "file"])
def url(request, tmp_path):
    """The address of each kind of store."""
    if request.param == "file":
        return f"file://{tmp_path}/locks"
    return request.getfixturevalue(f"{request.param}_server").url


ENGINES = {
    "RedisGlobalLock": (globallock.REDIS_GLOBAL_LOCK_CLASS, "redis", "port"),
    "EtcdGlobalLock": (globallock.ETCD_GLOBAL_LOCK_CLASS, "etcd", "port"),
    "ZookeeperGlobalLock": (globallock.ZOOKEEPER_GLOBAL_LOCK_CLASS, "zookeeper", "hosts"),
}


@pytest.fixture(params=["memory", "file", "redis", "etcd", "zookeeper", "postgres", *ENGINES])
def config(request, tmp_path):
    """The configuration of each engine of the package: its address, or as earlier releases have it."""
    if request.param == "memory":
        return f"memory:{tmp_path}"
    if request.param == "file":
        return f"file://{tmp_path}/locks"
    if request.param not in ENGINES:
        return request.getfixturevalue(f"{request.param}_server").url
    engine, kind, option = ENGINES[request.param]
    port = request.getfixturevalue(f"{kind}_server").port
    where = f"127.0.0.1:{port}" if option == "hosts" else port
    return {"global_lock_engine_class": engine, "global_lock_engine_options": {option: where}}


@pytest.fixture
def name(request):
    """A lock's name that no other test uses."""
    return f"{request.node.name}-{time.time_ns()}"


@pytest.fixture
def lockman(name):
    """A manager of a store in memory."""
    with globallock.GlobalLockManager(f"memory:{name}") as lockman:
        yield lockman


@pytest.fixture
def other(name):
    """Somebody else's manager of the same store."""
    with globallock.GlobalLockManager(f"memory:{name}") as lockman:
        yield lockman


@pytest.fixture
def locks():
    """The locks of all managers, in memory while the test runs."""
    with testing.locks() as locks:
        yield locks


def evict(other, name, reason="an operator wants it"):
    """Ends the hold of the only holder."""
    [holder] = [claim for claim in other.inspect(name) if claim.held]
    assert other.evict(name, holder, reason)


def eventually(what, condition, limit=30):
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, f"not within {limit} s: {what}"
        time.sleep(0.005)


def in_fork(function):
    """Runs a function in a forked child, and returns the repr of its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, repr(function()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as output:
        text = output.read()
    assert os.waitpid(child, 0)[1] == 0, text
    return text


def django_database(url):
    """The database of a PostgreSQL server's address, as Django's setting has it."""
    place = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql", "HOST": place.hostname, "PORT": place.port,
        "USER": unquote(place.username), "PASSWORD": unquote(place.password),
        "NAME": place.path.lstrip("/") or place.username,
    }  # fmt: skip


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
