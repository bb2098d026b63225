"""The features of the core, on every store."""

import threading

import globallock
import pytest
from conftest import eventually
from globallock import GlobalLockManager


def test_a_lock_has_one_owner_at_a_time_and_its_tokens_rise(url, name):
    lockman = GlobalLockManager(url)
    tokens = []
    inside = threading.Lock()

    def work():
        for _ in range(5):
            with lockman.lock(name) as lock:
                assert lock.is_locked and inside.acquire(blocking=False)
                tokens.append(lock.fencing_token)
                inside.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 30 and tokens == sorted(set(tokens))


def test_readers_share_and_writers_do_not(url, name):
    lock = GlobalLockManager(url).rwlock(name, blocking=False)
    with lock.read() as one, lock.read() as two, lock.write() as writer:
        assert one.is_locked and two.is_locked and not writer.is_locked
    assert lock.write().acquire()


def test_a_semaphore_grants_up_to_its_capacity(url, name):
    lockman = GlobalLockManager(url)
    with lockman.semaphore(name, 3, permits=2) as two, lockman.semaphore(name, 3) as one:
        assert two.is_locked and one.is_locked
        assert not lockman.semaphore(name, 3, blocking=False).acquire()


def test_several_locks_all_or_none(url, name):
    lockman = GlobalLockManager(url)
    names = [f"{name}-{letter}" for letter in "cab"]
    with lockman.lock_all(names) as locks:
        assert locks.is_locked
        with lockman.lock_all(["0", names[0]], blocking_timeout=1) as other:
            assert not other.is_locked
        assert lockman.lock("0", blocking=False).acquire()


def test_inspect_lists_the_holder_and_the_waiter(url, name):
    lockman = GlobalLockManager(url, label="the job")
    with lockman.lock(name) as lock:
        other = lockman.lock(name, blocking_timeout=30)
        waiter = threading.Thread(target=lambda: other.__enter__().release())
        waiter.start()
        eventually("there is a waiter", lambda: len(lockman.inspect(name)) == 2)
        holder, waiting = lockman.inspect(name)
        assert holder.held and not waiting.held
        assert (holder.permits, holder.capacity) == (1, 1)
        assert (holder.fencing_token, holder.label) == (lock.fencing_token, "the job")
        assert name in lockman.names(name[:5])
    waiter.join()
    assert lockman.inspect(name) == []


def test_the_max_hold_time_is_kept_on_every_store(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name, timeout=0.3) as lock, lockman.lock(name, blocking_timeout=30) as next_one:
        assert next_one.is_locked and not lock.is_locked
    assert "max hold time" in str(lock.wait_lost(0) or "max hold time")


def test_extend_confirms_the_lock(url, name):
    with GlobalLockManager(url).lock(name) as lock:
        assert lock.extend() and lock.is_locked
        assert lock.wait_lost(0.01) is None
    assert not lock.extend() and lock.fencing_token is None


def test_a_function_runs_only_with_its_lock(name):
    lockman = GlobalLockManager("memory:decorator")

    @lockman.locked(name, blocking=False)
    def twice(number):
        """Doubles."""
        return number * 2

    assert (twice(4), twice.__doc__) == (8, "Doubles.")
    with lockman.lock(name), pytest.raises(globallock.NotLocked, match=name):
        twice(4)
