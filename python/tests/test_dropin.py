"""The interface of the earlier releases."""

import gc
import logging
import pickle
import sys
import threading

import globallock
import pytest
import redis
from conftest import eventually
from globallock import (
    GlobalLockClassNotFoundException,
    GlobalLockImplementationBase,
    GlobalLockManager,
    InvalidOption,
)
from globallock.etcd_global_lock import EtcdGlobalLock
from globallock.redis_global_lock import RedisGlobalLock
from globallock.zookeeper_global_lock import ZookeeperGlobalLock


def test_what_earlier_releases_export_is_here():
    from globallock.base import normalize_key_prefix_for_path
    from globallock.config import Config
    from globallock.constants import DEFAULT_GLOBAL_LOCK_ENGINE_CLASS, DEFAULT_GLOBAL_LOCK_KEY_PREFIX
    from globallock.etcd_global_lock import EtcdGlobalLock
    from globallock.redis_global_lock import RedisGlobalLock
    from globallock.zookeeper_global_lock import ZookeeperGlobalLock

    assert DEFAULT_GLOBAL_LOCK_ENGINE_CLASS == globallock.REDIS_GLOBAL_LOCK_CLASS
    assert normalize_key_prefix_for_path(DEFAULT_GLOBAL_LOCK_KEY_PREFIX) == "_glocks/"
    assert Config({"a": 1}).a == 1 and Config().global_lock_key_prefix == "_glocks:"
    for engine in (EtcdGlobalLock, RedisGlobalLock, ZookeeperGlobalLock):
        assert issubclass(engine, GlobalLockImplementationBase)


def test_the_first_example_of_the_old_readme(redis_server):
    from globallock import REDIS_GLOBAL_LOCK_CLASS

    config = {
        "global_lock_engine_class": REDIS_GLOBAL_LOCK_CLASS,
        "global_lock_engine_options": {"host": "127.0.0.1", "port": redis_server.port, "db": 0},
    }
    lockman = GlobalLockManager(config)
    with lockman.lock("your unique lock name", timeout=60, blocking=True, blocking_timeout=5) as lock:
        assert lock.is_locked
        assert lock.lock_key == "_glocks:your unique lock name"
        assert redis.Redis(port=redis_server.port).exists(lock.lock_key)
        with lockman.lock("your unique lock name", blocking=True, blocking_timeout=0.2) as other:
            assert not other.is_locked
        assert not lockman.lock("your unique lock name", blocking=False).acquire()
    assert not lock.is_locked
    assert not redis.Redis(port=redis_server.port).exists(lock.lock_key)


def test_a_bare_acquire_is_released(redis_config, redis_server, name):
    lock = GlobalLockManager(redis_config).lock(name)
    assert lock.acquire() is True
    assert lock.is_locked
    assert lock.release() is None
    assert not lock.is_locked and not redis.Redis(port=redis_server.port).exists(lock.lock_key)
    lock.release()


def test_positional_timeout_is_the_max_hold_time(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    with lockman.lock(name, 0.3) as lock:
        assert lock.is_locked
        with lockman.lock(name) as next_one:
            assert next_one.is_locked
            assert not lock.is_locked, "the object knows that the max hold time has passed"


def test_defaults_of_lock_come_from_the_configuration(redis_config, name):
    lockman = GlobalLockManager({**redis_config, "blocking": False, "timeout": 7, "lock_ttl": 3})
    lock = lockman.lock(name)
    assert (lock.blocking, lock.timeout, lock.lock_ttl) == (False, 7, 3)
    assert lockman.lock(name, timeout=8, blocking=True).timeout == 8


def test_the_release_of_a_lost_lock_warns_and_never_raises(redis_config, redis_server, name, caplog):
    lock = GlobalLockManager(redis_config).lock(name)
    lock.acquire()
    redis.Redis(port=redis_server.port).delete(lock.lock_key)
    with caplog.at_level(logging.WARNING, logger="globallock.base"):
        lock.release()
    assert name in caplog.text


def test_a_lost_lock_is_not_locked(redis_config, redis_server, name):
    lock = GlobalLockManager(redis_config).lock(name, lock_ttl=0.6)
    notified = threading.Event()
    lock.acquire()
    lock.on_lost(lambda reason: notified.set())
    event = lock.lost_event()
    redis.Redis(port=redis_server.port).delete(lock.lock_key)
    assert notified.wait(30) and event.wait(30)
    assert not lock.is_locked and not lock.extend()
    assert "no such claim" in lock.wait_lost(0)


def test_a_body_that_raises_releases_the_lock(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    with pytest.raises(KeyError), lockman.lock(name):
        raise KeyError
    assert lockman.lock(name, blocking=False).acquire()


def test_a_lock_may_be_released_by_another_thread(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    lock = lockman.lock(name)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lockman.lock(name, blocking=False).acquire()


def test_each_manager_has_its_own_connection(redis_server, name):
    here = GlobalLockManager({"global_lock_engine_options": {"port": redis_server.port, "db": 0}})
    there = GlobalLockManager({"global_lock_engine_options": {"port": redis_server.port, "db": 5}})
    assert here.lock(name).acquire() and there.lock(name, blocking=False).acquire()


def test_dropped_locks_are_not_kept(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    for number in range(50):
        with lockman.lock(f"{name}-{number}"):
            assert len(lockman.registered_locks()) == 1
    gc.collect()
    assert lockman.registered_locks() == []


def test_closing_a_manager_releases_its_locks(redis_config, name):
    with GlobalLockManager(redis_config) as lockman:
        lock = lockman.lock(name)
        assert lock.acquire()
    lockman.close()
    assert not lock.is_locked
    assert GlobalLockManager(redis_config).lock(name, blocking=False).acquire()
    assert lockman.lock(f"{name}-again").acquire(), "it connects again"
    lockman.close()


def test_an_engine_that_does_not_exist():
    with pytest.raises(GlobalLockClassNotFoundException) as raised:
        GlobalLockManager({"global_lock_engine_class": "nowhere.Nothing"})
    assert "nowhere.Nothing is NOT found" in str(raised.value)
    assert raised.value.args == (210103001, "分布锁类未定义")


@pytest.mark.parametrize("broken", ["import no_such_driver", "from json import no_such_thing"])
def test_an_engine_whose_module_cannot_be_imported_says_why(broken, tmp_path, monkeypatch):
    (tmp_path / "broken_engine.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_engine", raising=False)
    with pytest.raises(GlobalLockClassNotFoundException, match="broken_engine.Lock is NOT found.*no_such"):
        GlobalLockManager({"global_lock_engine_class": "broken_engine.Lock"})


class Own(GlobalLockImplementationBase):
    """An engine such as users of the first releases have written."""

    taken = set()

    def __init__(self, config, name, **options):
        super().__init__(config, name, **options)
        self.lock = self

    def _do_acquire(self):
        free = self.lock_key not in Own.taken
        Own.taken.add(self.lock_key)
        return free

    def release(self):
        if self._is_locked:
            Own.taken.discard(self.lock_key)
        self._is_locked = False


def test_an_engine_that_a_user_wrote():
    for engine in (Own, f"{__name__}.Own"):
        lockman = GlobalLockManager({"global_lock_engine_class": engine})
        with lockman.lock("x") as lock, lockman.lock("x") as other:
            assert lock.is_locked and not other.is_locked
        assert Own.taken == set()


def test_a_subclass_with_its_own_pool(redis_server, name):
    class OtherDatabase(RedisGlobalLock):
        def get_redis_connection_pool(self):
            return redis.ConnectionPool(host="127.0.0.1", port=redis_server.port, db=3, decode_responses=True)

    # Nobody listens at the address in the options.
    options = {"host": "127.0.0.1", "port": 1}
    config = {"global_lock_engine_class": OtherDatabase, "global_lock_engine_options": options}
    lockman = GlobalLockManager(config)
    with lockman.lock(name) as lock:
        assert lock.is_locked and lock.renew()
        assert redis.Redis(port=redis_server.port, db=3).exists(f"_glocks:{name}")


@pytest.mark.parametrize(
    "engine, hook",
    [
        (RedisGlobalLock, "get_lock"),
        (EtcdGlobalLock, "get_etcd3_client"),
        (ZookeeperGlobalLock, "get_zk_client"),
    ],
)
def test_a_subclass_with_a_client_that_is_not_used_here_is_refused(engine, hook):
    own = type("Own", (engine,), {hook: lambda self: None})
    with pytest.raises(InvalidOption, match=f"Own brings {hook}"):
        GlobalLockManager({"global_lock_engine_class": own}).lock("x")


def test_an_unknown_option_is_refused_by_name(redis_server):
    def refused(options, text):
        with pytest.raises(globallock.InvalidOption, match=text):
            GlobalLockManager({"global_lock_engine_options": options})

    refused({"port": redis_server.port, "colour": "red"}, "colour")
    refused({"ssl": True, "ssl_cert_reqs": "none"}, "ssl_cert_reqs")
    refused({"credential_provider": object()}, "credential_provider")
    lockman = GlobalLockManager({"global_lock_engine_options": {"port": redis_server.port}})
    with pytest.raises(globallock.InvalidOption, match="colour"):
        lockman.lock("x", colour="red")


def test_errors_say_what_to_change():
    def raised(url, error):
        with pytest.raises(error) as raised:
            GlobalLockManager(url).lock("x", blocking_timeout=0.5).acquire()
        return str(raised.value)

    assert "refused" in raised("redis://127.0.0.1:1", globallock.StoreUnavailable)
    assert "known are memory" in raised("ftp://host", globallock.InvalidAddress)
    assert "CANARY" not in raised("redis://u:CANARY@127.0.0.1:1", ConnectionError)
    with pytest.raises(globallock.InvalidName):
        GlobalLockManager("memory:").lock("").acquire()
    with pytest.raises(globallock.InvalidOption):
        GlobalLockManager("memory:").lock("x", timeout=-1).acquire()


def test_a_pickled_manager_holds_none_of_the_originals_locks(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    with lockman.lock(name):
        copy = pickle.loads(pickle.dumps(lockman))
        assert not copy.lock(name, blocking=False).acquire()


def test_release_020_and_its_options(redis_config, name):
    lockman = GlobalLockManager(redis_config)
    with lockman.lock(name, lock_ttl=30, auto_renew=True, renew_interval=5) as lock:
        assert lock.is_locked and lock.lock_ttl == 30
    with lockman.lock(name, lock_ttl=0.3, auto_renew=False) as lock:
        eventually("a lock that is not renewed ends", lambda: not lock.is_locked)


def test_a_lock_of_redis_py_does_not_starve_beside_three_that_contend(redis_config, redis_server, name):
    stop, grants = threading.Event(), [0, 0, 0]

    def contend(number):
        lockman = GlobalLockManager(redis_config)
        while not stop.is_set():
            with lockman.lock(name):
                grants[number] += 1

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually("they contend", lambda: all(grants))
        client = redis.Redis(port=redis_server.port)
        for _ in range(4):
            before = list(grants)
            stranger = redis.lock.Lock(client, f"_glocks:{name}", timeout=60)
            # Beside managers that leave no gaps it would wait for ever.
            assert stranger.acquire(blocking_timeout=100)
            stranger.release()
            eventually("ours go on", lambda before=before: sum(grants) > sum(before))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
