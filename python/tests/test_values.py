"""The value beside a lock, which its holder leaves for the next one."""

import asyncio
import datetime
import gc
import os
import signal

import globallock
import pytest
from conftest import ends, eventually, in_fork, run
from globallock import GlobalLockManager, InvalidOption, LockLost, NotLocked, Value

HOUR = datetime.timedelta(hours=1)


def test_a_value_comes_with_the_next_grant(config, name):
    with GlobalLockManager(config).lock(name, with_value=True) as lock:
        assert lock.value is None and lock.set_value(b"\0row 7", keep=HOUR)
        assert lock.value.data == b"\0row 7"
        token = lock.fencing_token
    assert lock.value is None, "it is not held any more"
    with GlobalLockManager(config).lock(name, with_value=True) as lock:
        assert isinstance(lock.value, Value)
        assert (lock.value.data, lock.value.fencing_token) == (b"\0row 7", token) and 0 <= lock.value.age < 60
        assert "row" not in repr(lock.value)
        assert lock.set_value(bytearray(1024), keep=3600) and lock.value.fencing_token > token
    with GlobalLockManager(config).lock(name, with_value=True) as lock:
        assert lock.value.data == bytes(1024)


def test_a_value_comes_with_a_grant_that_was_waited_for_by_a_task(config, name):
    lockman = GlobalLockManager(config)

    async def main():
        held = lockman.aio.lock(name, with_value=True)
        assert await held.acquire() and held.value is None
        waits = lockman.aio.lock(name, with_value=True)
        task = asyncio.ensure_future(waits.acquire())
        while len(await lockman.aio.inspect(name)) < 2:
            await asyncio.sleep(0.005)
        assert await held.set_value(b"late", keep=60)
        await held.release()
        assert await task and waits.value.data == b"late"
        assert waits.value.fencing_token < waits.fencing_token
        await waits.release()
        with pytest.raises(NotLocked):
            await waits.set_value(b"x", keep=1)

    asyncio.run(main())


def test_only_a_holder_sets_the_value(config, name):
    lockman, other = GlobalLockManager(config), GlobalLockManager(config)
    with pytest.raises(NotLocked, match="is not held"):
        lockman.lock(name).set_value(b"never", keep=60)
    with lockman.lock(name, with_value=True) as lock:
        assert lock.set_value(b"first", keep=60)
        assert other.evict(name, other.inspect(name)[0])
        # Whether it has heard of that yet or not.
        with pytest.raises(LockLost, match="lost"):
            lock.set_value(b"too late", keep=60)
        assert not lock.is_locked
    with other.lock(name, with_value=True) as lock:
        assert lock.value.data == b"first"


def test_of_several_that_hold_together_the_last_to_join_has_its_value_set(url, name):
    sides = GlobalLockManager(url).rwlock(name, with_value=True)
    with sides.read() as first, sides.read() as second:
        assert second.set_value(b"second", keep=60) and not first.set_value(b"first", keep=60)
    with sides.write() as writer:
        assert writer.value.data == b"second"


def test_a_value_ends_once_it_was_not_set_for_its_time(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name) as lock:
        assert lock.set_value(b"soon gone", keep=datetime.timedelta(milliseconds=100))

    def is_gone():
        with lockman.lock(name, with_value=True) as lock:
            return lock.value is None

    eventually("the value has ended", is_gone)


@pytest.mark.parametrize(
    ("data", "keep"),
    [(bytes(1025), 60), ("text", 60), (7, 60), (None, 60), ([1], 60)]
    + [(b"", keep) for keep in (0, -1, "x", None, float("nan"), 400 * 24 * 3600, -HOUR, [])],
    ids=lambda value: repr(value)[:20],
)
def test_what_no_store_keeps_is_refused(name, data, keep):
    lockman = GlobalLockManager("memory:refused")

    async def main():
        async with lockman.aio.lock(name) as lock:
            await lock.set_value(data, keep)

    with lockman.lock(name, with_value=True) as lock:
        with pytest.raises(InvalidOption):
            lock.set_value(data, keep)
        assert lock.is_locked and lock.value is None
    with pytest.raises(InvalidOption):
        asyncio.run(main())


def test_a_lock_that_reads_no_value_says_so():
    lockman = GlobalLockManager("memory:")
    with lockman.lock("a") as lock, pytest.raises(InvalidOption, match="with_value=True"):
        print(lock.value)
    for wrong in ("yes", 1, 0, ""):
        with pytest.raises(InvalidOption, match="with_value"):
            lockman.lock("a", with_value=wrong)


def test_a_forked_child_neither_sees_nor_sets_its_parents_value(url, name):
    lock = GlobalLockManager(url).lock(name, with_value=True)
    assert lock.acquire() and lock.set_value(b"parent", keep=60)

    def child():
        try:
            return lock.set_value(b"child", keep=60)
        except globallock.GlobalLockError as error:
            return type(error).__name__, lock.value

    assert in_fork(child) == "('LockLost', None)"
    assert lock.value.data == b"parent" and lock.set_value(b"still", keep=60)
    lock.release()


def test_a_cancelled_wait_for_a_value_leaves_nothing(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def main():
        for turn in range(50):
            lock = lockman.aio.lock(name, with_value=True)
            task = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(0.0001 * (turn % 10))
            if not task.cancel():
                assert await lock.set_value(b"x", keep=60)
                await lock.release()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    gc.collect()
    eventually("nothing is left", lambda: lockman.inspect(name) == [])


DIES = """
import os, sys, time
from globallock import GlobalLockManager
lock = GlobalLockManager(sys.argv[1], lock_ttl=1).lock(sys.argv[2])
assert lock.acquire() and lock.set_value(b"from the dead", keep=60)
print("set", flush=True)
time.sleep(60)
"""


def test_a_value_outlives_the_process_that_has_set_it(url, name):
    process = run(DIES, url, name)
    assert process.stdout.readline() == "set\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with GlobalLockManager(url).lock(name, with_value=True, blocking_timeout=60) as lock:
        assert lock.is_locked and lock.value.data == b"from the dead"


DJANGO = """
import sys
from django.conf import settings
settings.configure(CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": sys.argv[1]}})
import django
django.setup()
from globallock.django import get_default_global_lock_manager
lockman = get_default_global_lock_manager()
with lockman.lock(sys.argv[2], with_value=True) as lock:
    print(lock.value.data)
    assert lock.set_value(b"django", keep=60)
print(lockman.once("once " + sys.argv[2], every=60).run(lambda: 7).value)
print(lockman.once("once " + sys.argv[2], every=60).run(lambda: 8).done)
"""


def test_values_and_runs_in_the_redis_of_a_django_cache(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name) as lock:
        assert lock.set_value(b"redis", keep=60)
    assert ends(run(DJANGO, redis_server.url, name)).splitlines() == ["b'redis'", "7", "False"]
    with lockman.lock(name, with_value=True) as lock:
        assert lock.value.data == b"django"
    assert not lockman.once(f"once {name}", every=60).run(lambda: 9)
