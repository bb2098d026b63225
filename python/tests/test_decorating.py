"""What is wrong in a decoration is told when it is written, and what happens when busy fits the function."""

import asyncio
import functools

import pytest
from globallock import InvalidOption


def names_of(number):
    return f"of {number}"


def test_a_decorator_without_parentheses_is_refused_at_once(lockman):
    decorate = functools.partial(pytest.raises, TypeError, match=r"write @.*locked\(\)")
    with decorate():

        @lockman.locked
        def work(number):
            raise AssertionError

    with decorate():

        @lockman.aio.locked
        async def task(number):
            raise AssertionError

    with decorate():

        @lockman.locked
        class Command:
            def execute(self):
                raise AssertionError

    with decorate():

        class Orders:
            @lockman.locked
            @functools.lru_cache  # noqa: B019
            def ship(self):
                raise AssertionError

            @lockman.locked
            @staticmethod
            def pack():
                raise AssertionError

    with decorate():
        exec("@lockman.locked\ndef work(number):\n    raise AssertionError", {"lockman": lockman})


def test_a_function_that_makes_the_name_is_none(lockman, other):
    def local_names(number):
        return f"local {number}"

    class Names:
        def __call__(self, number):
            return f"object {number}"

        def method(self, number):
            return f"method {number}"

    makers = {
        "of 7": names_of, "local 7": local_names, "lambda 7": lambda number: f"lambda {number}",
        "object 7": Names(), "method 7": Names().method, "7": "{}".format,
    }  # fmt: skip
    for name, make in makers.items():

        @lockman.locked(make)
        def work(number):
            return other.names()

        assert work(7) == [name]
    space = {"lockman": lockman}
    # As in an interpreter, where each input has the same file and begins with line 1.
    exec("def make(number): return 'typed'", space)
    exec("work = lockman.locked(make)(lambda number: number)", space)
    assert space["work"](7) == 7


def test_execute_may_be_a_static_or_a_class_method(lockman, other):
    class Base:
        @classmethod
        def execute(cls, value):
            return cls, value, other.names()

    @lockman.locked("a")
    class Static:
        @staticmethod
        def execute(value):
            return value, other.names()

    @lockman.locked("a")
    class Inheriting(Base):
        pass

    assert Static().execute(2) == Static.execute(2) == (2, ["a"])
    assert Inheriting().execute(2) == Inheriting.execute(2) == (Inheriting, 2, ["a"])
    assert Base().execute(2) == (Base, 2, []), "its base holds no lock"

    class Other:
        execute = functools.partial(print)

    with pytest.raises(TypeError, match="Other.*execute"):
        lockman.locked("a")(Other)


async def task(value):
    raise AssertionError


async def async_rows(value):
    raise AssertionError
    yield


def work(value):
    raise AssertionError


def rows(value):
    raise AssertionError
    yield


class Task:
    async def __call__(self, value):
        raise AssertionError


def test_what_is_called_instead_must_fit_the_function(lockman):
    unfit_ones = {work: (task, async_rows, Task()), rows: (task, async_rows), task: (async_rows,)}
    for function, unfit in unfit_ones.items():
        for instead in unfit:
            with pytest.raises(TypeError, match="on_busy"):
                lockman.locked("a", on_busy=instead)(function)
    for function, fit in ((work, (work,)), (rows, (rows, work)), (task, (task, work, Task()))):
        for instead in fit:
            lockman.locked("a", on_busy=instead)(function)


def test_an_async_generator_takes_whatever_gives_its_values_instead(lockman, other):
    async def listed(value):
        return [value]

    async def yielded(value):
        yield value

    async def of_another(value):
        return yielded(value)

    async def none(value):
        return None

    def plain(value):
        yield value

    async def taken(instead):
        return [each async for each in lockman.locked("a", blocking=False, on_busy=instead)(async_rows)(1)]

    async def main():
        for instead in (listed, yielded, of_another, plain, lambda value: [value], lambda value: {value}):
            assert await taken(instead) == [1]
        assert await taken(none) == await taken(lambda value: None) == []
        for instead in (lambda value: "text", lambda value: b"text", lambda value: 5):
            with pytest.raises(TypeError, match="on_busy.*async_rows"):
                await taken(instead)

    with other.hold("a"):
        asyncio.run(main())


def test_a_text_or_what_is_to_be_awaited_is_not_taken_for_values(lockman, other):
    async def later():
        raise AssertionError

    with other.hold("a"):
        for given in ("text", b"text", 5, later):
            instead = lambda value, given=given: given() if callable(given) else given  # noqa: E731
            with pytest.raises(TypeError, match="on_busy.*rows"):
                list(lockman.locked("a", blocking=False, on_busy=instead)(rows)(1))
        with pytest.raises(TypeError, match="on_busy.*work"):
            lockman.locked("a", blocking=False, on_busy=lambda value: later())(work)(1)


def test_the_options_of_all_kinds_are_checked_when_they_are_made(lockman):
    for locks in (lockman, lockman.aio):
        for made in (
            lambda locks=locks: locks.once("a", 5, timout=1),
            lambda locks=locks: locks.rwlock("a", timout=1),
            lambda locks=locks: locks.locked("a", timout=1),
        ):
            with pytest.raises(InvalidOption, match="timout"):
                made()
    with pytest.raises(InvalidOption, match="blocking_timeout"):
        lockman.once("a", 5, blocking_timeout="soon")
    with pytest.raises(InvalidOption, match="hold_at_least"):
        lockman.rwlock("a", timeout=5, hold_at_least=9)
    for options in ({"capacity": 3}, {"permits": 1}, {"kind": "read", "capacity": 1}):
        with pytest.raises(InvalidOption, match="kind='permits'"):
            lockman.lock("a", **options)
    assert lockman.lock("a", kind="permits", capacity=3).acquire()
