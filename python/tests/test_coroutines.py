"""The locks for asyncio as coroutines: dropped, closed, awaited twice, and looked at."""

import asyncio
import gc
import inspect
import sys
import unittest
import weakref

import pytest
from conftest import eventually, evict
from globallock import LockLost, Loss


def test_an_end_that_never_begins_releases_all_the_same(lockman, other):
    async def main():
        lock = lockman.aio.lock("a")
        await lock.__aenter__()
        # As where an exception of a signal handler comes before its first step.
        end = lock.__aexit__(None, None, None)
        del end
        assert not lock.is_locked

    asyncio.run(main())
    eventually("it is released", lambda: other.names() == [])
    assert lockman.registered_locks() == []


def test_what_a_dropped_wait_has_acquired_is_released(lockman, other):
    async def main():
        # The wait is this task's own, and somebody else might release.
        async with other.aio.hold("b", thread_local=False):
            wait = lockman.aio.lock_all(["a", "b"]).__aenter__()
            future = wait.send(None)
            while not future.done():
                await asyncio.sleep(0)
            wait.send(None)
            assert await other.aio.names() == ["a", "b"]
            del wait, future
            while await other.aio.names() != ["b"]:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_one_that_is_awaited_twice_closed_or_thrown_into_behaves_as_a_coroutine(lockman):
    async def main():
        begun = lockman.aio.lock("a").__aenter__()
        lock = await begun
        with pytest.raises(RuntimeError, match="already awaited"):
            await begun
        waits = lockman.aio.lock("a").__aenter__()
        task = asyncio.ensure_future(waits)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited"):
            await waits
        await lock.__aexit__(None, None, None)
        await (await asyncio.wait_for(task, 60)).__aexit__(None, None, None)
        closed = lockman.aio.lock("a").__aenter__()
        closed.close()
        with pytest.raises(RuntimeError):
            closed.throw(ValueError())
        with pytest.raises(ValueError):
            lockman.aio.lock("a").__aenter__().throw(ValueError())
        assert "_aenter" in repr(asyncio.ensure_future(lockman.aio.lock("b").__aenter__()))

    asyncio.run(main())


def test_frameworks_see_coroutine_functions(lockman, other):
    for lock in (lockman.aio.lock("a"), lockman.aio.lock_all(["a"])):
        for function in (lock.acquire, lock.release):
            assert inspect.iscoroutinefunction(function) and asyncio.iscoroutinefunction(function)

    class Case(unittest.IsolatedAsyncioTestCase):
        async def test(self):
            lock = lockman.aio.lock("a")
            assert await lock.acquire()
            self.addAsyncCleanup(lock.release)

    result = unittest.TestResult()
    Case("test").run(result)
    assert result.wasSuccessful(), result.errors
    assert other.names() == []


def test_the_frame_of_a_block_is_kept_no_longer_than_the_block(lockman):
    class Big:
        pass

    kept = []

    async def work():
        big = Big()
        kept.append(weakref.ref(big))
        lock = lockman.aio.lock("a")
        entered = lock.__aenter__()
        await entered
        left = lock.__aexit__(None, None, None)
        await left
        return entered, left

    for _ in range(10):
        asyncio.run(work())
    gc.collect()
    assert [each for each in kept if each() is not None] == []


def test_a_block_that_waits_for_tasks_is_told_of_the_loss(lockman, other):
    async def main(wait):
        entered = asyncio.Event()

        async def work():
            async with lockman.aio.hold("a", cancel_on_loss=True):
                entered.set()
                await wait()

        task = asyncio.ensure_future(work())
        await entered.wait()
        evict(other, "a")
        with pytest.raises(LockLost) as error:
            await asyncio.wait_for(task, 60)
        assert error.value.loss is Loss.EVICTED

    for wait in (
        lambda: asyncio.gather(asyncio.sleep(60), asyncio.sleep(60)),
        lambda: asyncio.ensure_future(asyncio.sleep(60)),
    ):
        asyncio.run(main(wait))


def test_a_function_that_ends_its_thread_keeps_no_other_from_being_called(lockman, other):
    first, second, told = lockman.lock("a"), lockman.lock("b"), []
    assert first.acquire() and second.acquire()
    first.on_lost(lambda reason: sys.exit("lost"))
    second.on_lost(told.append)
    evict(other, "a")
    first.wait_lost(30)
    evict(other, "b")
    eventually("the other is called", lambda: told)
