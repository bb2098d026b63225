"""Planned ends: the owner is asked to end at the max hold time, and the lock is kept for its grace."""

import asyncio
import logging
import threading
import time
from datetime import timedelta

import pytest
from conftest import eventually
from globallock import GlobalLockManager, HeldTooLong, InvalidOption, LockLost, NotLocked, callbacks

#: How long an owner may hold in these tests, and a grace that no test waits for.
SOON, LONG = 0.2, 300


def test_an_owner_is_asked_to_end_and_keeps_the_lock_meanwhile(url, name):
    lockman, reasons = GlobalLockManager(url), []
    began = time.monotonic()
    with lockman.lock(name, timeout=timedelta(seconds=SOON), grace=timedelta(seconds=LONG)) as lock:
        asked = lock.asked_to_end_event()
        lock.on_asked_to_end(reasons.append)
        assert asked.wait(30) and time.monotonic() - began >= SOON * 0.9
        assert lock.asked_to_end and lock.is_locked and lock.extend() and lock.wait_lost(0) is None
        assert not lockman.lock(name, blocking=False).acquire()
        eventually("the callback was called", lambda: reasons)
        assert "max hold time" in reasons[0] and lock.remaining > 0
    assert not lock.asked_to_end and not lock.is_locked
    assert lockman.lock(name, blocking=False).acquire(), "the next one is let in"


def test_an_owner_that_does_not_end_loses_the_lock_after_the_grace(url, name):
    lockman = GlobalLockManager(url)
    began = time.monotonic()
    with lockman.lock(name, timeout=SOON, grace=0.5) as lock:
        with lockman.lock(name, blocking_timeout=60) as next_one:
            assert next_one.is_locked and time.monotonic() - began >= SOON + 0.5 - 0.1
        assert not lock.is_locked and lock.asked_to_end
        assert "max hold time" in lock.wait_lost(30)


def test_a_loss_asks_to_end_too(url, name):
    lockman, other = GlobalLockManager(url), GlobalLockManager(url)
    for options in ({}, {"timeout": 60, "grace": 5}):
        with lockman.lock(name, **options) as lock:
            asked, reasons = lock.asked_to_end_event(), []
            lock.on_asked_to_end(reasons.append)
            assert not lock.asked_to_end and not asked.is_set()
            assert other.evict(name, other.inspect(name)[0], reason="maintenance")
            assert asked.wait(60) and lock.asked_to_end and not lock.is_locked
            eventually("the callback was called", lambda reasons=reasons: reasons)
            assert "maintenance" in reasons[0]


def test_an_owner_that_releases_in_time_is_never_asked(name):
    lockman = GlobalLockManager("memory:planned")
    with lockman.lock(name, timeout=60, grace=5) as lock:
        asked = lock.asked_to_end_event()
        assert not lock.asked_to_end and callbacks._service._waiting
    eventually("nothing waits for its end any more", lambda: not callbacks._service._waiting)
    assert not asked.is_set() and not lock.asked_to_end
    with pytest.raises(InvalidOption, match="on_asked_to_end"):
        lock.on_asked_to_end(print)


def test_of_several_locks_the_first_to_be_asked_asks(name):
    lockman = GlobalLockManager("memory:planned-all")

    async def main():
        async with lockman.aio.lock_all(names, timeout=SOON, grace=LONG) as locks:
            assert not locks.asked_to_end
            while not locks.asked_to_end:
                await asyncio.sleep(0.005)
            assert locks.is_locked

    names = [f"{name}-a", f"{name}-b"]
    with lockman.lock_all(names, timeout=SOON, grace=LONG) as locks:
        assert not locks.asked_to_end
        eventually("they are asked to end", lambda: locks.asked_to_end)
        assert locks.is_locked
    assert not locks.asked_to_end
    asyncio.run(main())


def test_a_lock_that_is_not_renewed_is_asked_to_end_at_its_lease(name):
    lockman = GlobalLockManager("memory:planned-lease")
    lock = lockman.aio.lock(name, lock_ttl=SOON, auto_renew=False, grace=LONG)
    with pytest.raises(HeldTooLong, match=f"timeout of {SOON} s"):
        asyncio.run(lock.run(asyncio.sleep, 60))


@pytest.mark.parametrize("grace", ["x", -1, float("nan"), [], timedelta(seconds=-1), 1e300], ids=repr)
def test_values_that_are_no_grace(grace):
    with pytest.raises(InvalidOption, match="grace"):
        GlobalLockManager("memory:").lock("a", timeout=1, grace=grace).acquire()


def test_a_grace_needs_a_max_hold_time():
    with pytest.raises(InvalidOption, match="grace"):
        GlobalLockManager("memory:").lock("a", grace=1).acquire()
    with pytest.raises(InvalidOption):
        GlobalLockManager("memory:").lock("a", timeout=60, grace=timedelta(days=400)).acquire()


def test_work_is_cancelled_at_its_max_hold_time_and_the_next_is_let_in_when_it_has_ended(url, name):
    lockman, order = GlobalLockManager(url), []

    async def work():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # The clean-up lasts until the next one waits.
            assert lock.asked_to_end and lock.is_locked
            while len(await lockman.aio.inspect(name)) < 2:
                await asyncio.sleep(0.005)
            assert await lock.extend()
            order.append("cleaned up")
            raise

    async def next_one():
        await told.wait()
        async with lockman.aio.lock(name):
            order.append("next one")

    async def wait_until_told():
        while not lock.asked_to_end:
            await asyncio.sleep(0.005)
        told.set()

    async def main():
        nonlocal told
        told = asyncio.Event()
        others = [asyncio.ensure_future(next_one()), asyncio.ensure_future(wait_until_told())]
        began = time.monotonic()
        with pytest.raises(HeldTooLong, match="was ended"):
            await lock.run(work)
        assert time.monotonic() - began >= SOON * 0.9
        await asyncio.gather(*others)

    told = None
    lock = lockman.aio.lock(name, timeout=timedelta(seconds=SOON), grace=LONG)
    asyncio.run(main())
    assert order == ["cleaned up", "next one"]
    assert isinstance(HeldTooLong("x"), TimeoutError)


async def told(value=None, error=None):
    """Work that ends as soon as it is told."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if error is not None:
            raise error from None
        return value


def test_work_that_ends_in_its_grace_ends_as_it_says(url, name):
    lock = GlobalLockManager(url).aio.lock(name, timeout=SOON, grace=LONG)
    assert asyncio.run(lock.run(told, "half done")) == "half done"
    with pytest.raises(OSError, match="no room"):
        asyncio.run(lock.run(told, error=OSError("no room")))
    assert GlobalLockManager(url).inspect(name) == []


def test_work_that_ends_by_itself_is_not_cancelled(name):
    lock = GlobalLockManager("memory:planned-value").aio.lock(name, timeout=60, grace=5)

    async def work(number, *, by):
        return number * by, lock.fencing_token

    value, token = asyncio.run(lock.run(work, 2, by=3))
    assert value == 6 and token > 0 and not lock.is_locked


def test_work_is_cancelled_once_more_after_its_grace(name):
    lockman, cancelled = GlobalLockManager("memory:planned-twice"), []
    lock = lockman.aio.lock(name, timeout=SOON, grace=0.3)

    async def work():
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(time.monotonic())
        assert lock.is_locked, "it is kept until the work has ended"
        raise asyncio.CancelledError

    with pytest.raises(HeldTooLong, match="was ended"):
        asyncio.run(lock.run(work))
    assert len(cancelled) == 2 and cancelled[1] - cancelled[0] >= 0.2
    assert lockman.inspect(name) == []


def test_work_that_never_ends_is_left_and_only_then_the_next_is_let_in(name, caplog):
    lockman, seen = GlobalLockManager("memory:planned-left"), []

    async def work():
        cancelled = 0
        while not goes_on.is_set():
            try:
                await asyncio.wait_for(goes_on.wait(), 60)
            except asyncio.CancelledError:
                cancelled += 1
                seen.append(cancelled)
        raise OSError("too late")

    async def main():
        nonlocal goes_on
        goes_on = asyncio.Event()
        lock = lockman.aio.lock(name, timeout=timedelta(seconds=SOON), grace=0)
        next_one = lockman.aio.lock(name)
        running = asyncio.ensure_future(lock.run(work))
        while not lock.is_locked:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        assert await next_one.acquire()
        assert time.monotonic() - began >= SOON + 0.5 and not lock.is_locked
        with pytest.raises(HeldTooLong, match="was left"):
            await running
        await next_one.release()
        # It is not forgotten either.
        goes_on.set()
        while "too late" not in caplog.text:
            await asyncio.sleep(0.005)

    goes_on = None
    caplog.set_level(logging.WARNING, "globallock.base")
    asyncio.run(main())
    assert seen[-1] == 2 and "goes on" in caplog.text


def test_an_event_loop_that_hangs_does_not_keep_the_lock(url, name, monkeypatch):
    monkeypatch.setattr("globallock.bodies.STORE_LIMIT", 0.3)
    lock = GlobalLockManager(url).aio.lock(name, timeout=SOON, grace=0.1)
    next_one, granted = GlobalLockManager(url).lock(name, blocking_timeout=60), threading.Event()

    async def work():
        began = time.monotonic()
        threading.Thread(target=lambda: next_one.acquire() and granted.set()).start()
        assert granted.wait(60) and time.monotonic() - began >= SOON

    with pytest.raises(LockLost, match="max hold time"):
        asyncio.run(lock.run(work))
    next_one.release()


def test_a_cancelled_call_ends_its_work_under_the_lock(url, name):
    lockman, held = GlobalLockManager(url), []
    lock = lockman.aio.lock(name, timeout=60, grace=5)

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            held.append(await lock.extend())

    async def main():
        running = asyncio.ensure_future(lock.run(work))
        while not lock.is_locked:
            await asyncio.sleep(0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not lock.is_locked

    asyncio.run(main())
    assert held == [True] and lockman.inspect(name) == []


def test_a_call_that_is_cancelled_in_the_grace_says_so(name):
    lock = GlobalLockManager("memory:planned-cancelled").aio.lock(name, timeout=SOON, grace=LONG)

    async def work(asked):
        try:
            await asyncio.sleep(60)
        finally:
            asked.set()
            await asyncio.sleep(60)

    async def main():
        asked = asyncio.Event()
        running = asyncio.ensure_future(lock.run(work, asked))
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not lock.is_locked

    asyncio.run(main())


def test_work_is_cancelled_when_its_lock_is_lost(url, name):
    lockman, other = GlobalLockManager(url), GlobalLockManager(url)
    lock, ended = lockman.aio.lock(name), []

    async def work(swallows):
        # The notice may come before the evictor's own answer.
        try:
            assert await other.aio.evict(name, (await other.aio.inspect(name))[0], reason="maintenance")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(lock.is_locked)
            if not swallows:
                raise

    for swallows in (False, True):
        with pytest.raises(LockLost, match="maintenance"):
            asyncio.run(lock.run(work, swallows))
    assert ended == [False, False]


def test_work_without_its_lock_is_not_done(name):
    lockman = GlobalLockManager("memory:planned-refused")

    async def main():
        async with lockman.aio.lock(name):
            with pytest.raises(NotLocked, match="was not granted"):
                await lockman.aio.lock(name, blocking=False).run(told)
        with pytest.raises(InvalidOption, match="coroutine function"):
            await lockman.aio.lock(name).run(print)
        assert lockman.inspect(name) == []

    asyncio.run(main())


def test_a_run_that_was_ended_is_not_recorded(url, name):
    lockman = GlobalLockManager(url)
    once = lockman.aio.once(name, every=3600, timeout=SOON, grace=LONG)
    with pytest.raises(HeldTooLong):
        asyncio.run(once.run(asyncio.sleep, 60))
    assert asyncio.run(once.run(told, "in its grace")).value == "in its grace"
    assert not asyncio.run(once.run(told))
