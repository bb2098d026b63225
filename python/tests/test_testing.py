"""What `globallock.testing` gives to the tests of others."""

import asyncio
import copy
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from conftest import ROOT, ends, run
from frameworks import with_plugin
from globallock import GlobalLockManager, InvalidOption, LockLost, NotLocked, StoreUnavailable, _rust, testing

#: Where nobody listens: what asks this store fails.
NOWHERE = "redis://127.0.0.1:1/0?timeout=100ms"


@pytest.fixture(params=["address", "dict", "made before"])
def lockman(request, locks):
    if request.param == "made before":
        return request.getfixturevalue("made_before")
    if request.param == "address":
        return GlobalLockManager(NOWHERE)
    return GlobalLockManager({"global_lock_engine_options": {"host": "127.0.0.1", "port": 1}})


@pytest.fixture
def made_before():
    return GlobalLockManager(NOWHERE)


def test_a_manager_of_any_store_keeps_its_locks_in_memory(lockman, locks):
    with lockman.lock("order/7") as lock:
        assert lock.is_locked and locks.held() == ["order/7"]
        locks.assert_held("order/7")
        assert not GlobalLockManager(NOWHERE).lock("order/7", blocking=False).acquire()
    assert locks.granted == ["order/7"] and locks.held() == []
    locks.assert_held()
    locks.assert_granted("order/7")
    with pytest.raises(AssertionError, match="'a' should be held, and the code under test holds nothing"):
        locks.assert_held("a")
    with pytest.raises(AssertionError, match="nothing should have been granted, and 'order/7' was"):
        locks.assert_granted()


def test_a_manager_has_its_own_store_again_after_the_block(redis_server, name):
    used, unused = GlobalLockManager(redis_server.url), GlobalLockManager(redis_server.url)
    held = used.lock(name)
    assert held.acquire()
    with testing.locks():
        for lockman in (used, unused):
            assert lockman.inspect(name) == []
        left = unused.lock("left")
        assert left.acquire()
    assert not left.is_locked, "what is held at the end is released"
    left.release()
    assert held.is_locked and [claim.held for claim in unused.inspect(name)] == [True]
    held.release()
    assert used.inspect(name) == []


def test_an_inner_block_has_locks_of_its_own(made_before):
    with testing.locks() as outer, made_before.lock("a"):
        with testing.locks() as inner:
            with made_before.lock("a", blocking=False) as lock:
                assert lock.is_locked and inner.held() == ["a"] and outer.granted == ["a"]
            with inner.store_away(), outer.taken("b"):
                pass
        assert outer.held() == ["a"] and made_before.names() == ["a"]


def test_a_lock_that_is_taken_is_busy_until_it_is_given_back(lockman, locks):
    with locks.taken("order/7"):
        with lockman.lock("order/7", blocking=False) as lock:
            assert not lock.is_locked
        with pytest.raises(NotLocked), lockman.hold("order/7", blocking=False):
            raise AssertionError
        assert lockman.locked("order/{order}", on_busy="skip", blocking=False)(lambda order: order)(7) is None
        assert locks.held() == [] and lockman.inspect("order/7")[0].label == "somebody else"
    # Whether the test keeps what is returned or not.
    locks.taken("left")
    assert not lockman.lock("left", blocking_timeout=0.3).acquire()
    reader = locks.taken("catalogue", kind="read")
    assert lockman.rwlock("catalogue").read(blocking=False).acquire()
    assert not lockman.rwlock("catalogue").write(blocking=False).acquire()
    reader.end()
    reader.end()
    with lockman.lock("order/7", blocking=False) as lock:
        assert lock.is_locked
        with pytest.raises(AssertionError, match="it is held by the code under test"):
            locks.taken("order/7")


def test_a_lock_is_taken_without_a_wait_so_it_has_no_options_for_one(locks):
    for option in ("blocking", "blocking_timeout"):
        with pytest.raises(InvalidOption, match=rf"taken\(\) has no option '{option}': it never waits"):
            locks.taken("order/7", **{option: 5})
    with pytest.raises(InvalidOption, match="did you mean 'kind'"):
        locks.taken("order/7", knid="read")
    with pytest.raises(InvalidOption, match="cancel_on_loss"):
        locks.taken("order/7", cancel_on_loss=True)
    with locks.taken("order/7", timeout=60):
        pass


def test_a_thread_that_waits_is_granted_a_lock_that_is_given_back(lockman, locks):
    granted = []
    waiting = threading.Thread(target=lambda: granted.append(lockman.lock("order/7").acquire()))
    with locks.taken("order/7"):
        waiting.start()
        locks.wait_for_waiter("order/7")
        assert locks.waiters("order/7") == 1 and granted == []
    waiting.join(30)
    assert granted == [True]
    with pytest.raises(AssertionError, match="nobody waits for the lock 'other' after 0.1 s"):
        locks.wait_for_waiter("other", limit=0.1)


def test_a_lock_that_is_lost_is_not_held_any_more(lockman, locks):
    lock, told = lockman.lock("order/7"), []
    with lock:
        lock.on_lost(told.append)
        event = lock.lost_event()
        locks.lose("order/7", reason="a pause of the host")
        assert not lock.is_locked and locks.held() == [] and not lock.extend()
        with locks.taken("order/7"):
            assert event.wait(30) and "a pause of the host" in lock.wait_lost(30)
    with pytest.raises(AssertionError, match="'order/7' cannot be lost: the code under test holds nothing"):
        locks.lose("order/7")
    with locks.taken("order/7"), pytest.raises(AssertionError, match="cannot be lost"):
        locks.lose("order/7")


def test_all_readers_of_a_name_lose_it(lockman, locks):
    readers = [lockman.rwlock("catalogue").read() for _ in range(3)]
    with locks.taken("catalogue", kind="read"):
        assert all(reader.acquire() for reader in readers)
        locks.lose("catalogue")
        assert not any(reader.is_locked for reader in readers)
        assert len(lockman.inspect("catalogue")) == 1, "somebody else's stays"


def test_every_call_fails_while_the_store_is_away(lockman, locks):
    lock = lockman.lock("order/7", with_value=True)
    once = lockman.once("report", every=60)
    with lock, lockman.watch() as changes:
        claim = lockman.inspect("order/7")[0]
        calls = (
            lockman.lock("other", blocking=False).acquire, lock.extend, lambda: lock.set_value(b"1", 1),
            lockman.names, lockman.list, lambda: lockman.inspect("a"), lambda: once.run(print),
            lambda: lockman.evict("order/7", claim), lambda: next(changes),
            lockman.lock_all(["a", "b"]).acquire, copy.copy(lockman.lock("another")).acquire,
        )  # fmt: skip
        away = locks.store_away("no route to host")
        for call in calls:
            with pytest.raises(StoreUnavailable, match="no route to host"):
                call()
        assert lock.is_locked, "until its lease expires, as with any store"
        away.end()
        assert lock.extend() and next(changes).name == "order/7" and lockman.names() == ["order/7"]
        locks.store_away()
    assert not lock.is_locked, "a release never fails for its caller"


def test_a_success_that_cannot_be_recorded_is_no_success(lockman, locks):
    once, runs = lockman.once("report", every=60), []

    def work():
        runs.append(locks.store_away())

    with pytest.raises(StoreUnavailable):
        once.run(work)
    runs[0].end()
    assert once.run(lambda: "sent").value == "sent" and not once.run(print)


def test_every_call_of_the_core_that_asks_the_store_is_known_here():
    """If one is added, say whether it fails while the store is away."""

    def calls(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    without = {
        _rust.Manager: {"address", "close", "holds", "watch"},
        _rust.Guard: {
            "asked", "fencing_token", "give_back", "is_asked_to_end", "is_held", "keep_nobody_out",
            "kept_for", "let_go", "loss", "lost", "own", "release", "remaining", "value",
        },
        _rust.Watch: {"close", "take"},
    }  # fmt: skip
    assert calls(_rust.Manager) - without[_rust.Manager] == testing._OF_MANAGERS
    assert calls(_rust.Guard) - without[_rust.Guard] == testing._OF_GUARDS
    assert calls(_rust.Watch) - without[_rust.Watch] == testing._OF_WATCHES


def test_it_is_the_same_for_asyncio(lockman, locks):
    async def main():
        warnings.simplefilter("error")
        lock = lockman.aio.lock("order/7")
        with locks.taken("order/7"):
            assert not await lockman.aio.lock("order/7", blocking=False).acquire()
            waiting = asyncio.ensure_future(lock.acquire())
            await locks.wait_for_waiting_task("order/7")
        assert await waiting and locks.held() == ["order/7"]
        with locks.store_away():
            for call in (lockman.aio.lock("a").acquire, lockman.aio.names, lockman.aio.list):
                with pytest.raises(StoreUnavailable):
                    await call()
            with pytest.raises(StoreUnavailable):
                await lockman.aio.once("report", every=60).run(print)
        locks.lose("order/7", "the test ends")
        started = asyncio.Event()

        async def work():
            started.set()
            await asyncio.Event().wait()

        running = asyncio.ensure_future(lockman.aio.lock("reindex").run(work))
        await started.wait()
        locks.lose("reindex", "a pause of the host")
        with pytest.raises(LockLost, match="a pause of the host"):
            await running
        return locks.granted

    assert asyncio.run(main()) == ["order/7", "reindex"]


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent
from globallock import GlobalLockManager, StoreUnavailable, testing
lockman = GlobalLockManager("redis://127.0.0.1:1")
with testing.locks() as locks:
    with locks.taken("a"):
        waiting = gevent.spawn(lambda: lockman.lock("a").acquire())
        while not locks.waiters("a"):
            gevent.sleep(0)
    print(waiting.get(timeout=30), locks.held())
    locks.lose("a")
    with locks.store_away():
        try:
            lockman.lock("b").acquire()
        except StoreUnavailable:
            print("away")
"""


def test_it_is_the_same_for_gevent():
    assert ends(run(GREENLETS, stderr=subprocess.DEVNULL)) == "True ['a']\naway\n"


DJANGO = """
from django.conf import settings
settings.configure(
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    GLOBAL_LOCK_CONFIG={"global_lock_engine_options": {"redis-cache-name": "default"}},
)
import django
django.setup()
from django.test import override_settings
from globallock import testing
from globallock.django import get_default_global_lock_manager
before = get_default_global_lock_manager()
with testing.locks() as locks:
    other = {"global_lock_engine_class": "globallock.url_global_lock.UrlGlobalLock",
             "global_lock_engine_options": {"url": "redis://127.0.0.1:1"}}
    with before.lock("a"), override_settings(GLOBAL_LOCK_CONFIG=other):
        with get_default_global_lock_manager().lock("a", blocking=False) as second:
            print(second.is_locked, locks.held())
    assert settings.GLOBAL_LOCK_CONFIG != other
    with locks.taken("a"), get_default_global_lock_manager().lock("a", blocking=False) as third:
        print(third.is_locked)
try:
    before.lock("a").acquire()
except Exception as error:
    print(type(error).__name__)
"""


def test_code_that_uses_the_settings_of_django_needs_no_redis():
    assert ends(run(DJANGO)) == "False ['a']\nFalse\nInvalidOption\n"


USERS = """
    from globallock import GlobalLockManager

    theirs = GlobalLockManager("redis://127.0.0.1:1")

    def ship(lockman, order):
        with lockman.lock(f"order/{order}", blocking=False) as lock:
            return "shipped" if lock.is_locked else "busy"

    def test_own(lockman):
        assert ship(lockman, 7) == "shipped"

    def test_busy(global_locks):
        with global_locks.taken("order/7"):
            assert ship(theirs, 7) == "busy"
        assert ship(theirs, 7) == "shipped" and global_locks.granted == ["order/7"]

    def test_own_again(lockman, global_locks):
        assert lockman is global_locks.lockman and lockman.names() == []
"""
UNUSED = """
    import sys

    def test_unused():
        assert "pytest_globallock" in sys.modules and "globallock" not in sys.modules
"""


@pytest.mark.parametrize(("tests", "count"), [(USERS, 3), (UNUSED, 1)], ids=["used", "unused"])
def test_the_fixtures_are_there_for_pytest_and_cost_nothing_where_unused(tmp_path, tests, count):
    (tmp_path / "test_users.py").write_text(textwrap.dedent(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *with_plugin()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and f"{count} passed" in done.stdout, done.stdout + done.stderr


def test_the_wheel_registers_the_plugin():
    # The standard library reads TOML from 3.11 on only.
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\npytest_globallock = "pytest_globallock"\n' in text
    assert 'python-packages = ["globallock", "pytest_globallock"]' in text
