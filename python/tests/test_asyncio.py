"""The locks for asyncio."""

import asyncio
import gc
import os
import random
import threading
import time

import pytest
from conftest import eventually
from globallock import GlobalLockManager, StoreUnavailable


def test_tasks_take_turns(url, name):
    lockman = GlobalLockManager(url)
    inside = []

    async def work(number):
        async with lockman.aio.lock(name) as lock:
            assert lock.is_locked and not inside
            inside.append(number)
            await asyncio.sleep(0)
            inside.pop()
            return lock.fencing_token

    async def main():
        return await asyncio.gather(*(work(number) for number in range(20)))

    tokens = asyncio.run(main())
    assert len(set(tokens)) == 20


def test_a_lock_of_the_manager_works_in_async_with(url, name):
    async def main():
        async with GlobalLockManager(url).lock(name) as lock:
            return lock.is_locked

    assert asyncio.run(main())


@pytest.mark.parametrize("by", ["cancel", "wait_for"])
def test_a_cancelled_wait_leaves_nothing(url, name, by):
    lockman = GlobalLockManager(url)

    async def main():
        # The wait is this task's own, and somebody else might release.
        held = lockman.aio.lock(name, thread_local=False)
        assert await held.acquire()
        if by == "cancel":
            task = asyncio.ensure_future(lockman.aio.lock(name).acquire())
            while len(await asyncio.to_thread(lockman.inspect, name)) < 2:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lockman.aio.lock(name).acquire(), 0.2)
        await held.release()

    asyncio.run(main())
    eventually("nothing is left", lambda: lockman.inspect(name) == [])


def test_a_grant_to_a_cancelled_task_is_released(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def main():
        for _ in range(50):
            lock = lockman.aio.lock(name)
            task = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(0.0003)
            if not task.cancel():
                await lock.release()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    gc.collect()
    eventually("nothing is left", lambda: lockman.inspect(name) == [])


def test_answers_reach_a_loop_that_is_busy_or_cancels(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    chance = random.Random(1)

    async def once(number):
        lock = lockman.aio.lock(f"{name}-{number}", blocking_timeout=60)
        if await lock.acquire():
            await lock.release()

    async def main():
        for _ in range(300):
            tasks = [asyncio.ensure_future(once(number)) for number in range(chance.choice((1, 1, 1, 2, 5)))]
            await asyncio.sleep(0)
            if chance.random() < 0.2:
                # Other callbacks occupy the loop for longer than an answer takes.
                time.sleep(chance.choice((0.0001, 0.002)))
            if chance.random() < 0.2:
                tasks[0].cancel()
            for ended in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60):
                assert ended is None or isinstance(ended, asyncio.CancelledError), ended

    def other_thread():
        while not done.is_set():
            with lockman.lock(f"{name}-thread") as lock:
                assert lock.is_locked
            done.wait(0.003)

    done = threading.Event()
    asyncio.run(main())
    other = threading.Thread(target=other_thread)
    other.start()
    asyncio.run(main())
    done.set()
    other.join()
    eventually("nothing is left", lambda: lockman.names(name) == [])


def test_limits_losses_and_errors(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def main():
        lock = lockman.aio.lock(name, timeout=0.3)
        assert await lock.acquire()
        assert not await lockman.aio.lock(name, blocking=False).acquire()
        assert not await lockman.aio.lock(name, blocking_timeout=0.05).acquire()
        assert "max hold time" in await lock.lost()
        assert not lock.is_locked
        await lock.release()
        assert await lock.lost() is None
        reader = lockman.aio.read(name)
        assert await reader.acquire() and not await lockman.aio.write(name, blocking=False).acquire()
        await reader.release()
        assert await lockman.aio.semaphore(name, 2, 2).acquire()
        with pytest.raises(StoreUnavailable):
            await GlobalLockManager("redis://127.0.0.1:1").aio.lock("x", blocking_timeout=0.3).acquire()

    asyncio.run(main())


def test_each_loop_has_its_own_bridge(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def once():
        async with lockman.aio.lock(name) as lock:
            return lock.is_locked

    assert [asyncio.run(once()) for _ in range(5)] == [True] * 5
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    assert [asyncio.run(once()) for _ in range(20)] == [True] * 20
    gc.collect()
    # A loop that ended leaves nothing open. The tolerance is for connections of other tests.
    assert len(os.listdir("/proc/self/fd")) < before + 10


def test_several_locks_and_their_holders(url, name):
    lockman = GlobalLockManager(url)

    async def main():
        both = lockman.aio.lock_all([f"{name}-b", f"{name}-a"], blocking_timeout=30)
        async with both:
            assert both.is_locked
            assert [claim.held for claim in await lockman.aio.inspect(f"{name}-a")] == [True]
            assert await lockman.aio.names(name) == [f"{name}-a", f"{name}-b"]
            async with lockman.aio.lock(f"{name}-c") as lock:
                assert await lock.extend() and lock.is_locked
                others = lockman.aio.lock_all([f"{name}-b", f"{name}-0", f"{name}-c"], blocking_timeout=0.1)
                assert not await others.acquire() and not others.is_locked
                task = asyncio.ensure_future(lockman.aio.lock_all([f"{name}-0", f"{name}-b"]).acquire())
                while len(await lockman.aio.inspect(f"{name}-b")) < 2:
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert not await lock.extend()
        assert not both.is_locked

    asyncio.run(main())
    eventually("nothing is left", lambda: lockman.names(name) == [])
