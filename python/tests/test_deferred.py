"""What is left to be done after a function has returned never runs without its lock, or as if it had run."""

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import sqlite3

import pytest
from globallock import InvalidOption


class Awaitable:
    def __await__(self):
        raise AssertionError("it runs without the lock")
        yield


class Rows:
    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("it runs without the lock")


class AsyncRows:
    def __aiter__(self):
        return self

    async def __anext__(self):
        raise AssertionError("it runs without the lock")


async def coroutine():
    raise AssertionError("it runs without the lock")


async def async_rows():
    raise AssertionError("it runs without the lock")
    yield


def rows():
    raise AssertionError("it runs without the lock")
    yield


LATER = {
    "coroutine": coroutine,
    "async generator": async_rows,
    "generator": rows,
    "awaitable": Awaitable,
    "iterator": Rows,
    "async iterator": AsyncRows,
    "map": lambda: map(rows, [1]),
    "filter": lambda: filter(rows, [1]),
    "zip": lambda: zip(rows()),
    "chain": lambda: itertools.chain(rows()),
    "future": concurrent.futures.Future,
    "context manager": lambda: contextlib.contextmanager(rows)(),
    "async context manager": lambda: contextlib.asynccontextmanager(async_rows)(),
}


@pytest.mark.parametrize("later", LATER)
def test_a_function_that_leaves_its_work_for_later_is_refused(lockman, other, later):
    made = []

    def work():
        made.append(LATER[later]())
        return made[-1]

    async def task():
        return work()

    for run in (lockman.locked("a")(work), lambda: asyncio.run(lockman.locked("a")(task)())):
        with pytest.raises(TypeError, match="without the lock"):
            run()
    assert other.names() == []
    if later == "future":
        assert all(each.cancelled() for each in made), "what could be stopped is stopped"


@pytest.mark.parametrize("later", LATER)
def test_work_that_was_left_for_later_is_not_recorded_as_done(lockman, later):
    async def task():
        return LATER[later]()

    once, once_aio = lockman.once("a", every=60), lockman.aio.once("b", every=60)
    with pytest.raises(InvalidOption, match="'a'"):
        once.run(lambda: LATER[later]())
    with pytest.raises(InvalidOption, match="'b'"):
        asyncio.run(once_aio.run(task))
    assert once.run(lambda: 5).value == 5, "it is still due"

    async def five():
        return 5

    assert asyncio.run(once_aio.run(five)).value == 5


def test_a_task_that_is_left_for_later_is_refused_and_stopped(lockman):
    async def main():
        @lockman.locked("a")
        async def work():
            task = asyncio.ensure_future(coroutine())
            made.append(task)
            return task

        with pytest.raises(TypeError, match="Task.*without the lock"):
            await work()
        await asyncio.wait(made)
        assert made[0].cancelled()

    made = []
    asyncio.run(main())


def test_results_that_are_whole_are_returned_as_they_are(lockman, tmp_path):
    with open(tmp_path / "file", "w+") as file, contextlib.closing(sqlite3.connect(":memory:")) as database:
        for number, value in enumerate(
            ([1], {1: 2}, "text", None, range(3), file, database.cursor(), rows, Awaitable)
        ):
            assert lockman.locked("a")(lambda value=value: value)() is value
            assert lockman.once(f"{number}", every=60).run(lambda value=value: value).value is value


def test_context_managers_hold_their_lock_over_the_block(lockman, other):
    @contextlib.contextmanager
    @lockman.locked("a/{number}", blocking=False)
    def block(number):
        yield other.names()

    @contextlib.asynccontextmanager
    @lockman.aio.locked("a/{number}", blocking=False)
    async def async_block(number):
        yield await other.aio.names()

    with block(1) as names:
        assert names == other.names() == ["a/1"]
    with pytest.raises(KeyError), block(2):
        raise KeyError

    async def main():
        async with async_block(3) as names:
            assert names == await other.aio.names() == ["a/3"]
        with pytest.raises(KeyError):
            async with async_block(4):
                raise KeyError

    asyncio.run(main())
    assert other.names() == []


def test_a_lock_around_the_making_of_a_context_manager_is_refused_when_decorated(lockman):
    for made in (contextlib.contextmanager(rows), contextlib.asynccontextmanager(async_rows)):
        for locks in (lockman, lockman.aio):
            with pytest.raises(TypeError, match="put @(async)?contextmanager above @locked"):
                locks.locked("a")(made)
        with pytest.raises(InvalidOption, match="context manager"):
            lockman.once("a", every=60)(made)
        with pytest.raises(TypeError, match="contextmanager above @locked"):
            lockman.locked("a")(functools.partial(made))
