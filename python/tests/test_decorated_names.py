"""The lock of a decorated function is named by the arguments that it really gets, or is refused."""

import asyncio
import contextlib
import functools

import pytest
from globallock import InvalidName, InvalidOption


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        began = len(args)
        try:
            return function(*args, **kwargs)
        finally:
            print("called with", args, began)

    return wrapper


def logged_task(function):
    @functools.wraps(function)
    async def wrapper(*a, **k):
        await asyncio.sleep(0)
        result = await function(*a, **k)
        print(result, a)
        return result

    return wrapper


class Atomic(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


@pytest.mark.parametrize(
    "decorate",
    [logged, functools.lru_cache, Atomic(), functools.singledispatch, lambda work: logged(Atomic()(work))],
)
def test_a_decorator_that_passes_its_arguments_on_is_seen_through(lockman, other, decorate):
    def work(order_id, part=1):
        return other.names()

    assert lockman.locked("order/{order_id}/{part}")(decorate(work))(7) == ["order/7/1"]
    assert lockman.locked("order/{order_id}")(functools.partial(decorate(work), part=2))(8) == ["order/8"]


def test_so_is_a_decorator_of_a_task_a_method_and_of_this_package(lockman, other):
    @lockman.locked("order/{order_id}")
    @logged_task
    async def work(order_id):
        return await other.aio.names()

    assert asyncio.run(work(7)) == ["order/7"]

    class Orders:
        @logged
        def ship(self, order_id):
            return other.names()

    assert lockman.locked("order/{order_id}")(Orders().ship)(7) == ["order/7"]
    assert lockman.locked("order/{self.__class__.__name__}")(Orders.ship)(Orders(), 7) == ["order/Orders"]

    @lockman.locked("outer/{order_id}")
    @lockman.locked("inner/{order_id}")
    def both(order_id):
        return other.names()

    assert both(7) == ["inner/7", "outer/7"]


def injected(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("user", *args, **kwargs)

    return wrapper


def injected_by_keyword(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, order_id=1, **kwargs)

    return wrapper


def changed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args = args[1:]
        return function(*args, **kwargs)

    return wrapper


def popped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        kwargs.pop("order_id", None)
        return function(*args, **kwargs)

    return wrapper


def merged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **{**kwargs, "order_id": 1})

    return wrapper


def sometimes(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) if args else function(1)

    return wrapper


def by_another(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        def later():
            return function(*args, **kwargs)

        return later()

    return wrapper


def around_another(function):
    inner = functools.partial(function, "user")

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return inner(*args, **kwargs)

    return wrapper


class Callable:
    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __call__(self, *args, **kwargs):
        return self.__wrapped__("user", *args, **kwargs)


INJECTING = [
    injected, injected_by_keyword, changed, popped, merged, sometimes, by_another, around_another, Callable,
]  # fmt: skip


@pytest.mark.parametrize("decorate", INJECTING)
def test_a_decorator_that_may_change_the_arguments_is_refused_with_what_to_do(lockman, other, decorate):
    def work(user, order_id=None):
        return other.names()

    for made in (decorate(work), functools.partial(decorate(work)), logged(decorate(work))):
        with pytest.raises(InvalidOption, match="order_id.*put @locked below it, or give a function"):
            lockman.locked("order/{order_id}")(made)
    assert lockman.locked(lambda *args, **_: f"order/{len(args)}")(logged(work))(7) == ["order/1"]
    assert lockman.locked("fixed")(logged(work))(7) == ["fixed"]


def test_a_parameter_of_the_outer_function_itself_is_used(lockman, other):
    def inject(function):
        @functools.wraps(function)
        def wrapper(tenant, *args, **kwargs):
            return function("user", *args, **kwargs)

        return wrapper

    @inject
    def work(user, order_id):
        return other.names()

    assert lockman.locked("of/{tenant}")(work)("them", 7) == ["of/them"]
    with pytest.raises(InvalidOption, match="below it"):
        lockman.locked("of/{order_id}")(work)


def test_a_positional_parameter_wins_over_a_keyword_of_its_name(lockman, other):
    def work(order_id, /, **more):
        return other.names()

    assert lockman.locked("order/{order_id}")(work)(1, order_id=2) == ["order/1"]


def test_a_name_that_cannot_be_made_is_told_in_the_words_of_its_user(lockman):
    def work(order_id, **more):
        raise AssertionError

    with pytest.raises(InvalidName, match="'order/{tenant}' needs the argument 'tenant'"):
        lockman.locked("order/{tenant}")(work)(1)
    with pytest.raises(InvalidOption, match="a field in the field {order_id}"):
        lockman.locked("order/{order_id:{width}}")(work)


def test_the_default_name_of_a_partial_is_that_of_its_function(lockman, other):
    def work(order_id):
        return other.names()

    [name] = lockman.locked()(functools.partial(functools.partial(work), 5))()
    assert name.endswith("default_name_of_a_partial_is_that_of_its_function.<locals>.work")
