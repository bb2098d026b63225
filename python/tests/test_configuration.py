"""The configuration of a manager: what is refused, in which words, and what stays accepted."""

import inspect
import logging
import pickle
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import globallock
import pytest
from globallock import (
    DJANGO_REDIS_GLOBAL_LOCK_CLASS,
    ETCD_GLOBAL_LOCK_CLASS,
    REDIS_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
    GlobalLockImplementationBase,
    GlobalLockManager,
    InvalidAddress,
    InvalidOption,
)
from globallock.addresses import SCHEMES
from globallock.config import KEYS, Config
from globallock.constants import ENGINE_CLASSES, URL_GLOBAL_LOCK_CLASS
from globallock.redis_global_lock import RedisGlobalLock

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-configuration.md"
HOSTS = {ZOOKEEPER_GLOBAL_LOCK_CLASS: {"hosts": "127.0.0.1:1"}, URL_GLOBAL_LOCK_CLASS: {"url": "memory:"}}


def engine(path, **options):
    """The configuration of an engine that has all that it needs."""
    options = {**HOSTS.get(path, {}), **options}
    return {"global_lock_engine_class": path, "global_lock_engine_options": options}


def refused(*words, error=InvalidOption):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("global_lock_engine_option", "global_lock_engine_options"),
        ("global_lock_class", "global_lock_engine_class"),
        ("global-lock-key-prefix", "global_lock_key_prefix"),
        ("timout", "timeout"),
        ("lock_tll", "lock_ttl"),
        ("blocking_timout", "blocking_timeout"),
        ("URL", "url"),
    ],
)
def test_a_mistyped_key_is_refused_with_the_likeliest_one(typo, meant):
    words = (f"no key '{typo}'", f"did you mean '{meant}'?")
    for path in ENGINE_CLASSES:
        with refused(*words):
            GlobalLockManager({**engine(path), typo: 5})
    with refused(*words):
        GlobalLockManager({"url": "memory:", typo: 5})
    for config in (None, "memory:", {"url": "memory:"}, {}):
        with refused("GlobalLockManager() has no option", f"'{typo}'", f"did you mean '{meant}'?"):
            GlobalLockManager(config, **{typo: 5})


def test_a_key_that_belongs_elsewhere_is_refused_with_its_place():
    for key in ("grace", "hold_at_least", "with_value", "thread_local"):
        with refused(f"'{key}'", "an option of lock()"):
            GlobalLockManager("memory:", **{key: 5})
    for key in ("host", "port", "hosts", "redis-cache-name"):
        with refused(f"'{key}'", "write it into global_lock_engine_options"):
            GlobalLockManager({key: "x"})
    with refused("'colour'", "known are: auto_renew, blocking,"):
        GlobalLockManager({"colour": "red"})
    with refused("no key 7"):
        GlobalLockManager({7: "red"})


@pytest.mark.parametrize(
    ("path", "typo", "meant"),
    [
        (REDIS_GLOBAL_LOCK_CLASS, "hots", "host"),
        (REDIS_GLOBAL_LOCK_CLASS, "sockettimeout", "socket_timeout"),
        (REDIS_GLOBAL_LOCK_CLASS, "max_connection", "max_connections"),
        (REDIS_GLOBAL_LOCK_CLASS, "ssl_ca_cert", "ssl_ca_certs"),
        (DJANGO_REDIS_GLOBAL_LOCK_CLASS, "redis_cache_name", "redis-cache-name"),
        (ETCD_GLOBAL_LOCK_CLASS, "pasword", "password"),
        (ZOOKEEPER_GLOBAL_LOCK_CLASS, "host", "hosts"),
        (URL_GLOBAL_LOCK_CLASS, "uri", "url"),
    ],
)
def test_a_mistyped_option_of_an_engine_is_refused_when_the_manager_is_made(path, typo, meant):
    with refused(path.rpartition(".")[2], f"'{typo}' is not known", f"did you mean '{meant}'?"):
        GlobalLockManager(engine(path, **{typo: "x"}))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h?prefx=a", ("'prefx'", "did you mean 'prefix'?")),
        ("redis://h?prefix=a&timout=1s", ("'timout'", "did you mean 'timeout'?")),
        ("etcds://h?crt=a", ("etcds: has no option 'crt'", "did you mean 'cert'?")),
        ("file:///x?netwrok=allow", ("'netwrok'", "did you mean 'network'?")),
        ("rediss+sentinal://h/main", ("'rediss+sentinal'", "did you mean 'rediss+sentinel'?")),
        ("zookeper://h", ("'zookeper'", "did you mean 'zookeeper'?")),
    ],
)
def test_a_mistyped_address_is_refused_when_the_manager_is_made(url, words):
    for config in (url, {"url": url}, engine(URL_GLOBAL_LOCK_CLASS, url=url)):
        with refused(*words, error=InvalidAddress):
            GlobalLockManager(config)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_options_of_addresses_are_those_that_the_core_has(scheme):
    places = {"memory": "", "file": "///x", "unix": "///s", "sentinel": "//h/main"}
    with pytest.raises(InvalidAddress) as raised:
        place = places.get(scheme.rpartition("+")[2], "//h")
        GlobalLockManager(f"{scheme}:{place}?zzzz=1").lock("a", blocking=False).acquire()
    known = str(raised.value).partition("known are: ")[2].replace("it has none", "")
    assert sorted(known.replace(",", "").split()) == sorted(SCHEMES[scheme].split())


def test_the_schemes_of_addresses_are_those_that_the_core_has():
    with pytest.raises(InvalidAddress) as raised:
        GlobalLockManager("ftp://h").lock("a").acquire()
    known = str(raised.value).partition("known are ")[2]
    assert set(known.split(", ")) == set(SCHEMES)


def test_lock_refuses_a_mistyped_option_with_the_likeliest_one():
    lockman = GlobalLockManager("memory:")
    for options, meant in (({"timout": 5}, "timeout"), ({"blocking_timout": 1}, "blocking_timeout")):
        for make in (
            lambda options=options: lockman.lock("a", **options),
            lambda options=options: lockman.rwlock("a", **options).read(),
            lambda options=options: lockman.semaphore("a", 2, **options),
            lambda options=options: lockman.lock_all(["a"], **options),
            lambda options=options: lockman.aio.lock("a", **options),
            lambda options=options: lockman.once("a", 5, **options).turn(),
        ):
            with refused("has no option", f"did you mean '{meant}'?"):
                make()


def test_the_address_is_a_key(redis_server, name):
    for config in ({"url": redis_server.url, "timeout": 5}, {"url": redis_server.url}):
        lockman = GlobalLockManager(config, lock_ttl=3)
        with lockman.lock(name) as lock:
            assert lock.is_locked and lock.lock_ttl == 3 and lock.timeout == config.get("timeout")
            assert len(GlobalLockManager(redis_server.url).inspect(name)) == 1
    assert pickle.loads(pickle.dumps(lockman)).config == lockman.config


@pytest.mark.parametrize(
    ("config", "keywords", "words"),
    [
        ("memory:", {"url": "memory:b"}, ("an address", "url")),
        ("memory:", {"global_lock_engine_class": REDIS_GLOBAL_LOCK_CLASS}, ("global_lock_engine_class",)),
        ({"url": "memory:", "global_lock_engine_options": {"port": 1}}, {}, ("global_lock_engine_options",)),
        ({"url": "memory:", "global_lock_engine_class": REDIS_GLOBAL_LOCK_CLASS}, {}, ("twice",)),
        ({"global_lock_engine_options": {"port": 1}}, {"url": "memory:"}, ("given twice", "one of them")),
    ],
)
def test_a_store_that_is_given_twice_is_refused(config, keywords, words):
    with refused(*words):
        GlobalLockManager(config, **keywords)


def test_none_is_the_same_as_to_leave_a_key_out():
    config = GlobalLockManager(dict.fromkeys(KEYS)).config
    assert (config.global_lock_engine_class, config.global_lock_key_prefix) == (
        REDIS_GLOBAL_LOCK_CLASS,
        "_glocks:",
    )
    lockman = GlobalLockManager({**dict.fromkeys(KEYS), "url": "memory:"})
    with lockman.lock("a", lock_ttl=3, auto_renew=None) as lock:
        assert lock.is_locked and lock._lock_request().max_hold is None, "it is renewed"


def test_a_wrong_session_of_kazoo_is_refused_by_its_own_name():
    for session in (0.01, 0, -1, "5"):
        with refused("ZookeeperGlobalLock", "'timeout' of global_lock_engine_options is", "from 0.1 to"):
            GlobalLockManager(engine(ZOOKEEPER_GLOBAL_LOCK_CLASS, timeout=session))
    GlobalLockManager(engine(ZOOKEEPER_GLOBAL_LOCK_CLASS, timeout=0.1))


def test_gaps_are_refused_where_nobody_would_leave_them():
    for config in ("memory:", "redis://127.0.0.1", engine(ETCD_GLOBAL_LOCK_CLASS)):
        with refused("no key 'gap'", "redis://host?gap=150ms"):
            GlobalLockManager(config, gap=0.15)
    with refused("no key 'gap'"):
        GlobalLockManager(engine(ZOOKEEPER_GLOBAL_LOCK_CLASS), gap=0)
    for path in (REDIS_GLOBAL_LOCK_CLASS, DJANGO_REDIS_GLOBAL_LOCK_CLASS):
        GlobalLockManager(engine(path), gap=timedelta(seconds=0.15))
    for gap in (-1, "soon", 11, True):
        with refused("gap"):
            GlobalLockManager(engine(DJANGO_REDIS_GLOBAL_LOCK_CLASS), gap=gap)


def test_a_prefix_beside_an_address_is_refused():
    with refused("global_lock_key_prefix", "redis://host?prefix=team"):
        GlobalLockManager("redis://127.0.0.1", global_lock_key_prefix="team:")
    with refused("global_lock_key_prefix '{team}:'", "brace"):
        GlobalLockManager({"global_lock_key_prefix": "{team}:"})


TIMES = ["timeout", "lock_ttl", "sleep", "blocking_timeout", "renew_interval", "gap"]


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_a_wrong_type_is_refused_when_the_manager_is_made(key):
    wrong = [[], object(), 1j]
    if key in TIMES:
        wrong += ["5", b"5", True, -1, float("nan"), float("inf"), 10**400, timedelta(-1), Decimal("NaN")]
    elif key in ("blocking", "auto_renew"):
        wrong += ["yes", 5, -1, float("nan"), timedelta(0)]
    else:
        wrong += [5, b"x", True] if key != "global_lock_engine_class" else [5]
    for value in wrong:
        kind = InvalidAddress if key == "url" else InvalidOption
        if key == "global_lock_engine_class":
            kind = globallock.GlobalLockClassNotFoundException
        with pytest.raises(kind) as raised:
            GlobalLockManager({key: value})
        shown = {"url": "the address", "global_lock_engine_class": "global lock class"}.get(key, key)
        assert shown in str(raised.value), raised.value


#: The keys of the configuration of releases 0.1.0 to 0.2.0, and values that its users may have.
ORIGINAL = {
    "global_lock_key_prefix": "_glocks:",
    "timeout": 60,
    "lock_ttl": 30,
    "sleep": 0.1,
    "blocking": True,
    "blocking_timeout": 5,
    "auto_renew": True,
    "renew_interval": 5,
}


@pytest.mark.parametrize("path", ENGINE_CLASSES[:4])
def test_the_keys_of_earlier_releases_stay_accepted(path):
    GlobalLockManager({**engine(path), **ORIGINAL})
    lockman = GlobalLockManager({**engine(path), **dict.fromkeys(ORIGINAL), "blocking": 0, "sleep": 1})
    lock = lockman.lock("a", timeout=5, sleep=0.1, blocking=1, blocking_timeout=1, lock_ttl=3)
    assert lock.sleep == 0.1


class Own(GlobalLockImplementationBase):
    """An engine such as users of the first releases have written, with a key and options of its own."""

    def _do_acquire(self):
        return self.config.table == "locks" and self.config.global_lock_engine_options["dsn"] == "x"


class Named(Own):
    CONFIG_KEYS = ("table", "timeouts")


class Pooled(RedisGlobalLock):
    def get_redis_connection_pool(self):
        return self.config.pool


def test_an_engine_of_another_package_has_keys_of_its_own():
    config = {**engine(Own, dsn="x"), "table": "locks"}
    assert GlobalLockManager(config, colour="red", timeout="5 minutes").lock("a").acquire()
    with refused("'timeuot'", "did you mean 'timeout'?", "name it in Own.CONFIG_KEYS"):
        GlobalLockManager(config, timeuot=5)
    with refused("'global_lock_engine_option'", "did you mean"):
        GlobalLockManager({**config, "global_lock_engine_option": {}})
    GlobalLockManager(config, urls=["a", "b"], labels={})
    named = {**engine(Named, dsn="x"), "table": "locks"}
    assert GlobalLockManager(named, timeouts=5).lock("a").acquire()
    with refused("'tabel'", "did you mean 'table'?"):
        GlobalLockManager(named, tabel="locks")
    assert GlobalLockManager({**engine(Pooled), "pool": 7}).config.pool == 7


def test_a_mistyped_class_is_refused_with_the_likeliest_one():
    with refused(
        "globallock.RedisGlobalLock is NOT found",
        f"did you mean '{REDIS_GLOBAL_LOCK_CLASS}'?",
        error=globallock.GlobalLockClassNotFoundException,
    ):
        GlobalLockManager({"global_lock_engine_class": "globallock.RedisGlobalLock"})


def test_an_option_that_is_ignored_is_told_once(caplog):
    with caplog.at_level(logging.INFO, logger="globallock.base"):
        for _ in range(3):
            options = {"hosts": "h", "randomize_hosts": True}
            GlobalLockManager(engine(ZOOKEEPER_GLOBAL_LOCK_CLASS, **options))
    assert caplog.text.count("'randomize_hosts' is ignored") <= 1


def rows():
    text = PAGE.read_text().partition("## The keys")[2].partition("\n## ")[0]
    return [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]


def test_the_page_has_every_key_with_its_default():
    defaults = {key: f"`{value!r}`" for key, value in Config().items()}
    defaults.update({"global_lock_engine_class": "`RedisGlobalLock`", "blocking": "`True`"})
    table = {row[0].strip("`"): row for row in rows()}
    assert list(table) == list(KEYS)
    for key, (_, _, default, *_) in table.items():
        if key in defaults:
            wanted = defaults[key].replace("'_glocks:'", '"_glocks:"')
            assert default == wanted, key


def test_the_page_has_every_option_of_lock():
    text = PAGE.read_text().partition("## The options of a lock")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    parameters = list(inspect.signature(GlobalLockManager.lock).parameters)[2:-1]
    assert set(parameters) <= set(listed), set(parameters) - set(listed)


def test_every_configuration_of_the_page_is_accepted():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {"GlobalLockManager": GlobalLockManager, "globallock": globallock})
