"""One lock object that threads, tasks and greenlets share is as safe as a lock object each."""

import asyncio
import contextlib
import copy
import logging
import pickle
import textwrap
import threading

import globallock.aio
import pytest
from conftest import ends, eventually, run
from globallock import GlobalLockManager, NotLocked


class Watch:
    """Counts how many are inside at once."""

    def __init__(self):
        self.inside, self.most, self.mutex = 0, 0, threading.Lock()

    def __enter__(self):
        with self.mutex:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_):
        with self.mutex:
            self.inside -= 1


def in_threads(count, work):
    """Runs work in so many threads at once, and returns what each returned."""
    results, start = [], threading.Barrier(count)

    def one():
        start.wait(30)
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - shown by the test
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def elsewhere(work):
    """Runs work in a thread of its own."""
    [result] = in_threads(1, work)
    if isinstance(result, BaseException):
        raise result
    return result


KINDS = {
    "mutex": (lambda lockman, name, **options: lockman.lock(name, **options), 1),
    "writer": (lambda lockman, name, **options: lockman.rwlock(name, **options).write(), 1),
    "semaphore": (lambda lockman, name, **options: lockman.semaphore(name, 2, **options), 2),
    "readers": (lambda lockman, name, **options: lockman.rwlock(name, **options).read(), 6),
    "several": (lambda lockman, name, **options: lockman.lock_all([name, f"{name}-b"], **options), 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_share_an_object_each_acquire(url, name, kind):
    lockman, (make, allowed) = GlobalLockManager(url), KINDS[kind]
    lock, watch = make(lockman, name), Watch()

    def work():
        tokens = []
        for _ in range(3):
            with lock as held, watch:
                assert held.is_locked
                tokens.append(getattr(lock, "fencing_token", None))
        assert not lock.is_locked
        return tokens

    tokens = in_threads(6, work)
    assert watch.most <= allowed and all(isinstance(each, list) for each in tokens), tokens
    if kind != "several":
        assert len({token for each in tokens for token in each}) == 18, "each grant has a token of its own"
    assert lockman.inspect(name) == [] and lockman.registered_locks() == []


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_that_share_an_object_each_acquire(url, name, kind):
    lockman, (make, allowed) = GlobalLockManager(url), KINDS[kind]
    watch = Watch()

    async def work(lock):
        for _ in range(3):
            async with lock as held:
                with watch:
                    assert held.is_locked
                    await asyncio.sleep(0)
        assert not lock.is_locked

    async def main():
        if kind == "several":
            lock = lockman.aio.lock_all([name, f"{name}-b"])
        else:
            lock = globallock.aio.AsyncLock(make(lockman, name))
        await asyncio.gather(*(work(lock) for _ in range(6)))

    asyncio.run(main())
    assert watch.most <= allowed and lockman.inspect(name) == [] and lockman.registered_locks() == []


@pytest.mark.parametrize("options", [{"blocking": False}, {"blocking_timeout": 0.5}], ids=str)
def test_a_refused_thread_sees_and_frees_nothing_of_another_ones(url, name, options):
    lockman = GlobalLockManager(url)
    # The first connection may take longer than the limit.
    lockman.names(name)
    lock = lockman.lock(name, **options)

    def refused():
        with lock as mine:
            assert not mine.is_locked and mine.fencing_token is None and mine.wait_lost(0) is None
            assert not mine.extend() and mine.kept_for is None and not mine.asked_to_end
        assert not lock.acquire() and not lock.is_locked and lock.fencing_token is None
        lock.release()
        with pytest.raises(NotLocked), lockman.lock_all([name], **options) as several:
            assert not several.is_locked
            raise NotLocked(name)

    with lock:
        token = lock.fencing_token
        elsewhere(refused)
        assert lock.is_locked and lock.fencing_token == token and lock.extend()
    assert lockman.inspect(name) == []


def test_a_refused_thread_that_releases_is_told_in_the_log(name, caplog):
    lock = GlobalLockManager("memory:shared-refused").lock(name, blocking=False)
    caplog.set_level(logging.WARNING, "globallock.base")
    with lock:
        elsewhere(lambda: (lock.acquire(), lock.release()))
        assert lock.is_locked and "released nothing" in caplog.text


def test_a_lock_is_handed_over_where_that_is_certain(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.semaphore(name, 3)
    assert lock.acquire()
    assert elsewhere(lambda: (lock.is_locked, lock.release())) == (True, None)
    assert not lock.is_locked and lockman.inspect(name) == []
    assert lock.acquire() and elsewhere(lock.acquire)
    with pytest.raises(NotLocked, match="hand a lock over"):
        elsewhere(lock.release)
    assert not elsewhere(lambda: lock.is_locked), "there are two"
    assert len(lockman.inspect(name)) == 2
    lock.release()
    # Once more, as by mistake: what is left is another thread's.
    with pytest.raises(NotLocked, match="hand a lock over"):
        lock.release()
    assert [claim.held for claim in lockman.inspect(name)] == [True]
    elsewhere(lock.release)
    lock.release()
    assert lockman.inspect(name) == []


def test_with_thread_local_false_anybody_releases_what_is_held_once(name):
    lockman = GlobalLockManager("memory:shared-anyones")
    lock = lockman.lock(name, thread_local=False)
    for _ in range(3):
        with lock:
            pass
        assert elsewhere(lock.acquire)
        lock.release()
        assert lockman.inspect(name) == []


def test_a_release_in_a_block_ends_the_block_s_own(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.lock(name)
    with lock:
        lock.release()
        taken, end = threading.Event(), threading.Event()

        def other():
            with lock:
                taken.set()
                assert end.wait(30)
                assert lock.is_locked

        thread = threading.Thread(target=other)
        thread.start()
        assert taken.wait(30)
    assert [claim.held for claim in lockman.inspect(name)] == [True], "the end of the block frees nothing"
    end.set()
    thread.join()


def test_a_semaphore_acquired_twice_holds_two_permits(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.semaphore(name, 3)
    for _ in range(2):
        assert lock.acquire()
    with lock:
        assert sum(claim.held for claim in lockman.inspect(name)) == 3
        assert not elsewhere(lockman.semaphore(name, 3, blocking=False).acquire)
    for left in (1, 0):
        lock.release()
        assert sum(claim.held for claim in lockman.inspect(name)) == left and lock.is_locked == (left > 0)


def test_a_wait_for_oneself_for_ever_is_told_at_once(url, name):
    lockman = GlobalLockManager(url)

    def refused(lock):
        with lock:
            with pytest.raises(NotLocked, match="wait for itself for ever"):
                lock.acquire()
            assert lock.is_locked, "what it holds stays"
        assert lockman.inspect(name) == []

    async def refused_task():
        lock = lockman.aio.lock(name)
        async with lock:
            with pytest.raises(NotLocked, match="wait for itself for ever"):
                await lock.acquire()

    refused(lockman.lock(name))
    refused(lockman.rwlock(name).write())
    refused(lockman.semaphore(name, 3, permits=2))
    asyncio.run(refused_task())
    # The store must answer within that time as well.
    lock = lockman.lock(name, blocking_timeout=1)
    assert lock.acquire() and not lock.acquire(), "a wait that ends is no wait for ever"
    assert lock.is_locked, "it holds what it held"
    with lock:
        assert not lock.is_locked, "in this block it was refused"
        lock.release()
    assert lock.is_locked and lock.extend()


def blocks_that_wait(lock):
    with lock:
        yield lock.is_locked


def test_a_generator_may_be_left_by_another_thread_than_entered(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.semaphore(name, 2, blocking=False)
    first, second, third = (blocks_that_wait(lock) for _ in range(3))
    assert next(first) and elsewhere(lambda: next(second)) and not elsewhere(lambda: next(third))
    third.close()
    assert len(lockman.inspect(name)) == 2
    elsewhere(first.close)
    second.close()
    assert lockman.inspect(name) == []


def test_an_exit_stack_ends_what_it_began(name):
    lockman = GlobalLockManager("memory:shared-stack")
    lock = lockman.semaphore(name, 2, blocking=False)
    with contextlib.ExitStack() as stack:
        assert [stack.enter_context(lock).is_locked for _ in range(3)] == [True, True, False]
        assert len(lockman.inspect(name)) == 2
    assert lockman.inspect(name) == []


def test_several_locks_and_turns_are_shared_too(url, name):
    lockman = GlobalLockManager(url)
    # Within a second, a busy store answers too.
    several, watch = lockman.lock_all([name, f"{name}-b"], blocking_timeout=1), Watch()
    with several:
        assert not elsewhere(several.acquire) and several.is_locked
        elsewhere(lambda: (several.acquire(), several.release()))
        assert several.is_locked and not elsewhere(lambda: several.__enter__().is_locked)
        assert several.is_locked
    turn = lockman.once(f"{name}-once", every=3600).turn()

    def work():
        with turn as mine:
            if mine.due:
                with watch:
                    assert mine.lock.is_locked and mine.began is None
                return True
            assert mine.began >= 0 and not mine.lock.is_locked
            return False

    assert sorted(in_threads(5, work)) == [False] * 4 + [True]
    assert watch.most == 1 and lockman.names(name) == []


def test_work_in_a_task_of_its_own_and_the_tasks_that_it_starts_see_its_acquisition(name):
    lockman = GlobalLockManager("memory:shared-runs")
    lock, seen = lockman.aio.semaphore(name, 2), []

    async def helper():
        assert lock.is_locked and await lock.extend()
        return lock.fencing_token

    async def work(both):
        seen.append(lock.fencing_token)
        if len(seen) == 2:
            both.set()
        await both.wait()
        assert await asyncio.gather(helper(), helper()) == [lock.fencing_token] * 2

    async def main():
        both = asyncio.Event()
        await asyncio.gather(lock.run(work, both), lock.run(work, both))

    asyncio.run(main())
    assert len(set(seen)) == 2 and lockman.inspect(name) == []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_is_the_recipe_and_holds_nothing(url, name, copied):
    lockman = GlobalLockManager(url)
    lock = lockman.lock(name, timeout=60, blocking=False, grace=5, with_value=True, hold_at_least=0.001)
    writer, semaphore = lockman.rwlock(f"{name}-w").write(), lockman.semaphore(f"{name}-s", 3, permits=2)
    with lock, writer, semaphore:
        again = copied(lock)
        assert again._lock_request() == lock._lock_request() and type(again) is type(lock)
        assert not again.is_locked and not again.acquire() and lock.is_locked
        for original in (writer, semaphore):
            assert copied(original)._lock_request() == original._lock_request()
        asynchronous = copied(globallock.aio.AsyncLock(lock))
        assert not asynchronous.is_locked and asynchronous.sync is not lock
        several = lockman.lock_all([f"{name}-1", f"{name}-2"], blocking_timeout=0.5)
        with several:
            assert not copied(several).is_locked and not copied(several).acquire() and several.is_locked
    assert again.acquire() and again.is_locked and not lock.is_locked and not lock.acquire()
    again.release()
    eventually("it is free", lambda: lockman.inspect(name) == [])


def test_a_pickled_lock_outlives_its_manager(redis_server, name):
    lock = pickle.loads(pickle.dumps(GlobalLockManager(redis_server.url).lock(name)))
    assert lock.acquire() and lock._engine.native is not None
    assert not GlobalLockManager(redis_server.url).lock(name, blocking=False).acquire()
    lock.release()


def test_a_shared_object_is_no_leak(name):
    lock = GlobalLockManager("memory:shared-leak").lock(name)
    for _ in range(50):
        elsewhere(lambda: lock.__enter__() and lock.__exit__(None, None, None))

    async def main():
        for _ in range(50):
            await asyncio.ensure_future(lock.__aenter__())
            await asyncio.ensure_future(lock.__aexit__(None, None, None))

    asyncio.run(main())
    holdings = lock._holdings
    assert (len(holdings.by_callers()), len(holdings._blocks), len(holdings.all())) == (0, 0, 0)


GREENLETS = """
    from gevent import monkey
    monkey.patch_all()
    import sys, gevent
    from globallock import GlobalLockManager, NotLocked
    lockman, name = GlobalLockManager(sys.argv[1]), sys.argv[2]
    lock, inside = lockman.lock(name), []
    def work():
        for _ in range(3):
            with lock:
                assert lock.is_locked and not inside
                inside.append(1)
                gevent.sleep(0.001)
                inside.pop()
        assert not lock.is_locked
    gevent.joinall([gevent.spawn(work) for _ in range(6)], raise_error=True)
    tries = lockman.lock(name, blocking=False)
    def refused():
        with tries as mine:
            assert not mine.is_locked
    with tries:
        gevent.joinall([gevent.spawn(refused) for _ in range(3)], raise_error=True)
        assert tries.is_locked
        pool = gevent.get_hub().threadpool
        pool.spawn(refused).get()
        assert tries.is_locked
    assert lockman.inspect(name) == []
"""


def test_greenlets_that_share_an_object_each_acquire(url, name):
    ends(run(textwrap.dedent(GREENLETS), url, name))
    eventually("nothing is left", lambda: GlobalLockManager(url).names(name) == [])
