"""What holds a lock, or says that it does not: hold(), and decorated functions."""

import asyncio
import copy
import inspect
import logging
import pickle

import pytest
from globallock import InvalidOption, NotLocked

KINDS = {
    "mutex": lambda locks: locks.hold("a", blocking=False),
    "read": lambda locks: locks.rwlock("a", blocking=False).read().hold(),
    "write": lambda locks: locks.rwlock("a").write(blocking=False).hold(),
    "permits": lambda locks: locks.semaphore("a", 1, blocking=False).hold(),
    "several": lambda locks: locks.lock_all(["b", "a"], blocking=False).hold(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hold_is_granted_or_raises(lockman, other, kind):
    with KINDS[kind](lockman) as lock:
        assert lock.is_locked
    with other.hold("a"):
        with pytest.raises(NotLocked, match="a.* was not granted"):
            with KINDS[kind](lockman):
                raise AssertionError("it runs without the lock")
        assert not lockman.registered_locks()
    assert other.names() == []


@pytest.mark.parametrize("kind", KINDS)
def test_hold_is_granted_or_raises_in_asyncio(lockman, other, kind):
    async def main():
        async with KINDS[kind](lockman.aio) as lock:
            assert lock.is_locked
        async with other.aio.hold("a"):
            with pytest.raises(NotLocked):
                async with KINDS[kind](lockman.aio):
                    raise AssertionError("it runs without the lock")
        assert await other.aio.names() == []

    asyncio.run(main())


def test_a_lock_that_is_to_be_held_keeps_that_when_it_is_copied_and_pickled(lockman, other):
    lock = lockman.hold("a", blocking=False)
    both = lockman.lock_all(["a"], blocking=False).hold()
    with other.hold("a"):
        for one in (lock, both):
            for made in (copy.copy(one), copy.deepcopy(one), one):
                with pytest.raises(NotLocked), made:
                    pass
        assert pickle.loads(pickle.dumps(lock))._is_required
        assert pickle.loads(pickle.dumps(both))._is_required


def test_a_block_that_runs_without_its_lock_and_never_asks_is_told_in_the_log(lockman, other, caplog):
    def told():
        return [record.getMessage() for record in caplog.records if "never asked" in record.getMessage()]

    with other.hold("a"):
        with lockman.lock("a", blocking=False):
            pass
        assert len(told()) == 1 and "'a'" in told()[0] and "hold()" in told()[0]
        with lockman.lock_all(["b", "a"], blocking=False):
            pass
        assert len(told()) == 2
        with lockman.lock("a", blocking=False) as lock:
            assert not lock.is_locked
        with lockman.lock_all(["a"], blocking=False) as both:
            assert not both.is_locked
        with lockman.lock("a", blocking=False) as lock:
            assert not lock.extend()
        assert len(told()) == 2
        # A log line is no question, and a token that is None may go unnoticed.
        for look in (repr, str, lambda lock: lock.fencing_token, lambda lock: lock.loss):
            told_before = len(told())
            with lockman.lock("a", blocking=False) as lock:
                look(lock)
            assert len(told()) == told_before + 1
        with lockman.lock_all(["a"], blocking=False) as both:
            assert "not held" in repr(both)
        assert len(told()) == 7
    caplog.clear()
    with lockman.lock("a", blocking=False):
        pass
    assert not told()

    async def main():
        async with other.aio.hold("a"):
            async with lockman.aio.lock("a", blocking=False):
                pass
            async with lockman.aio.lock("a", blocking=False) as lock:
                assert not lock.is_locked

    asyncio.run(main())
    assert len(told()) == 1


def test_a_call_that_stops_an_event_loop_is_warned_of(lockman, recwarn):
    with lockman.hold("a"):
        pass
    assert not recwarn.list

    async def main():
        with pytest.warns(RuntimeWarning, match="'a'.*event loop.*lockman.aio") as told:
            with lockman.hold("a"):
                pass
        assert told[0].filename == __file__
        with pytest.warns(RuntimeWarning, match="event loop"):
            lockman.once("a", every=60).run(lambda: None)

    asyncio.run(main())


# --- Decorated functions


def test_a_function_holds_its_lock_while_it_runs(lockman, other):
    @lockman.locked("a", blocking=False)
    def work(value, *, twice=False):
        """What it does."""
        assert [claim.held for claim in other.inspect("a")] == [True]
        return value * 2 if twice else value

    assert work(3) == 3 and work(3, twice=True) == 6
    assert work.__doc__ == "What it does." and work.__name__ == "work"
    assert other.names() == []
    with other.hold("a"), pytest.raises(NotLocked) as error:
        work(3)
    assert error.value.name == "a"


def test_a_generator_holds_its_lock_until_its_end(lockman, other):
    @lockman.locked("a", blocking=False)
    def rows():
        try:
            got = yield 1
            yield got
        except KeyError:
            yield "caught"
        return "ended"

    running = rows()
    assert other.names() == [], "nothing is held before the first step"
    assert next(running) == 1 and other.names() == ["a"]
    assert running.send("sent") == "sent" and running.throw(KeyError) == "caught"
    with pytest.raises(StopIteration) as end:
        next(running)
    assert end.value.value == "ended" and other.names() == []
    left = rows()
    assert next(left) == 1
    left.close()
    assert other.names() == []
    with other.hold("a"), pytest.raises(NotLocked):
        next(rows())
    assert inspect.isgeneratorfunction(rows)


def test_a_coroutine_holds_its_lock_until_its_end(lockman, other):
    def made(locks):
        @locks.locked("a", blocking=False)
        async def work(value):
            await asyncio.sleep(0)
            assert await other.aio.names() == ["a"]
            return value

        return work

    async def main(work):
        assert await work(5) == 5
        assert await other.aio.names() == []
        async with other.aio.hold("a"):
            with pytest.raises(NotLocked):
                await work(5)

    for locks in (lockman, lockman.aio):
        work = made(locks)
        assert inspect.iscoroutinefunction(work)
        asyncio.run(main(work))


def test_an_async_generator_holds_its_lock_until_its_end(lockman, other):
    closed = []

    @lockman.locked("a", blocking=False)
    async def rows():
        try:
            got = yield 1
            yield got
        except KeyError:
            yield "caught"
        finally:
            closed.append(await other.aio.names())

    async def main():
        running = rows()
        assert await other.aio.names() == []
        assert await running.asend(None) == 1 and await other.aio.names() == ["a"]
        assert await running.asend("sent") == "sent"
        assert await running.athrow(KeyError) == "caught"
        assert [each async for each in running] == []
        assert await other.aio.names() == [] and closed.pop() == ["a"]
        left = rows()
        assert await left.asend(None) == 1
        await left.aclose()
        assert await other.aio.names() == [] and closed.pop() == ["a"]
        async with other.aio.hold("a"):
            with pytest.raises(NotLocked):
                await rows().asend(None)

    asyncio.run(main())
    assert inspect.isasyncgenfunction(rows)


class Job:
    def __init__(self, number):
        self.number = number


def test_methods_of_every_kind_hold_their_lock(lockman, other):
    class Jobs:
        @lockman.locked("job/{self.number}", blocking=False)
        def run(self):
            return other.names()

        @lockman.locked("static/{number}", blocking=False)
        @staticmethod
        def static(number):
            return other.names()

        @classmethod
        @lockman.locked("class/{cls.__name__}", blocking=False)
        def of_class(cls):
            return other.names()

        @lockman.locked("outer", blocking=False)
        @classmethod
        def outer(cls):
            return cls, other.names()

        number = 7

    assert Jobs().run() == ["job/7"] and Jobs.static(3) == Jobs().static(3) == ["static/3"]
    assert Jobs.of_class() == ["class/Jobs"] and Jobs.outer() == (Jobs, ["outer"])


def test_a_command_of_a_class_holds_its_lock(lockman, other):
    @lockman.locked("command", blocking=False, on_busy="skip")
    class Command:
        def execute(self, value):
            return value, other.names()

    assert Command().execute(2) == (2, ["command"])
    with other.hold("command"):
        assert Command().execute(2) is None


def test_names_are_made_of_arguments(lockman, other):
    seen = []

    def work(order_id, part=1, *rest, **more):
        seen.extend(other.names())

    def named(name, *args, **kwargs):
        lockman.locked(name)(work)(*args, **kwargs)
        return seen.pop()

    assert named("order/{order_id}", 5) == "order/5"
    assert named("order/{order_id}/{part}", order_id=5) == "order/5/1"
    assert named("{order_id.number:03}", Job(7)) == "007"
    assert named("{order_id[key]!r}", {"key": "x"}) == "'x'"
    assert named("{tenant}", 1, tenant="them") == "them"
    assert named("{{order_id}}", 1) == "{order_id}"
    assert named(lambda order_id, **_: f"of {order_id}", 9) == "of 9"
    assert named(None, 1).endswith("test_names_are_made_of_arguments.<locals>.work")
    assert not seen and other.names() == []


def test_what_cannot_be_named_or_held_is_told_when_it_is_decorated(lockman):
    def work(order_id):
        raise AssertionError

    async def task():
        raise AssertionError

    for name in ("{order}", "{}", "{0}", "{order_id", "}"):
        with pytest.raises(InvalidOption, match="write {{"):
            lockman.locked(name)(work)
    for thing in (5, property(work), Job, "work"):
        with pytest.raises(TypeError, match="decorate"):
            lockman.locked("a")(thing)
    with pytest.raises(TypeError, match="work.* no coroutine function"):
        lockman.aio.locked("a")(work)
    with pytest.raises(TypeError, match="cancel_on_loss is for coroutine functions"):
        lockman.locked("a", cancel_on_loss=True)(work)
    with pytest.raises(InvalidOption, match="on_busy"):
        lockman.locked("a", on_busy="ignore")
    with pytest.raises(InvalidOption, match="timout"):
        lockman.locked("a", timout=5)
    for work_made_later in (lambda: task(), lambda: (_ for _ in ())):
        with pytest.raises(TypeError, match="without the lock"):
            lockman.locked("a")(work_made_later)()


def test_what_happens_when_busy(lockman, other, caplog):
    caplog.set_level(logging.INFO, "globallock")
    told = []

    def instead(*args, **kwargs):
        told.append((args, kwargs))
        return ["instead"]

    async def instead_async(value):
        return [value]

    async def main():
        async def task(value):
            raise AssertionError

        async def rows(value):
            raise AssertionError
            yield

        async def other_rows(value):
            yield value

        assert await lockman.locked("a", on_busy="skip", blocking=False)(task)(1) is None
        assert await lockman.locked("a", on_busy=instead, blocking=False)(task)(1) == ["instead"]
        assert await lockman.locked("a", on_busy=instead_async, blocking=False)(task)(1) == [1]
        skipped = lockman.locked("a", on_busy="skip", blocking=False)(rows)
        assert [row async for row in skipped(1)] == []
        replaced = lockman.locked("a", on_busy=other_rows, blocking=False)(rows)
        assert [row async for row in replaced(1)] == [1]

    def work(value, key=None):
        raise AssertionError

    def rows(value):
        raise AssertionError
        yield

    with other.hold("a"):
        assert lockman.locked("a", on_busy="skip", blocking=False)(work)(1) is None
        assert "'a' was not granted" in caplog.text and "work() is skipped" in caplog.text
        assert lockman.locked("a", on_busy=instead, blocking=False)(work)(1, key=2) == ["instead"]
        assert told.pop() == ((1,), {"key": 2})
        assert list(lockman.locked("a", on_busy="skip", blocking=False)(rows)(1)) == []
        assert list(lockman.locked("a", on_busy=instead, blocking=False)(rows)(1)) == ["instead"]
        asyncio.run(main())
    assert other.names() == [] and "never asked" not in caplog.text


@pytest.mark.parametrize("names", ["orders/7", b"orders/7", "", [], (), iter([])])
def test_several_locks_are_given_as_several_names(lockman, names):
    for locks in (lockman, lockman.aio):
        with pytest.raises(InvalidOption, match="lock_all.*(give a list of names|holds nothing)"):
            locks.lock_all(names)
        with pytest.raises(InvalidOption, match="timout"):
            locks.lock_all(["orders/7"], timout=5)
