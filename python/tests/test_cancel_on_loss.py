"""Blocks for asyncio that are cancelled when their lock ends."""

import asyncio
import contextlib

import pytest
from conftest import evict
from globallock import HeldTooLong, InvalidOption, LockLost, Loss

WAYS = {
    "hold": lambda locks, **options: locks.hold("a", cancel_on_loss=True, **options),
    "lock": lambda locks, **options: locks.lock("a", cancel_on_loss=True, **options),
    "several": lambda locks, **options: locks.lock_all(["a", "b"], cancel_on_loss=True, **options),
    "permits": lambda locks, **options: locks.semaphore("a", 2, cancel_on_loss=True, **options),
    "read": lambda locks, **options: locks.rwlock("a", cancel_on_loss=True, **options).read(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_block_is_cancelled_when_its_lock_is_lost(lockman, other, way):
    async def main():
        entered = asyncio.Event()
        seen = []

        async def work():
            async with WAYS[way](lockman.aio):
                entered.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise

        task = asyncio.ensure_future(work())
        await entered.wait()
        evict(other, "a")
        with pytest.raises(LockLost, match="an operator wants it") as error:
            await asyncio.wait_for(task, 30)
        assert error.value.loss is Loss.EVICTED and error.value.name == "a" and seen == ["cancelled"]
        assert await other.aio.names() == []

    asyncio.run(main())


def test_a_coroutine_function_is_cancelled_when_its_lock_is_lost(lockman, other):
    @lockman.locked("a", cancel_on_loss=True)
    async def work():
        await asyncio.Event().wait()

    async def main():
        task = asyncio.ensure_future(work())
        while not await other.aio.names():
            await asyncio.sleep(0)
        evict(other, "a")
        with pytest.raises(LockLost):
            await asyncio.wait_for(task, 30)

    asyncio.run(main())


def test_a_block_is_cancelled_at_its_planned_end_and_keeps_its_lock_meanwhile(lockman, other):
    async def main():
        with pytest.raises(HeldTooLong, match="0.1 s"):
            async with lockman.aio.hold("a", timeout=0.1, grace=60, cancel_on_loss=True) as lock:
                try:
                    await asyncio.Event().wait()
                finally:
                    assert lock.is_locked and await other.aio.names() == ["a"]
        assert await other.aio.names() == []

    asyncio.run(main())


def test_a_block_that_goes_on_after_its_planned_end_is_cancelled_once_more_at_the_loss(lockman):
    async def main():
        with pytest.raises(LockLost) as error:
            async with lockman.aio.hold("a", timeout=0.1, grace=0.1, cancel_on_loss=True):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                await asyncio.Event().wait()
        assert error.value.loss is Loss.HELD_TOO_LONG

    asyncio.run(main())


def test_a_block_that_is_left_as_its_lock_is_lost_raises_it_and_cancels_nothing_after_it(lockman, other):
    async def main():
        with pytest.raises(LockLost):
            async with lockman.aio.hold("a", cancel_on_loss=True) as lock:
                evict(other, "a")
                await lock.lost()
                # The block may be cancelled at this very moment: it ends either way.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert getattr(asyncio.current_task(), "cancelling", int)() == 0

    asyncio.run(main())


def test_what_a_block_raises_itself_and_who_else_cancels_it_come_first(lockman, other):
    async def main():
        with pytest.raises(KeyError):
            async with lockman.aio.hold("a", cancel_on_loss=True):
                evict(other, "a")
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise KeyError from None
        await asyncio.sleep(0)

        entered = asyncio.Event()

        async def work():
            async with lockman.aio.hold("a", cancel_on_loss=True):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await other.aio.names() == []

    asyncio.run(main())


def test_a_block_whose_lock_is_kept_is_not_cancelled(lockman):
    async def main():
        async with lockman.aio.hold("a", cancel_on_loss=True):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "nothing goes on"

    asyncio.run(main())


def test_cancelling_needs_a_block_for_asyncio(lockman):
    async def main():
        with pytest.raises(InvalidOption, match="async with"):
            await lockman.aio.lock("a", cancel_on_loss=True).acquire()
        with pytest.raises(InvalidOption, match="async with"):
            await lockman.aio.lock_all(["a"], cancel_on_loss=True).acquire()

    asyncio.run(main())
    with pytest.raises(InvalidOption, match="cancel_on_loss"):
        lockman.lock("a", cancel_on_loss=True)
    with pytest.raises(InvalidOption, match="neither True nor False"):
        lockman.aio.lock("a", cancel_on_loss="yes")
