"""Work that many processes start and one does."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from datetime import timedelta

import globallock
import pytest
from conftest import Late, ends, eventually, in_fork, run
from globallock import GlobalLockManager, InvalidOption, LockLost, NotLocked, Ran, StoreUnavailable
from globallock.once import Turn

HOUR = timedelta(hours=1)


def must_not_run(*_):
    pytest.fail("the work is not due")


def test_work_is_done_once_and_then_skipped(config, name):
    once = GlobalLockManager(config).once(name, every=HOUR)
    assert once.run(divmod, 7, 2) == Ran(True, (3, 1), None)
    skipped = GlobalLockManager(config).once(name, every=3600).run(must_not_run)
    assert not skipped and not skipped.done and skipped.value is None and 0 <= skipped.began < 60
    with once.turn() as turn:
        assert not turn.due and 0 <= turn.began < 60 and not turn.lock.is_locked
    assert GlobalLockManager(config).inspect(name) == [], "a turn that is not due keeps no lock"


def test_work_is_done_once_and_then_skipped_by_tasks(config, name):
    lockman = GlobalLockManager(config)
    done = []

    async def work(number, *, by):
        await asyncio.sleep(0)
        done.append(number)
        return number, by

    async def main():
        once = lockman.aio.once(name, every=HOUR)
        ran = await asyncio.gather(*(once.run(work, number, by="task") for number in range(6)))
        assert len(done) == 1 and sum(map(bool, ran)) == 1
        assert [one.value for one in ran if one] == [(done[0], "task")]
        async with once.turn() as turn:
            assert not turn.due and turn.began < 60

    asyncio.run(main())
    assert lockman.inspect(name) == []


RUNS = """
import sys
from globallock import GlobalLockManager
once = GlobalLockManager(sys.argv[1]).once(sys.argv[2], every=3600)
def work():
    with open(sys.argv[3], "a") as file:
        file.write("done\\n")
print("ready", flush=True)
sys.stdin.readline()
ran = once.run(work)
print("done" if ran else "skipped" if 0 <= ran.began < 600 else ran)
"""


def test_six_processes_at_once_do_the_work_once(url, name, tmp_path):
    file = tmp_path / "done"
    processes = [run(RUNS, url, name, file) for _ in range(6)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(ends(process).strip() for process in processes)
    assert said == ["done"] + ["skipped"] * 5 and file.read_text() == "done\n"


def test_six_threads_with_one_object_do_the_work_once(url, name):
    once = GlobalLockManager(url).once(name, every=HOUR)
    done, ran = [], []
    threads = [
        threading.Thread(target=lambda: ran.append(once.run(done.append, "done"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["done"] and sorted(one.done for one in ran) == [False] * 5 + [True]


def test_work_is_due_again_once_its_time_has_passed(url, name):
    once = GlobalLockManager(url).once(name, every=timedelta(milliseconds=200))
    began = time.monotonic()
    assert once.run(lambda: None)
    eventually("it is due again", lambda: once.run(lambda: None).done)
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_passes_and_nothing_is_recorded(name, error):
    lockman = GlobalLockManager("memory:once-raises")

    def fail():
        raise error("not done")

    async def fail_later():
        raise ValueError("not done")

    async def main():
        with pytest.raises(ValueError, match="not done"):
            await lockman.aio.once(name, every=HOUR).run(fail_later)
        with pytest.raises(ValueError, match="not done"):
            async with lockman.aio.once(name, every=HOUR).turn():
                await fail_later()

    once = lockman.once(name, every=HOUR)
    with pytest.raises(error, match="not done"):
        once.run(fail)
    with pytest.raises(error, match="not done"), once.turn():
        fail()
    asyncio.run(main())
    assert lockman.registered_locks() == [] and lockman.inspect(name) == []
    assert once.run(lambda: "done").value == "done"


def test_an_interruption_before_the_record_releases_the_lock_and_the_work_is_done_again(name, monkeypatch):
    lockman = GlobalLockManager("memory:once-interrupted")
    once = lockman.once(name, every=HOUR)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Turn, "_held", interrupted)
        once.run(lambda: None)
    assert lockman.inspect(name) == [] and lockman.registered_locks() == []
    assert once.run(lambda: None)


KILLED = """
import os, signal, sys
# The parent may ignore it, and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from globallock import GlobalLockManager
with GlobalLockManager(sys.argv[1], lock_ttl=1).once(sys.argv[2], every=3600).turn() as turn:
    assert turn.due and turn.lock.is_locked
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
"""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT"])
def test_a_process_that_ends_before_the_record_leaves_the_work_to_the_next(url, name, number):
    process = run(KILLED, url, name, number, stderr=subprocess.DEVNULL)
    process.communicate(timeout=60)
    # Since CPython 3.8, Ctrl-C ends a program as the signal would.
    assert process.returncode == -getattr(signal, number)
    ran = GlobalLockManager(url).once(name, every=HOUR, blocking_timeout=60).run(lambda: "done after all")
    assert ran.value == "done after all"


def test_a_loss_is_told_and_nothing_is_recorded(url, name):
    lockman, other = GlobalLockManager(url), GlobalLockManager(url)

    def evicts():
        assert other.evict(name, other.inspect(name)[0], reason="maintenance")

    async def waits():
        evicts()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    told = []
    with pytest.raises(LockLost, match="maintenance"):
        lockman.once(name, every=HOUR).run(evicts)
    with pytest.raises(LockLost, match="maintenance"):
        asyncio.run(lockman.aio.once(name, every=HOUR).run(waits))
    assert told == ["cancelled"]
    assert other.once(name, every=HOUR).run(lambda: None)


def test_a_manager_that_is_closed_meanwhile_records_nothing(name):
    lockman = GlobalLockManager("memory:once-closed")
    once = lockman.once(name, every=HOUR)
    with pytest.raises(NotLocked, match="was released before"):
        once.run(lockman.close)
    assert once.run(lambda: None), "it connects again"


def test_a_lock_that_is_not_granted_in_time_is_told(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name):
        # Within a second, a busy store answers too.
        for options in ({"blocking": False}, {"blocking_timeout": timedelta(seconds=1)}):
            with pytest.raises(NotLocked, match="was not granted"):
                lockman.once(name, every=HOUR, **options).run(must_not_run)
            with pytest.raises(NotLocked, match="was not granted"):
                asyncio.run(lockman.aio.once(name, every=HOUR, **options).run(must_not_run))
    assert lockman.registered_locks() == []


def test_an_unreachable_store_is_told_before_the_work():
    nowhere = GlobalLockManager("redis://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        nowhere.once("x", every=HOUR, blocking_timeout=0.3).run(must_not_run)


def test_a_decorated_function_says_what_came_of_its_call(name):
    lockman = GlobalLockManager("memory:once-decorator")

    @lockman.once(name, every=HOUR)
    def twice(number):
        """Doubles."""
        return number * 2

    @lockman.aio.once(f"{name}-aio", every=HOUR)
    async def thrice(number):
        """Triples."""
        return number * 3

    assert (twice(4), twice.__doc__) == (Ran(True, 8), "Doubles.")
    assert not twice(5)
    assert (asyncio.run(thrice(4)), thrice.__doc__) == (Ran(True, 12), "Triples.")
    assert not asyncio.run(thrice(5))


class Deferred:
    async def __call__(self):
        must_not_run()


async def coroutine_function():
    must_not_run()


def generator_function():
    yield must_not_run()


async def generator_of_coroutines():
    yield must_not_run()


DEFERRED = [coroutine_function, generator_function, generator_of_coroutines, Deferred(), None, 7]


@pytest.mark.parametrize("work", [*DEFERRED, lambda: coroutine_function()], ids=range(len(DEFERRED) + 1))
def test_work_that_a_call_does_not_do_is_refused_and_not_recorded(name, work):
    once = GlobalLockManager("memory:once-deferred").once(name, every=HOUR)
    with pytest.raises(InvalidOption):
        once.run(work)
    assert once.run(lambda: None)


def test_work_that_is_not_to_be_awaited_is_not_recorded_by_a_task(name):
    lockman = GlobalLockManager("memory:once-awaited")
    with pytest.raises(InvalidOption, match="coroutine function"):
        asyncio.run(lockman.aio.once(name, every=HOUR).run(lambda: 7))
    assert lockman.once(name, every=HOUR).run(lambda: None)


@pytest.mark.parametrize(
    "options",
    [{"kind": "read"}, {"permits": 2}, {"capacity": 2}, {"with_value": True}, {"colour": 1}, {"grace": 1}],
    ids=repr,
)
def test_options_that_work_cannot_have(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        GlobalLockManager("memory:").once("a", every=HOUR, **options).run(must_not_run)


NEVER = ["x", 0, -1, None, -HOUR, timedelta(days=400), float("nan"), 1e300]


@pytest.mark.parametrize("every", NEVER, ids=repr)
def test_times_that_no_success_counts_for(every):
    with pytest.raises(InvalidOption, match="every"):
        GlobalLockManager("memory:").once("a", every=every).run(must_not_run)


def test_an_engine_that_a_user_wrote_keeps_no_record():
    class Own(globallock.GlobalLockImplementationBase):
        pass

    with pytest.raises(InvalidOption, match="Own"):
        GlobalLockManager({"global_lock_engine_class": Own}).once("a", every=HOUR).run(must_not_run)


def test_a_child_that_is_forked_by_the_work_records_nothing(url, name):
    lockman = GlobalLockManager(url)

    def child(turn):
        try:
            turn.__exit__(None, None, None)
        except globallock.GlobalLockError as error:
            return str(error)

    with lockman.once(name, every=HOUR).turn() as turn:
        assert turn.due and "another process" in in_fork(lambda: child(turn))
        assert turn.lock.extend()
        assert in_fork(lambda: GlobalLockManager(url).lock(name, blocking=False).acquire()) == "False"
    assert not lockman.once(name, every=HOUR).run(must_not_run)


def test_a_cancelled_run_cancels_its_work_and_records_nothing(url, name):
    lockman = GlobalLockManager(url)
    ended = []

    async def work(started):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            claims = await lockman.aio.inspect(name)
            ended.append([claim.held for claim in claims])

    async def main():
        started = asyncio.Event()
        task = asyncio.ensure_future(lockman.aio.once(name, every=HOUR).run(work, started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [[True]], "the lock was held until the work had ended"

    asyncio.run(main())
    assert lockman.once(name, every=HOUR).run(lambda: None)


def test_a_run_that_is_cancelled_at_any_moment_leaves_no_lock(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)

    async def work():
        await asyncio.sleep(0)

    async def main():
        for turn in range(60):
            task = asyncio.ensure_future(lockman.aio.once(f"{name}-{turn}", every=HOUR).run(work))
            await asyncio.sleep(0.0001 * (turn % 20))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    eventually("nothing is left", lambda: lockman.names(name) == [])
    assert lockman.registered_locks() == []


def test_the_record_is_the_one_that_other_languages_write(url, name):
    lockman = GlobalLockManager(url)
    assert lockman.once(name, every=HOUR).run(lambda: None)
    with lockman.lock(name, with_value=True) as lock:
        assert lock.value.data.startswith(b"globallock-once:1:")
        assert lock.set_value(b"globallock-once:1:5000", keep=60)
    assert 5 <= lockman.once(name, every=HOUR).run(must_not_run).began < 60
    assert lockman.once(name, every=4).run(lambda: None)


def test_a_success_that_cannot_be_recorded_is_told_and_the_work_is_done_again(redis_server, name):
    with Late(redis_server.port, 0) as proxy:
        lockman = GlobalLockManager(f"redis://127.0.0.1:{proxy.port}", lock_ttl=1)
        # Whichever is noticed first.
        with pytest.raises((StoreUnavailable, LockLost)):
            lockman.once(name, every=HOUR).run(proxy.refuse, 10**6)
        other = GlobalLockManager(redis_server.url).once(name, every=HOUR, blocking_timeout=60)
        assert other.run(lambda: "done again").value == "done again"
        lockman.close()


def test_work_that_was_made_before_a_fork_is_known_after_it(url, name):
    once = GlobalLockManager(url).once(name, every=HOUR)
    assert once.run(lambda: None)
    assert in_fork(lambda: once.run(must_not_run).done) == "False"


EXITS = """
import sys, threading
from globallock import GlobalLockManager
lockman = GlobalLockManager(sys.argv[1], lock_ttl=60)
began = threading.Event()
def work():
    began.set()
    threading.Event().wait()
threading.Thread(target=lockman.once(sys.argv[2], every=3600).run, args=[work], daemon=True).start()
assert began.wait(30)
"""


def test_the_end_of_the_interpreter_releases_the_lock_of_a_run_and_records_nothing(url, name):
    ends(run(EXITS, url, name))
    assert GlobalLockManager(url).once(name, every=HOUR, blocking_timeout=30).run(os.getpid)


def test_a_block_whose_work_is_not_due_and_that_never_asks_is_told_in_the_log(lockman, caplog):
    def told():
        return [record.getMessage() for record in caplog.records if "never asked" in record.getMessage()]

    with lockman.once("a", every=HOUR).turn() as turn:
        repr(turn)
    assert not told(), "it was due, so it ran under the lock"
    with lockman.once("a", every=HOUR).turn() as turn:
        repr(turn)
    assert len(told()) == 1 and "'a'" in told()[0] and "look at due" in told()[0]

    async def main():
        async with lockman.aio.once("a", every=HOUR).turn():
            pass
        assert len(told()) == 2
        async with lockman.aio.once("a", every=HOUR).turn() as turn:
            assert not turn.due
        async with lockman.aio.once("a", every=HOUR).turn() as turn:
            assert turn.began is not None
        assert not await lockman.aio.once("a", every=HOUR).run(must_not_run)

    asyncio.run(main())
    with lockman.once("a", every=HOUR).turn() as turn:
        assert not turn.due
    assert not lockman.once("a", every=HOUR).run(must_not_run)
    assert len(told()) == 2
