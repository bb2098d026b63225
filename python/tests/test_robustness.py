"""Bad configurations, bad arguments and hostile servers: each soon raises an exception of the package."""

import asyncio
import contextlib
import datetime
import decimal
import logging
import pickle
import socket
import threading
import time
import traceback

import pytest
from globallock import (
    ETCD_GLOBAL_LOCK_CLASS,
    REDIS_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
    GlobalLockClassNotFoundException,
    GlobalLockError,
    GlobalLockManager,
    InvalidAddress,
    InvalidName,
    InvalidOption,
)
from globallock.constants import URL_GLOBAL_LOCK_CLASS

SECRET = "s3cretQQ"
#: How many seconds a refusal may take on a busy machine. Without a server it takes almost none.
SOON = 15
ENGINES = {
    REDIS_GLOBAL_LOCK_CLASS: {"host": "127.0.0.1", "password": SECRET},
    ETCD_GLOBAL_LOCK_CLASS: {"host": "127.0.0.1", "user": "app", "password": SECRET},
    ZOOKEEPER_GLOBAL_LOCK_CLASS: {"hosts": "127.0.0.1:1", "auth_data": [("digest", f"app:{SECRET}")]},
    URL_GLOBAL_LOCK_CLASS: {"url": f"redis://app:{SECRET}@127.0.0.1:1?timeout=200ms"},
}
LONELY = "\ud800" + SECRET


class Odd:
    """A value of a type that no option has."""

    def __repr__(self):
        return SECRET

    __str__ = __repr__


class Other:
    """Of no type that anything takes. What it shows is the same in every process, as names of tests are."""

    def __repr__(self):
        return "another"


OTHER = Other()


def manager(engine, options, **more):
    config = {"global_lock_engine_class": engine, "global_lock_engine_options": options, **more}
    return GlobalLockManager(config)


@contextlib.contextmanager
def refused(expected, log=None):
    """Expects an exception, soon, and no password in anything that could be shown of it."""
    since = time.monotonic()
    with pytest.raises(expected) as raised:
        yield
    assert time.monotonic() - since < SOON
    shown = "".join(traceback.format_exception(raised.type, raised.value, raised.tb))
    # Without the lines of this file, which a traceback shows too.
    own = "".join(line for line in shown.splitlines(True) if "SECRET" not in line)
    for text in (str(raised.value), repr(raised.value), own, log.text if log else ""):
        assert SECRET not in text
    assert not any(ord(character) < 32 for character in str(raised.value)), str(raised.value)


@pytest.mark.parametrize(
    "config",
    [7, 1.5, b"redis://h", object(), [1], "", "nonsense", "redis"]
    + ["redis://", "://", "redis://h:x", "ftp://h"],
)
def test_values_that_are_not_a_configuration(config):
    with refused((InvalidAddress, InvalidOption)):
        GlobalLockManager(config).lock("a").acquire()


SLIPS = [
    f"redis://app:{SECRET}@",
    f"redis:/app:{SECRET}@h",
    f"app:{SECRET}@h:1",
    f"redis://app:1{SECRET}?@h",
    f"redis://app{SECRET}@h",
    f"redis://app:{LONELY}@h",
    f"etcd://app:{SECRET}@h/x",
    f"zookeeper://app:{SECRET}@h?acl={SECRET}x&auth=y",
    f"redis://app:{SECRET}@h\x1b[2J",
]


@pytest.mark.parametrize("url", SLIPS, ids=range(len(SLIPS)))
def test_addresses_with_a_misplaced_password(url):
    with refused((InvalidAddress, InvalidOption)):
        GlobalLockManager(url).lock("a").acquire()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [7, "text", b"x", [1], [("a",)], object()])
def test_options_that_are_not_a_mapping(engine, options):
    with refused(InvalidOption):
        manager(engine, options).lock("a").acquire()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", ["colour", "", "\x1b[2J", 7, None, b"host", LONELY[0]])
def test_unknown_options(engine, option):
    with refused(InvalidOption):
        manager(engine, {**ENGINES[engine], option: SECRET}).lock("a").acquire()


NOT_TEXT = b"\xff" + SECRET.encode()
WRONG = [Odd(), [], {}, [SECRET], {"colour": SECRET}, NOT_TEXT, LONELY, float("nan"), lambda: None]
TEXTS = {
    REDIS_GLOBAL_LOCK_CLASS: ["host", "username", "password", "path", "unix_socket_path", "ssl_ca_certs"],
    ETCD_GLOBAL_LOCK_CLASS: ["host", "user", "password", "ca_cert", "cert_cert", "cert_key"],
    ZOOKEEPER_GLOBAL_LOCK_CLASS: ["hosts", "auth_data", "sasl_options", "default_acl", "ca", "certfile"],
    URL_GLOBAL_LOCK_CLASS: ["url"],
}
NUMBERS = {
    REDIS_GLOBAL_LOCK_CLASS: ["port", "db", "socket_timeout", "socket_connect_timeout"],
    ETCD_GLOBAL_LOCK_CLASS: ["port", "timeout"],
    ZOOKEEPER_GLOBAL_LOCK_CLASS: ["timeout"],
}


def wrong(options, values, unset):
    """Every option with every value, except the values that mean that the option is not set."""
    every = [(engine, name, value) for engine, names in options.items() for name in names for value in values]
    return [each for each in every if not unset(*each)]


def is_unset_text(engine, option, value):
    # For kazoo an empty value means that the option is not set; and it accepts hosts as a list.
    return engine == ZOOKEEPER_GLOBAL_LOCK_CLASS and (not value or (option, value) == ("hosts", [SECRET]))


def is_unset_number(engine, option, value):
    return option in ("db", "port") and not value


@pytest.mark.parametrize("engine, option, value", wrong(TEXTS, WRONG, is_unset_text))
def test_options_of_a_wrong_type(engine, option, value):
    options = {**ENGINES[engine], option: value}
    if engine == REDIS_GLOBAL_LOCK_CLASS and option == "ssl_ca_certs":
        options["ssl"] = True
    if engine == ZOOKEEPER_GLOBAL_LOCK_CLASS:
        if option != "auth_data":
            del options["auth_data"]
        if option in ("ca", "certfile"):
            options["use_ssl"] = True
    with refused((InvalidOption, InvalidAddress)):
        manager(engine, options).lock("a").acquire()


NOT_NUMBERS = [*WRONG, "x", -1, -0.5, 1e300, float("inf"), 10**400, "1e999"]


@pytest.mark.parametrize("engine, option, value", wrong(NUMBERS, NOT_NUMBERS, is_unset_number))
def test_options_that_are_not_a_number(engine, option, value):
    with refused((InvalidOption, InvalidAddress)):
        manager(engine, {**ENGINES[engine], option: value}).lock("a").acquire()


@pytest.mark.parametrize(
    "path",
    ["", 7, "no.such.module", "os.no_such", ".", "..", "globallock.", "\x00", [], object(), "os.sep", "json"],
)
def test_paths_that_are_not_an_engine_class(path):
    with pytest.raises(GlobalLockClassNotFoundException):
        GlobalLockManager({"global_lock_engine_class": path}).lock("a")


@pytest.mark.parametrize(
    "name", ["", "x" * 513, "a\0b", 7, None, b"a", OTHER, [], "\ud800", float("nan")], ids=repr
)
def test_values_that_are_not_a_name(name):
    lockman = GlobalLockManager("memory:")
    for use in (
        lambda: lockman.lock(name).acquire(),
        lambda: lockman.lock(name).__enter__(),
        lambda: lockman.inspect(name),
        lambda: lockman.rwlock(name).read().acquire(),
        lambda: lockman.semaphore(name, 3).acquire(),
        lambda: lockman.lock_all([name]).acquire(),
        # None is the function's own name.
        lambda: lockman.locked((lambda: None) if name is None else name)(print)(),
        lambda: asyncio.run(lockman.aio.lock(name).acquire()),
    ):
        with refused(InvalidName):
            use()
    assert lockman.registered_locks() == [] and lockman.names() == []


@pytest.mark.parametrize("prefix", [7, None, b"a", OTHER, "\ud800"], ids=repr)
def test_values_that_are_not_a_prefix(prefix):
    with refused(InvalidName):
        GlobalLockManager("memory:").names(prefix)


DAY = datetime.timedelta(1)
NOT_TIMES = ["x", -1, float("nan"), float("inf"), 1e300, 10**400, [], {}, OTHER, b"1", -DAY, 1j]


@pytest.mark.parametrize("option", ["timeout", "blocking_timeout", "lock_ttl"])
@pytest.mark.parametrize("value", NOT_TIMES, ids=repr)
def test_values_that_are_not_a_time(option, value):
    lockman = GlobalLockManager("memory:")
    uses = (
        lambda: lockman.lock("a", **{option: value}).acquire(),
        lambda: GlobalLockManager("memory:", **{option: value}).lock("a").acquire(),
        lambda: asyncio.run(lockman.aio.lock("a", **{option: value}).acquire()),
    )
    for use in uses:
        with refused(InvalidOption):
            use()
    assert lockman.lock("a", **{option: decimal.Decimal("0.5")}, blocking=False).acquire()
    lockman.close()


def test_times_may_be_timedeltas():
    tenth = DAY / (24 * 3600 * 10)
    lockman = GlobalLockManager("memory:timedelta", lock_ttl=DAY)
    with lockman.lock("a", timeout=DAY, lock_ttl=DAY, blocking_timeout=tenth, grace=DAY) as lock:
        assert lock.is_locked and 80000 < lock.remaining < 87000
        assert lock.wait_lost(tenth) is None
        assert not lockman.lock("a", blocking_timeout=tenth).acquire()
        assert not lockman.lock_all(["a", "b"], blocking_timeout=tenth).acquire()
        with lockman.watch(every=tenth) as changes:
            assert next(changes).name == "a"


@pytest.mark.parametrize("value", ["x", -1, 2**32, 10**40, None, [], float("nan"), 1.5, OTHER], ids=repr)
def test_values_that_are_not_permits(value):
    lockman = GlobalLockManager("memory:")
    with refused(InvalidOption):
        lockman.semaphore("a", value).acquire()
    with refused(InvalidOption):
        lockman.semaphore("a", 3, permits=value).acquire()


def test_options_of_lock_that_are_none():
    lockman = GlobalLockManager("memory:")
    for options in ({"kind": "wirte"}, {"kind": 7}, {"colour": 1}, {"": 1}):
        with refused(InvalidOption):
            lockman.lock("a", **options).acquire()
    for label in (7, b"x", object(), LONELY):
        with refused(InvalidOption):
            GlobalLockManager("memory:", label=label).lock("a").acquire()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_representation_contains_a_password(engine):
    lockman = manager(engine, ENGINES[engine])
    lock = lockman.lock("a")
    asynchronous = lockman.aio.lock("a")
    engine = lock._engine
    for thing in (lockman, lockman.config, lock, lockman.aio, asynchronous, engine, engine.native):
        assert SECRET not in repr(thing) and SECRET not in str(thing) and SECRET not in f"{thing}"
    assert repr(lockman.config).startswith("Config(")
    assert pickle.loads(pickle.dumps(lockman)).config == lockman.config


class Hostile:
    """A server that answers everything with the same bytes."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client:
            while self._answer is not None and client.recv(65536):
                client.sendall(self._answer)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._listener.close()


ANSWERS = {
    "closes": None,
    "silent": b"",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "escapes": b"-ERR \x1b[2J\x07 \xe2\x80\xae\r\n",
    "denies": b"-WRONGPASS invalid username-password pair\r\n",
    "without end": b"$999999999999\r\n",
    "deep": b"*1\r\n" * 50_000,
    "frame": b"\x7f\xff\xff\xff",
}


def hostile_options(engine, port):
    server = {"host": "127.0.0.1", "port": port, "password": SECRET}
    return {
        REDIS_GLOBAL_LOCK_CLASS: {**server, "socket_timeout": 0.3},
        ETCD_GLOBAL_LOCK_CLASS: {**server, "user": "a", "timeout": 0.3},
        ZOOKEEPER_GLOBAL_LOCK_CLASS: {"hosts": f"127.0.0.1:{port}", "auth_data": [("digest", f"a:{SECRET}")]},
        URL_GLOBAL_LOCK_CLASS: {"url": f"rediss://app:{SECRET}@127.0.0.1:{port}?timeout=300ms"},
    }[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("manner", ANSWERS)
def test_a_hostile_server(engine, manner, caplog):
    caplog.set_level(logging.DEBUG)
    with Hostile(ANSWERS[manner]) as server:
        lockman = manager(engine, hostile_options(engine, server.port), lock_ttl=0.5)
        lock = lockman.lock("a", blocking_timeout=0.5)
        with refused(GlobalLockError, caplog):
            lock.acquire()
        with refused(GlobalLockError, caplog), lock:
            pytest.fail("it is not held")
        with refused(GlobalLockError, caplog):
            lockman.inspect("a")
        with refused(GlobalLockError, caplog):
            asyncio.run(lockman.aio.lock("a", blocking_timeout=0.5).acquire())
        assert not lock.is_locked and lockman.registered_locks() == []
        lock.release()
        since = time.monotonic()
        lockman.close()
        assert time.monotonic() - since < SOON


@pytest.mark.parametrize("engine", ENGINES)
def test_a_port_that_nobody_listens_on(engine, caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    lockman = manager(engine, hostile_options(engine, port), lock_ttl=0.5)
    with refused(GlobalLockError, caplog):
        lockman.lock("a").acquire()
    lockman.close()
