"""What onlookers see, and the claims that they take out."""

import asyncio
import select
import signal
import textwrap
import threading

import pytest
from conftest import ends, eventually, run
from globallock import (
    Evicted,
    GlobalLockError,
    GlobalLockManager,
    InvalidName,
    InvalidOption,
    StoreUnavailable,
    loops,
)
from test_processes import in_fork

#: How many seconds lie between two looks of the tests' watches.
EVERY = 0.02
#: The stores that take out claims of others.
EVICTING = ["memory", "redis", "file", "etcd", "postgres", "zookeeper"]


def address(request, store, tmp_path):
    if store == "memory":
        return f"memory:{tmp_path.name}"
    if store == "file":
        return f"file://{tmp_path}/locks"
    return request.getfixturevalue(f"{store}_server").url


@pytest.fixture(params=["memory", "redis", "etcd", "postgres", "zookeeper", "file"])
def url(request, tmp_path):
    """The address of each kind of store, and of this process's memory."""
    return address(request, request.param, tmp_path)


@pytest.fixture(params=EVICTING)
def evicting(request, tmp_path):
    """The address of each kind of store that takes out claims of others."""
    return address(request, request.param, tmp_path)


def shape(summary):
    return summary.name, summary.kind, summary.holders, summary.waiters


def in_thread(function):
    """Runs a function in a thread; what is returned waits for its result, or raises its exception."""
    result = []

    def work():
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def outcome():
        thread.join(60)
        assert result, "it has not ended"
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    return outcome


def test_a_list_sums_up_names_with_their_holders_and_waiters(url, name):
    lockman = GlobalLockManager(url)
    assert lockman.list(name) == []
    semaphore = lockman.semaphore(f"{name}-a", 5, permits=2)
    with lockman.lock(f"{name}-b") as lock, semaphore, lockman.lock(f"other-{name}"):
        waits = in_thread(lockman.lock(f"{name}-b", blocking_timeout=30).acquire)
        eventually("there is a waiter", lambda: len(lockman.inspect(f"{name}-b")) == 2)
        several, one = lockman.list(name)
        assert shape(several) == (f"{name}-a", "2/5", 1, 0)
        assert shape(one) == (f"{name}-b", "mutex", 1, 1)
        assert one.fencing_token == lock.fencing_token and 0 <= one.oldest < 60 and not one.is_free
        assert [summary.name for summary in asyncio.run(lockman.aio.list(name))] == lockman.names(name)
    assert waits()
    lockman.close()
    assert lockman.list(name) == []


def test_a_key_prefix_is_no_part_of_the_names(redis_config, name):
    lockman = GlobalLockManager({**redis_config, "global_lock_key_prefix": "a/b-"})
    with lockman.lock(name), lockman.watch(name, every=EVERY) as changes:
        assert [summary.name for summary in lockman.list(name)] == [name]
        assert next(changes).name == name


def test_a_watch_tells_first_what_there_is_and_then_what_changes(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.lock(name)
    assert lock.acquire()
    with lockman.watch(name, every=EVERY) as changes:
        assert iter(changes) is changes and shape(next(changes)) == (name, "mutex", 1, 0)
        waits = in_thread(lockman.lock(name, blocking_timeout=30).acquire)
        assert shape(next(changes)) == (name, "mutex", 1, 1)
        lock.release()
        assert waits()
        told = next(changes)
        # The first look may come between the release and the grant.
        assert shape(told if told.holders else next(changes)) == (name, "mutex", 1, 0)
        lockman.close()
        assert list(changes) == [], "it ends with its manager"
    with lockman.lock(name), lockman.watch(name, every=EVERY) as changes:
        assert next(changes).holders == 1
        lockman.registered_locks()[0].release()
        free = next(changes)
        assert shape(free) == (name, None, 0, 0) and free.is_free and free.oldest is None


@pytest.mark.parametrize("by", ["watch", "manager"])
def test_a_watch_that_waits_is_ended_by_a_close(name, by):
    lockman = GlobalLockManager(f"memory:{name}")
    with lockman.lock(name):
        changes = lockman.watch(every=EVERY)
        assert next(changes).name == name
        waits = in_thread(lambda: next(changes, "ended"))
        if by == "manager":
            lockman.close()
        else:
            changes.close()
            changes.close()
        last = waits()
        # A manager releases its locks before it is closed, and that may be told.
        assert last == "ended" or by == "manager" and last.is_free
        assert list(changes) == []


def test_a_watch_goes_on_after_a_store_that_does_not_answer():
    # A store may be silent for as long as a lease.
    lockman = GlobalLockManager("redis://127.0.0.1:1?timeout=100ms", lock_ttl=0.5)
    with lockman.watch(every=EVERY) as changes:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                next(changes)
    assert list(changes) == []
    with pytest.raises(StoreUnavailable):
        lockman.list()
    with pytest.raises(StoreUnavailable):
        lockman.evict("a", "0" * 32)

    async def main():
        async with lockman.aio.watch(every=EVERY) as changes:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await changes.__anext__()

    asyncio.run(main())


WATCHES = """
import signal, sys
from globallock import GlobalLockManager
# The parent may ignore it (nohup, a background job), and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
lockman = GlobalLockManager(sys.argv[1])
changes = lockman.watch(sys.argv[2], every=0.02)
try:
    for summary in changes:
        print(summary.name, flush=True)
except KeyboardInterrupt:
    print("interrupted", next(changes).is_free, flush=True)
"""


def test_ctrl_c_interrupts_a_watch_which_can_go_on(redis_server, name):
    lock = GlobalLockManager(redis_server.url).lock(name)
    assert lock.acquire()
    program = run(WATCHES, redis_server.url, name)
    assert program.stdout.readline().strip() == name
    program.send_signal(signal.SIGINT)
    # Whether the signal or the release comes first, what is told last is that the name is free.
    lock.release()
    printed = ends(program).split()
    assert printed in (["interrupted", "True"], [name, "interrupted", "True"]), printed


def test_a_forked_child_has_watches_of_its_own(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name), lockman.watch(name, every=EVERY) as changes:
        assert next(changes).name == name

        def child():
            try:
                next(changes)
            except GlobalLockError as error:
                changes.close()
                with lockman.watch(name, every=EVERY) as own:
                    return "another process" in str(error), next(own).holders, len(lockman.list(name))

        assert in_fork(child) == "(True, 1, 1)"
        lockman.registered_locks()[0].release()
        assert next(changes).is_free


def test_a_cancelled_wait_loses_no_change(url, name):
    lockman = GlobalLockManager(url)

    async def main():
        changes = lockman.aio.watch(name, every=EVERY)
        async with lockman.aio.lock(name):
            wait = asyncio.ensure_future(changes.__anext__())
            await asyncio.sleep(0)
            # The change arrives while this keeps the loop, so that the wait is cancelled when it is there.
            bridge = loops._loops[asyncio.get_running_loop()].bridge
            assert select.select([bridge.fileno()], [], [], 30)[0]
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            assert shape(await changes.__anext__()) == (name, "mutex", 1, 0)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(changes.__anext__(), 5 * EVERY)
        told = [change.is_free async for change in until_free(changes)]
        assert told == [True]

    async def until_free(changes):
        async with changes:
            async for change in changes:
                yield change
                await changes.aclose()

    asyncio.run(main())


def test_a_closed_watch_leaves_no_task(name):
    lockman = GlobalLockManager(f"memory:{name}")

    async def main():
        changes = lockman.aio.watch(every=EVERY)
        waits = asyncio.ensure_future(changes.__anext__())
        await asyncio.sleep(0)
        await changes.aclose()
        with pytest.raises(StopAsyncIteration):
            await waits
        assert [change async for change in changes] == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        known = loops._loops[asyncio.get_running_loop()]
        assert known.waiting == {}

    asyncio.run(main())


@pytest.mark.parametrize("every", [0, -1, float("nan"), 1e300, "1", None], ids=repr)
def test_an_interval_that_is_none(every):
    lockman = GlobalLockManager("memory:")
    for watch in (lockman.watch, lockman.aio.watch):
        with pytest.raises(InvalidOption):
            watch(every=every)


def test_what_is_no_claim_is_not_evicted(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name) as lock:
        for key in ("", "x", "../x", "a b", "0" * 32):
            assert lockman.evict(name, key) is False
        for key, reason in ((None, ""), (7, ""), ("\ud800", ""), ("x", None), ("x", "\ud800")):
            with pytest.raises(InvalidOption):
                lockman.evict(name, key, reason)
        for bad in (None, "", "\0"):
            with pytest.raises(InvalidName):
                lockman.evict(bad, "x")
        assert lock.extend()


@pytest.mark.parametrize("given", ["the claim", "its key"])
def test_an_evicted_holder_is_told_who_did_it_and_why(evicting, name, given):
    owner, operator = GlobalLockManager(evicting), GlobalLockManager(evicting, label="alice")
    lock, reasons = owner.lock(name), []
    assert lock.acquire()
    lock.on_lost(reasons.append)
    event = lock.lost_event()
    waits = in_thread(owner.lock(name, blocking_timeout=30).acquire)
    eventually("there is a waiter", lambda: len(owner.inspect(name)) == 2)
    claim = operator.inspect(name)[0]
    seen = claim if given == "the claim" else claim.key
    assert operator.evict(name, seen, "it hangs") is True
    reason = lock.wait_lost(30)
    assert reason.startswith("it was broken by alice (pid ") and reason.endswith(": it hangs"), reason
    assert not lock.is_locked and not lock.extend() and event.wait(30)
    eventually("the callback is called", lambda: reasons == [reason])
    assert waits(), "the next waiter is let in"
    assert operator.evict(name, seen, "again") is False
    assert [claim.held for claim in operator.inspect(name)] == [True]
    owner.close()


#: Ways to wait for a lock in this thread.
WAITS = {
    "acquire": lambda lockman, name: lockman.lock(name).acquire(),
    "acquire with a limit": lambda lockman, name: lockman.lock(name, blocking_timeout=60).acquire(),
    "with": lambda lockman, name: lockman.lock(name, blocking_timeout=60).__enter__(),
    "all": lambda lockman, name: lockman.lock_all([name, f"{name}-0"]).acquire(),
    "decorated": lambda lockman, name: lockman.locked(name)(lambda: None)(),
    "asyncio": lambda lockman, name: asyncio.run(lockman.aio.lock(name, blocking_timeout=60).acquire()),
    "all in asyncio": lambda lockman, name: asyncio.run(lockman.aio.lock_all([f"{name}-0", name]).acquire()),
}


@pytest.mark.parametrize("way", WAITS)
def test_the_acquire_of_an_evicted_waiter_raises(evicting, name, way):
    lockman, operator = GlobalLockManager(evicting), GlobalLockManager(evicting, label="bob")
    with lockman.lock(name) as lock:
        waits = in_thread(lambda: WAITS[way](lockman, name))
        eventually("there is a waiter", lambda: len(operator.inspect(name)) == 2)
        assert operator.evict(name, operator.inspect(name)[1], "the queue is closed")
        with pytest.raises(Evicted, match=r"bob \(pid .*: the queue is closed"):
            waits()
        assert issubclass(Evicted, GlobalLockError) and lock.extend()
        assert [claim.held for claim in operator.inspect(name)] == [True]
        eventually("nothing else is kept", lambda: operator.names(f"{name}-") == [])


def test_asyncio_evicts_too(evicting, name):
    lockman = GlobalLockManager(evicting, label="carol")

    async def main():
        lock = lockman.aio.lock(name)
        assert await lock.acquire()
        (claim,) = await lockman.aio.inspect(name)
        assert await lockman.aio.evict(name, claim, "enough") is True
        assert (await lock.lost()).endswith(": enough")
        assert await lockman.aio.evict(name, claim.key) is False
        with pytest.raises(InvalidOption):
            await lockman.aio.evict(name, 7)

    asyncio.run(main())


GREENLETS = """
    from gevent import monkey
    monkey.patch_all()
    import gevent
    from globallock import Evicted, GlobalLockManager
    lockman = GlobalLockManager("memory:")
    lock, told = lockman.lock("a"), []
    def follow():
        with lockman.watch(every=0.02) as changes:
            for summary in changes:
                told.append((summary.holders, summary.waiters))
                if summary.is_free:
                    return
    def wait():
        try:
            lockman.lock("a").acquire()
        except Evicted as error:
            return str(error)
    follows = gevent.spawn(follow)
    assert lock.acquire()
    # The watch waits in this very thread, and so does the waiter.
    while told != [(1, 0)]:
        gevent.sleep(0.001)
    waits = gevent.spawn(wait)
    while told != [(1, 0), (1, 1)]:
        gevent.sleep(0.001)
    assert [summary.name for summary in lockman.list()] == ["a"]
    holder, waiter = lockman.inspect("a")
    assert lockman.evict("a", waiter, "no") and waits.get().endswith(": no")
    assert lockman.evict("a", holder) and "broken by" in lock.wait_lost(30)
    follows.join(30)
    assert told[-1] == (0, 0), told
    killed = gevent.spawn(next, lockman.watch())
    gevent.sleep(0)
    killed.kill()
"""


def test_under_gevent():
    ends(run(textwrap.dedent(GREENLETS)))
