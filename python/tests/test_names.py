"""Names of locks: which there are, and that one means the same lock to the earlier releases."""

import json
import subprocess

import pytest
from globallock import (
    ETCD_GLOBAL_LOCK_CLASS,
    REDIS_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
    GlobalLockManager,
    InvalidName,
)
from test_fleet import original

#: Holds each name that it is told, by the original package, until it is told the next; says what came of it.
HOLDS = """
import json, sys
from globallock import GlobalLockManager
lockman, lock = None, None
for line in sys.stdin:
    config, name = json.loads(line)
    if lock is not None:
        lock.release()
    lock = GlobalLockManager(config).lock(name, timeout=60, blocking=True, blocking_timeout=20)
    print(json.dumps(lock.acquire()), flush=True)
"""


class Original:
    """A process of the original package."""

    def __init__(self, tmp_path):
        # `-I`: it imports the package that is installed for it.
        command = [original("0.1.5"), "-I", "-c", HOLDS]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tmp_path)

    def hold(self, config, name):
        self.process.stdin.write(json.dumps([config, name]) + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) is True, name

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture
def old(tmp_path):
    started = Original(tmp_path)
    yield started
    started.end()


SLASHES = ["plain", "a/b", "/a", "a/", "a//b", "//a///b//", "ä ☃", "a:b", "_lock", "{a}", "x" * 512]


def same_lock(old, config, name):
    """Checks that a lock that the original holds is taken for us, and free when it holds another."""
    lock = GlobalLockManager(config).lock(name, blocking=False)
    old.hold(config, name)
    assert not lock.acquire(), f"{config}: both have {name!r}"
    old.hold(config, "another")
    assert lock.acquire(), f"{config}: {name!r} is still taken"
    lock.release()


def test_a_name_means_the_same_lock_in_redis(old, redis_server):
    options = {"host": "127.0.0.1", "port": redis_server.port}
    config = {"global_lock_engine_class": REDIS_GLOBAL_LOCK_CLASS, "global_lock_engine_options": options}
    for name in [*SLASHES, "50%", "a\nb", "."]:
        same_lock(old, config, name)
    for prefix in ("a/b-", "team:"):
        same_lock(old, {**config, "global_lock_key_prefix": prefix}, "/a")


def test_a_name_means_the_same_lock_in_etcd(old, etcd_server):
    options = {"host": "127.0.0.1", "port": etcd_server.port}
    config = {"global_lock_engine_class": ETCD_GLOBAL_LOCK_CLASS, "global_lock_engine_options": options}
    for name in [*SLASHES, "50%", "a\nb", "."]:
        same_lock(old, config, name)
    for prefix in ("", "/", ":", "/a:b-", "team:"):
        for name in ("a", "/a", "//a"):
            same_lock(old, {**config, "global_lock_key_prefix": prefix}, name)


def test_a_name_means_the_same_lock_in_zookeeper(old, zookeeper_server):
    options = {"hosts": f"127.0.0.1:{zookeeper_server.port}"}
    config = {
        "global_lock_engine_class": ZOOKEEPER_GLOBAL_LOCK_CLASS,
        "global_lock_engine_options": options,
        "global_lock_key_prefix": "names:",
    }
    for name in SLASHES:
        same_lock(old, config, name)
    for prefix in ("", "/", ":", "/a::b-", "team:"):
        for name in ("a1", "/a1", "a1//b/"):
            same_lock(old, {**config, "global_lock_key_prefix": prefix}, name)


def test_a_name_that_would_be_another_lock_in_zookeeper_is_refused(zookeeper_server):
    options = {"hosts": f"127.0.0.1:{zookeeper_server.port}"}
    config = {"global_lock_engine_class": ZOOKEEPER_GLOBAL_LOCK_CLASS, "global_lock_engine_options": options}
    with pytest.raises(InvalidName, match="'50%'.*percent sign.*another name, or .*by an address"):
        GlobalLockManager(config).lock("50%").acquire()
    with GlobalLockManager(zookeeper_server.url).lock("50%") as lock:
        assert lock.is_locked


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "it is empty"),
        ("x" * 513, "it has 513 bytes, the limit is 512"),
        ("ä" * 257, "it has 514 bytes, the limit is 512"),
        ("a\0b", "it contains a NUL character"),
        (7, "of type int"),
        (b"a", "of type bytes"),
        (None, "of type NoneType"),
        ("\ud800", "not a text that can be sent"),
    ],
    ids=["empty", "long", "long in UTF-8", "NUL", "number", "bytes", "None", "lone surrogate"],
)
def test_a_name_that_no_store_has_is_refused_with_the_rule(config, name, rule):
    lockman = GlobalLockManager(config)
    for use in (lockman.lock(name).acquire, lambda: lockman.inspect(name)):
        with pytest.raises(InvalidName) as raised:
            use()
        assert rule in str(raised.value) and len(str(raised.value)) < 250
    assert lockman.lock("x" * 512, blocking=False).acquire(), "the longest one is a name"
    lockman.close()


@pytest.mark.parametrize(
    "engine, kind, option",
    [(ETCD_GLOBAL_LOCK_CLASS, "etcd", "port"), (ZOOKEEPER_GLOBAL_LOCK_CLASS, "zookeeper", "hosts")],
)
def test_the_end_of_the_prefix_counts_where_it_is_a_part_of_the_name(engine, kind, option, request):
    port = request.getfixturevalue(f"{kind}_server").port
    options = {option: port if option == "port" else f"127.0.0.1:{port}"}
    lockman = GlobalLockManager(
        {
            "global_lock_engine_class": engine,
            "global_lock_engine_options": options,
            "global_lock_key_prefix": "team:app-",
        }
    )
    assert lockman.lock("x" * 508, blocking=False).acquire()
    with pytest.raises(InvalidName, match="it has 513 bytes with 'app-', the end of global_lock_key_prefix"):
        lockman.lock("x" * 509).acquire()
    lockman.close()
