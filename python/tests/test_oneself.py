"""A wait that would end only when the waiting caller itself releases is refused at once, by every door."""

import asyncio
import concurrent.futures
import contextlib
import gc
import textwrap
import threading

import pytest
import redis
from conftest import ends, eventually, run
from globallock import GlobalLockManager, NotLocked

#: What the error says.
TOLD = "held by the caller itself, by another lock object of this name: it would wait for itself for ever"


def mutex(lockman, name, **options):
    return lockman.lock(name, **options)


def writer(lockman, name, **options):
    return lockman.rwlock(name, **options).write()


def reader(lockman, name, **options):
    return lockman.rwlock(name, **options).read()


def permits(count):
    def semaphore(lockman, name, **options):
        return lockman.semaphore(name, 3, permits=count, **options)

    return semaphore


def several(lockman, name, **options):
    return lockman.lock_all([f"a-{name}", name], **options)


def held(lockman, name, **options):
    return lockman.hold(name, **options)


def turn(lockman, name, **options):
    return lockman.once(name, every=3600, **options).turn()


#: What is held, what is asked for then, and whether that waits for the caller itself.
PAIRS = [
    (mutex, mutex, True),
    (mutex, held, True),
    (held, mutex, True),
    (mutex, several, True),
    (several, mutex, True),
    (mutex, turn, True),
    (turn, mutex, True),
    (mutex, reader, True),
    (writer, writer, True),
    (writer, reader, True),
    (reader, writer, True),
    (reader, reader, False),
    (permits(1), permits(2), False),
    (permits(2), permits(2), True),
    (permits(1), mutex, True),
]

of_pairs = pytest.mark.parametrize(
    ("first", "second", "waits"), PAIRS, ids=lambda each: getattr(each, "__name__", each)
)


@of_pairs
def test_threads_are_told(lockman, name, first, second, waits):
    # By managers of their own, of one store.
    other = GlobalLockManager(lockman.config.global_lock_engine_options["url"])
    with first(lockman, name):
        before = lockman.names()
        if waits:
            with pytest.raises(NotLocked, match=TOLD) as raised, second(other, name):
                raise AssertionError("entered")
            assert raised.value.name == name and "blocking_timeout" in str(raised.value)
            assert lockman.names() == before, "none of several locks was acquired"
        else:
            with second(other, name) as lock:
                assert lock.is_locked
    assert lockman.names() == []


@of_pairs
def test_tasks_are_told(lockman, name, first, second, waits):
    async def main():
        async with first(lockman.aio, name):
            before = lockman.names()
            if waits:
                with pytest.raises(NotLocked, match=TOLD):
                    async with second(lockman.aio, name):
                        raise AssertionError("entered")
                assert lockman.names() == before
            else:
                async with second(lockman.aio, name) as lock:
                    assert lock.is_locked

    asyncio.run(main())
    assert lockman.names() == []


def test_calls_are_told_on_every_store(url, name):
    lockman = GlobalLockManager(url)
    first, second = lockman.lock(name), lockman.lock(name)
    assert first.acquire()
    with pytest.raises(NotLocked, match=TOLD):
        second.acquire()
    assert first.is_locked and not second.is_locked
    second.release()
    first.release()
    assert second.acquire()
    second.release()
    assert lockman.inspect(name) == []


def test_what_ends_without_the_caller_is_waited_for(lockman, name):
    with lockman.lock(name):
        assert not lockman.lock(name, blocking=False).acquire()
        assert not lockman.lock(name, blocking_timeout=0.02).acquire()
    with lockman.lock(name, timeout=0.1) as limited, lockman.hold(name):
        assert not limited.is_locked, "its max hold time has ended it"
    with lockman.lock(name) as lost:
        assert lockman.evict(name, lockman.inspect(name)[0]) and lost.wait_lost(30)
        with lockman.hold(name):
            assert not lost.is_locked
    with lockman.lock(name), lockman.hold(f"{name}-2"), lockman.hold(f"{name}-3"):
        assert len(lockman.names()) == 3, "other names are no matter"


def test_what_the_store_has_forgotten_is_asked_for_and_not_waited_for(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    client = redis.Redis.from_url(redis_server.url)
    forgotten = lockman.lock(name)
    assert forgotten.acquire()
    client.delete(*client.keys(f"*{name}*"))
    with lockman.hold(name) as lock:
        assert lock.is_locked and not forgotten.is_locked

    async def main():
        forgotten = lockman.aio.lock(name)
        assert await forgotten.acquire()
        client.delete(*client.keys(f"*{name}*"))
        async with lockman.aio.hold(name) as lock:
            assert lock.is_locked and not forgotten.is_locked
            client.delete(*client.keys(f"*{name}*"))
            async with lockman.aio.lock_all([name]).hold():
                assert not lock.is_locked

    asyncio.run(main())


def test_other_callers_wait(lockman, name):
    with lockman.lock(name):
        waits = threading.Thread(target=lambda: lockman.lock(name).__enter__().release())
        waits.start()
        eventually("it waits", lambda: len(lockman.inspect(name)) == 2)
    waits.join(30)
    assert not waits.is_alive()

    async def main():
        async with lockman.aio.hold(name):
            other = asyncio.ensure_future(lockman.aio.lock(name).acquire())
            while len(lockman.inspect(name)) < 2:
                await asyncio.sleep(0.001)
        assert await other

    asyncio.run(main())


@pytest.mark.parametrize("objects", [1, 2])
def test_with_thread_local_false_another_thread_may_end_the_wait(lockman, name, objects):
    first = lockman.lock(name, thread_local=False)
    second = first if objects == 1 else lockman.lock(name, thread_local=False)
    assert first.acquire()

    def release():
        eventually("it waits", lambda: len(lockman.inspect(name)) == 2)
        first.release()

    releases = threading.Thread(target=release)
    releases.start()
    assert second.acquire()
    releases.join(30)
    second.release()
    assert lockman.inspect(name) == []


def test_threads_and_tasks_are_told_across_their_doors(lockman, name):
    async def inner():
        with pytest.raises(NotLocked, match=TOLD):
            await lockman.aio.lock(name).acquire()

    with lockman.hold(name):
        # The thread cannot leave its block while the loop runs.
        asyncio.run(inner())

    async def main():
        async with lockman.aio.hold(name):
            with pytest.raises(NotLocked, match=TOLD), pytest.warns(RuntimeWarning, match="aio"):
                lockman.lock(name).acquire()

    asyncio.run(main())
    assert lockman.names() == []


def test_the_work_of_a_lock_is_told_though_it_is_a_task_of_its_own(lockman, name):
    async def work():
        with pytest.raises(NotLocked, match=TOLD):
            await lockman.aio.lock(name).acquire()
        return 7

    assert asyncio.run(lockman.aio.lock(name).run(work)) == 7
    assert asyncio.run(lockman.aio.once(name, every=3600).run(work)).value == 7


def test_a_decorated_function_that_calls_itself_is_told(lockman, name):
    @lockman.locked(name)
    def outer():
        return outer()

    @lockman.locked(name)
    async def outer_task():
        return await outer_task()

    with pytest.raises(NotLocked, match=TOLD):
        outer()
    with pytest.raises(NotLocked, match=TOLD):
        asyncio.run(outer_task())
    assert lockman.names() == []


@contextlib.contextmanager
def locked(lockman, name):
    with lockman.hold(name) as lock:
        yield lock


def test_a_block_in_a_suspended_generator_is_the_caller_s(lockman, name):
    with locked(lockman, name):
        with pytest.raises(NotLocked, match=TOLD):
            locked(lockman, name).__enter__()
        with contextlib.ExitStack() as stack, pytest.raises(NotLocked, match=TOLD):
            stack.enter_context(lockman.lock(name))
    assert lockman.names() == []


def test_the_jobs_of_a_pool_s_thread_are_not_taken_for_each_other(lockman, name):
    def nested():
        with lockman.hold(name), pytest.raises(NotLocked, match=TOLD):
            lockman.lock(name).acquire()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(nested).result(30)
        # As a framework does that runs the halves of a context manager in threads.
        first, second = locked(lockman, name), locked(lockman, name)
        pool.submit(first.__enter__).result(30)
        entered = pool.submit(second.__enter__)
        eventually("it waits", lambda: len(lockman.inspect(name)) == 2)
        first.__exit__(None, None, None)
        assert entered.result(30).name == name
        pool.submit(second.__exit__, None, None, None).result(30)
    assert lockman.names() == []


def test_what_is_dropped_is_no_hold_and_is_released(lockman, name):
    url = lockman.config.global_lock_engine_options["url"]
    # Its manager has gone before it, so nobody knows of it.
    assert GlobalLockManager(url).lock(name).acquire()
    gc.collect()
    with lockman.hold(name) as lock:
        assert lock.is_locked


FORKED = """
    import os, sys
    from globallock import GlobalLockManager
    lockman, name = GlobalLockManager(sys.argv[1]), sys.argv[2]
    with lockman.hold(name):
        child = os.fork()
        if child == 0:
            # What the parent holds is not the child's: it may wait for it.
            assert lockman.lock(name).acquire()
            os._exit(7)
        while len(lockman.inspect(name)) < 2:
            pass
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_child_waits_for_its_parent(redis_server, name):
    ends(run(textwrap.dedent(FORKED), redis_server.url, name))


GREENLETS = """
    from gevent import monkey
    monkey.patch_all()
    import sys, gevent
    from globallock import GlobalLockManager, NotLocked
    lockman, name = GlobalLockManager(sys.argv[1]), sys.argv[2]
    def told():
        with lockman.hold(name):
            try:
                lockman.lock(name).acquire()
            except NotLocked as error:
                assert "wait for itself for ever" in str(error)
                return True
    assert told() and gevent.spawn(told).get()
    def waits():
        with lockman.hold(name):
            return True
    with lockman.hold(name):
        other = gevent.spawn(waits)
        while len(lockman.inspect(name)) < 2:
            gevent.sleep(0.001)
    assert other.get()
    assert lockman.inspect(name) == []
"""


def test_greenlets_are_told(redis_server, name):
    ends(run(textwrap.dedent(GREENLETS), redis_server.url, name))
