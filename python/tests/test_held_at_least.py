"""Held at least: others are kept out for a time from the grant, whatever becomes of the owner."""

import asyncio
import gc
import logging
import signal
import subprocess
import time
from datetime import timedelta

import pytest
from conftest import ends, eventually, in_fork, run
from globallock import GlobalLockManager, InvalidOption, NotLocked

#: A time that every test ends before.
LONG = 300

#: How the log says that others are let in before the time.
EARLY = "others are let in before"


def keeps(url):
    """Whether the store keeps others out by itself, as the pages of those stores say."""
    return url.startswith(("redis", "etcd", "postgres"))


def is_free(url, name):
    with GlobalLockManager(url) as other:
        return other.lock(name, blocking=False).acquire()


def messages(caplog, level, name):
    return [
        record.getMessage() for record in caplog.records
        if (record.levelno, record.name) == (level, "globallock") and name in record.getMessage()
    ]


def test_others_are_kept_out_after_a_block_until_the_manager_is_closed(url, name, caplog):
    caplog.set_level(logging.DEBUG, logger="globallock")
    lockman = GlobalLockManager(url)
    with lockman.lock(name, hold_at_least=timedelta(seconds=LONG)) as lock:
        assert lock.is_locked and LONG - 60 < lock.kept_for <= LONG
    assert not lock.is_locked and lock.kept_for is None
    assert not is_free(url, name) and not lockman.lock(name, blocking=False).acquire()
    [claim] = lockman.inspect(name)
    assert claim.held, "an operator sees it"
    lockman.close()
    assert is_free(url, name) is not keeps(url)
    warnings = messages(caplog, logging.WARNING, name)
    assert len(warnings) == (0 if keeps(url) else 1) and all(EARLY in text for text in warnings)
    told = messages(caplog, logging.DEBUG, name)
    assert len([text for text in told if "kept out for longer" in text]) == 1


def test_others_are_kept_out_after_a_block_of_a_task(url, name):
    lockman = GlobalLockManager(url)

    async def main():
        async with lockman.aio.lock(name, hold_at_least=LONG) as lock:
            assert lock.is_locked and LONG - 60 < lock.kept_for <= LONG
        assert not lock.is_locked and lock.kept_for is None
        assert not await lockman.aio.lock(name, blocking=False).acquire()
        ran = await lockman.aio.lock(f"{name}-run", hold_at_least=LONG).run(asyncio.sleep, 0, "value")
        assert ran == "value" and not await lockman.aio.lock(f"{name}-run", blocking=False).acquire()

    asyncio.run(main())
    assert not is_free(url, name) and not is_free(url, f"{name}-run")
    lockman.close()
    assert is_free(url, name) is not keeps(url)


def test_the_next_one_is_let_in_when_the_time_has_passed(url, name):
    lockman = GlobalLockManager(url)
    began = time.monotonic()
    with lockman.lock(name, hold_at_least=1) as lock:
        assert lock.is_locked
    with GlobalLockManager(url).lock(name, blocking_timeout=60) as next_one:
        assert next_one.is_locked and time.monotonic() - began >= 1


def test_a_lock_is_held_on_after_its_time_and_then_released_at_once(url, name):
    with GlobalLockManager(url).lock(name, hold_at_least=0.2) as lock:
        eventually("the time has passed", lambda: lock.kept_for is None)
        assert lock.extend() and not is_free(url, name)
    assert is_free(url, name)


def test_an_operator_may_let_others_in(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name, hold_at_least=LONG):
        pass
    assert lockman.evict(name, lockman.inspect(name)[0])
    assert is_free(url, name)


def test_each_kind_of_lock_keeps_out_whom_it_would_keep_out_if_it_were_held(url, name):
    lockman = GlobalLockManager(url)
    catalogue, other = lockman.rwlock(f"{name}-c", hold_at_least=LONG), lockman.rwlock(f"{name}-c")
    with catalogue.read() as reader:
        assert reader.kept_for
    assert not other.write(blocking=False).acquire() and other.read(blocking=False).acquire()
    with lockman.rwlock(f"{name}-w").write(hold_at_least=LONG) as writer:
        assert writer.kept_for
    assert not lockman.rwlock(f"{name}-w").read(blocking=False).acquire()
    with lockman.semaphore(f"{name}-s", 3, permits=2, hold_at_least=LONG) as permits:
        assert permits.kept_for
    assert not lockman.semaphore(f"{name}-s", 3, permits=2, blocking=False).acquire()
    assert lockman.semaphore(f"{name}-s", 3, blocking=False).acquire()
    with lockman.lock_all([f"{name}-a", f"{name}-b"], hold_at_least=LONG) as both:
        assert both.is_locked
    assert not is_free(url, f"{name}-a") and not is_free(url, f"{name}-b")


def test_several_locks_of_which_one_is_not_granted_keep_nobody_out(url, name):
    lockman, names = GlobalLockManager(url), [f"{name}-a", f"{name}-b"]
    with lockman.lock(names[1]):
        assert not lockman.lock_all(names, blocking_timeout=0, hold_at_least=LONG).acquire()
        assert is_free(url, names[0])
        several = lockman.aio.lock_all(names, blocking_timeout=0, hold_at_least=LONG)
        assert not asyncio.run(several.acquire())
        assert is_free(url, names[0])


def test_several_locks_whose_acquire_is_interrupted_keep_nobody_out(name):
    lockman = GlobalLockManager("memory:held-at-least-interrupted")

    async def main():
        names = [f"{name}-a", f"{name}-b"]
        async with lockman.aio.lock(names[1]):
            waits = asyncio.ensure_future(lockman.aio.lock_all(names, hold_at_least=LONG).acquire())
            while len(await lockman.aio.inspect(names[1])) < 2:
                await asyncio.sleep(0.001)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
        assert await lockman.aio.lock_all(names, blocking_timeout=30).acquire()

    asyncio.run(main())


def test_a_lock_whose_caller_has_gone_keeps_nobody_out(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.lock(name, hold_at_least=LONG)
    # As when Ctrl-C comes between the grant and the lock that would have it.
    guard = lock._engine.native.acquire(lock._lock_request()).wait()
    assert guard.kept_for()
    del guard
    eventually("it is free", lambda: lockman.inspect(name) == [])


def test_tasks_that_are_cancelled_at_any_moment_keep_nobody_out(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def acquire(lock):
        await lock.acquire()
        kept.append(lock.name)

    async def main():
        for turn in range(60):
            lock = lockman.aio.lock(f"{name}-{turn}", hold_at_least=LONG)
            task = asyncio.ensure_future(acquire(lock))
            await asyncio.sleep(0.0001 * (turn % 20))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    kept = []
    asyncio.run(main())
    eventually("only those are left that tasks had", lambda: sorted(kept) == lockman.names(name))


HOLDS = """
import sys, time
from globallock import GlobalLockManager
lock = GlobalLockManager(sys.argv[1], lock_ttl=1).lock(sys.argv[2], hold_at_least=float(sys.argv[3]))
assert lock.acquire()
until = time.monotonic() + lock.kept_for
if sys.argv[4] == "release":
    lock.release()
print(until, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("when", ["held", "release"])
def test_a_killed_owner_keeps_others_out_where_the_store_does(url, name, when):
    process = run(HOLDS, url, name, 5 if keeps(url) else LONG, when, stderr=subprocess.DEVNULL)
    until = float(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with GlobalLockManager(url).lock(name, blocking_timeout=60) as lock:
        assert lock.is_locked and (time.monotonic() < until - 60 or keeps(url))
        assert time.monotonic() >= until - 0.1 or not keeps(url)


ENDS = """
import logging, sys
from globallock import GlobalLockManager
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
lockman = GlobalLockManager(sys.argv[1])
with lockman.lock(sys.argv[2], hold_at_least=300):
    pass
lock = lockman.lock(f"{sys.argv[2]}-held", hold_at_least=300)
assert lock.acquire()
"""


def test_the_end_of_the_interpreter_lets_others_in_where_the_store_does_not_keep_them_out(url, name):
    printed = ends(run(ENDS, url, name))
    for lock in (name, f"{name}-held"):
        assert is_free(url, lock) is not keeps(url)
        said = [line for line in printed.splitlines() if f'"{lock}"' in line]
        assert len(said) == (0 if keeps(url) else 1)
        assert all(line.startswith(f"WARNING globallock {EARLY}") for line in said)


def test_a_manager_that_nobody_has_any_more_keeps_others_out(url, name):
    with GlobalLockManager(url).lock(name, hold_at_least=LONG) as lock:
        assert lock.is_locked
    del lock
    gc.collect()
    assert not is_free(url, name)


def test_a_forked_child_lets_nobody_in(url, name):
    lockman = GlobalLockManager(url)

    def child():
        kept_for = lock.kept_for
        lock.release()
        with lockman.lock(f"{name}-other", hold_at_least=LONG) as other:
            return kept_for, other.kept_for > LONG - 60

    with lockman.lock(name, hold_at_least=LONG) as lock:
        assert in_fork(child) == "(None, True)"
    assert in_fork(lockman.close) == "None"
    assert not is_free(url, name)


RUNS = """
import sys
from globallock import GlobalLockManager, NotLocked
lockman = GlobalLockManager(sys.argv[1])
once = lockman.once(sys.argv[2], every=0.001, blocking=False, hold_at_least=300)
print("ready", flush=True)
for _ in sys.stdin:
    try:
        print("done" if once.run(lambda: None) else "skipped", flush=True)
    except NotLocked:
        print("refused", flush=True)
"""


def test_of_six_processes_whose_clocks_differ_one_does_the_work(url, name):
    processes = [run(RUNS, url, name) for _ in range(6)]

    def say():
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return sorted(process.stdout.readline().strip() for process in processes)

    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 6
    assert say() == ["done"] + ["refused"] * 5
    # Those that are late find no record that counts, but the lock.
    assert say() == ["refused"] * 6
    for process in processes:
        ends(process)


def test_a_run_that_is_skipped_keeps_nobody_out_and_one_that_fails_does(url, name):
    lockman = GlobalLockManager(url)

    def fail():
        raise OSError("no room")

    assert lockman.once(name, every=3600).run(lambda: None)
    assert not lockman.once(name, every=3600, hold_at_least=LONG).run(lambda: None)
    assert is_free(url, name)
    assert not asyncio.run(lockman.aio.once(name, every=3600, hold_at_least=LONG).run(asyncio.sleep, 0))
    assert is_free(url, name)
    with pytest.raises(OSError, match="no room"):
        lockman.once(f"{name}-fails", every=3600, hold_at_least=LONG).run(fail)
    assert not is_free(url, f"{name}-fails")
    assert asyncio.run(lockman.aio.once(f"{name}-aio", every=3600, hold_at_least=LONG).run(asyncio.sleep, 0))
    with pytest.raises(NotLocked):
        lockman.once(f"{name}-aio", every=3600, blocking=False).run(fail)


def test_every_engine_has_it(config, name):
    lockman = GlobalLockManager(config)
    with lockman.lock(name, hold_at_least=LONG) as lock:
        assert lock.kept_for > LONG - 60
    assert not lockman.lock(name, blocking=False).acquire()


VALUES = ["x", 0, -1, float("nan"), [], timedelta(seconds=-1), timedelta(days=400), 1e300]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_that_nobody_is_kept_out_for(value):
    lockman = GlobalLockManager("memory:")
    with pytest.raises(InvalidOption, match="hold_at_least"):
        lockman.lock("a", hold_at_least=value).acquire()
    with pytest.raises(InvalidOption, match="hold_at_least"):
        lockman.once("a", every=60, hold_at_least=value).run(lambda: None)
    with pytest.raises(InvalidOption, match="hold_at_least"):
        asyncio.run(lockman.aio.lock("a", hold_at_least=value).acquire())


def test_it_is_no_longer_than_the_lock_may_be_held(name):
    lockman = GlobalLockManager("memory:held-at-least-limits")
    for options in ({"timeout": 1}, {"timeout": 0.5, "grace": 0.5}, {"lock_ttl": 1, "auto_renew": False}):
        with pytest.raises(InvalidOption, match="hold_at_least.* for 1 s at most .*(timeout|lock_ttl)"):
            lockman.lock(name, hold_at_least=1.5, **options).acquire()
        with lockman.lock(name, hold_at_least=1, **options) as lock:
            assert lock.kept_for
        assert lockman.lock(name, blocking_timeout=60).acquire()
        lockman.close()
