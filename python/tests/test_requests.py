"""What a lock asks for is read again where an option has changed; and how a task awaits the answer."""

import asyncio
import copy
import pickle
from datetime import timedelta

import pytest
from conftest import eventually
from globallock import GlobalLockManager, loops

#: A new value of each option of a lock, and what the core is asked for then.
CHANGES = [
    ("name", "another", "name", "another"),
    ("blocking", False, "wait", 0.0),
    ("blocking_timeout", timedelta(seconds=3), "wait", 3.0),
    ("timeout", 7, "max_hold", 7.0),
    ("other_options", {"auto_renew": False}, "max_hold", 20.0),
    ("grace", 2, "ask_after", 60.0),
]


@pytest.mark.parametrize(("option", "value", "field", "asked"), CHANGES, ids=[each[0] for each in CHANGES])
def test_an_option_that_is_changed_counts_from_then_on(lockman, name, option, value, field, asked):
    lock = lockman.lock(name, timeout=60, lock_ttl=20)
    before = lock._lock_request()
    assert lock._lock_request() is before and getattr(before, field) != asked
    setattr(lock, option, value)
    assert getattr(lock._lock_request(), field) == asked
    with lock as held:
        assert held.is_locked and lockman.names() == [lock.name]


def test_options_that_are_changed_in_place_count_too(lockman, name):
    lock = lockman.lock(name, timeout=60, lock_ttl=20)
    assert lock._lock_request().max_hold == 60
    lock.other_options["auto_renew"] = False
    assert lock._lock_request().max_hold == 20
    del lock.other_options["auto_renew"]
    lock.config["auto_renew"] = False
    assert lock._lock_request().max_hold == 20


def test_a_lock_asks_the_store_of_its_manager(lockman, name):
    lock = lockman.lock(name)
    with lock:
        pass
    other = GlobalLockManager("memory:of-another")
    lock.config = other.config
    with lock:
        assert other.names() == [name] and lockman.names() == []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_asks_for_itself(lockman, name, copied):
    lock = lockman.lock(name)
    asked = lock._lock_request()
    other = copied(lock)
    other.name = f"{name}-2"
    assert other._lock_request().name == f"{name}-2" and lock._lock_request() is asked


def test_an_answer_is_awaited_once(lockman, name):
    async def main():
        answer = loops.outcome(lockman._engine.native.names(""))
        first = asyncio.ensure_future(answer)
        assert await first == []
        with pytest.raises(RuntimeError, match="awaited already"):
            await answer
        # One that is never awaited, or ended before, asks for nothing.
        loops.outcome(lockman._engine.native.names("")).close()

    asyncio.run(main())


def test_what_is_thrown_into_an_answer_arrives_and_nobody_waits_any_more(lockman, name):
    async def main():
        def asked():
            lock = lockman.lock(name)
            answer = loops.outcome(lock._engine.native.acquire(lock._lock_request()))
            assert next(answer).done() is False
            return answer, loops._loops[asyncio.get_running_loop()].waiting

        async with lockman.aio.lock(name, thread_local=False):
            for thrown in ((KeyError("k"),), (KeyError, "k"), (KeyError, KeyError("k"), None)):
                answer, waiting = asked()
                assert len(waiting) == 1
                with pytest.raises(KeyError, match="k"):
                    answer.throw(*thrown)
                assert not waiting
            answer, waiting = asked()
            answer.close()
            assert not waiting
            answer, waiting = asked()
            del answer
            assert not waiting
        while lockman.inspect(name):
            await asyncio.sleep(0.001)

    asyncio.run(main())


def test_an_answer_must_not_be_resumed_before_it_is_there(lockman, name):
    async def main():
        async with lockman.aio.hold(name, thread_local=False):
            answer = loops.outcome(lockman._engine.native.acquire(lockman.lock(name)._lock_request()))
            next(answer)
            with pytest.raises(RuntimeError, match="await wasn't used with future"):
                next(answer)
            answer.close()

    asyncio.run(main())


def test_a_grant_that_nobody_awaits_any_more_is_given_back_though_its_loop_has_ended(lockman, name):
    event_loop = asyncio.new_event_loop()

    async def main():
        lock, taken = lockman.lock(name), []
        answer = loops.outcome(lock._engine.native.acquire(lock._lock_request()), taken)
        next(answer)
        bridge = loops._loops[event_loop].bridge
        # The loop does nothing meanwhile, so it has not taken the outcome, and it never will.
        event_loop.remove_reader(bridge.fileno())
        eventually("it is granted", lambda: [claim.held for claim in lockman.inspect(name)] == [True])
        answer.close()
        return bridge

    bridge = event_loop.run_until_complete(main())
    eventually("it is free", lambda: lockman.inspect(name) == [])
    assert bridge.is_here()
    event_loop.close()
