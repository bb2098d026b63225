"""Views, functions and rows under a lock, by Django's test client and a real Redis."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import asyncio
import functools
import json
import sys
from io import StringIO

import frameworks
import pytest

frameworks.needs_framework("django")

import django
from django.core.management import BaseCommand, CommandError, call_command
from djangoproject import locks, project

from django.db import connection, models, transaction
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from globallock import InvalidName, InvalidOption, LockLost, NotLocked
from globallock.django import (
    get_shared_global_lock_manager,
    instance_name,
    lock_instance,
    locked,
    locked_instance,
    locked_view,
)


def told(request, **more):
    """What a view sees of its lock."""
    lock = request.global_lock
    return HttpResponse(json.dumps([lock.name, lock.is_locked, lock.fencing_token is not None]))


@locked_view("order/{number}")
def plain(request, number):
    return told(request)


@locked_view("order/{number}")
async def plain_async(request, number):
    await asyncio.sleep(0)
    return told(request)


@method_decorator(locked_view("order/{number}"), name="dispatch")
class Class(View):
    def get(self, request, number):
        return told(request)


@method_decorator(locked_view("order/{number}"), name="dispatch")
class AsyncClass(View):
    async def get(self, request, number):
        await asyncio.sleep(0)
        return told(request)


class Inside(View):
    @method_decorator(locked_view("order/{number}"))
    async def get(self, request, number):
        return told(request)


@locked_view
def unnamed(request):
    return told(request)


@method_decorator(locked_view, name="dispatch")
class Unnamed(View):
    def get(self, request):
        return told(request)


@locked_view("{request.method}/{colour}")
def wrong_field(request, **more):
    return told(request)


@locked_view("busy", on_busy=lambda request: HttpResponse("later", status=503), retry_after=7)
def own_answer(request):
    return told(request)


@locked_view("busy", retry_after=7, blocking_timeout=0.2)
def waits(request):
    return told(request)


@locked_view
def streams(request):
    return StreamingHttpResponse(iter(["made later"]))


@locked_view
def a_file(request):
    import io

    return FileResponse(io.BytesIO(b"made before"))


@locked_view
def hidden_coroutine(request):
    return plain_async(request, 1)


@locked_view
def atomic(request):
    return HttpResponse(connection.in_atomic_block)


@method_decorator(locked_view, name="dispatch")
class Atomic(View):
    def get(self, request):
        return HttpResponse(connection.in_atomic_block)


@transaction.non_atomic_requests
def not_atomic(request):
    return HttpResponse(connection.in_atomic_block)


#: Whether the transaction is over when another owner is granted the lock.
ended = []


@locked_view("commit")
def commits(request):
    transaction.on_commit(lambda: ended.append(get_shared_global_lock_manager().inspect("commit")[0].held))
    return HttpResponse()


urlpatterns = [
    path("plain/<int:number>", plain),
    path("plain-async/<int:number>", plain_async),
    path("class/<int:number>", Class.as_view()),
    path("async-class/<int:number>", AsyncClass.as_view()),
    path("as-view/<int:number>", locked_view("order/{number}")(AsyncClass.as_view())),
    path("inside/<int:number>", Inside.as_view()),
    path("unnamed", unnamed),
    path("unnamed-class", Unnamed.as_view()),
    path("wrong-field", wrong_field),
    path("own-answer", own_answer),
    path("waits", waits),
    path("streams", streams),
    path("file", a_file),
    path("hidden-coroutine", hidden_coroutine),
    path("atomic", atomic),
    path("atomic-class", Atomic.as_view()),
    path("not-atomic", locked_view(not_atomic)),
    path("async-class-atomic/<int:number>", AsyncClass.as_view()),
    path("commits", commits),
]


@pytest.fixture(autouse=True)
def urls(project):
    with override_settings(ROOT_URLCONF=__name__):
        yield


KINDS = ["plain", "plain-async", "class", "async-class"]
if django.VERSION >= (5, 2):
    # Before, Django's `method_decorator` is not for asynchronous methods.
    KINDS.append("inside")


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_holds_its_lock_and_a_second_request_is_answered_409(kind, locks):
    assert json.loads(Client().get(f"/{kind}/7").content) == ["order/7", True, True]
    with locks.lock("order/7") as lock:
        # The first request has released it.
        assert lock.is_locked
        answer = Client().get(f"/{kind}/7")
        assert (answer.status_code, answer["Retry-After"]) == (409, "1")
        assert json.loads(Client().get(f"/{kind}/8").content)[0] == "order/8"
        asynchronous = asyncio.run(AsyncClient().get(f"/{kind}/7"))
        assert (asynchronous.status_code, asynchronous["Retry-After"]) == (409, "1")
    assert json.loads(asyncio.run(AsyncClient().get(f"/{kind}/7")).content) == ["order/7", True, True]


def test_a_view_within_a_view_of_the_same_lock_finds_it_taken():
    assert Client().get("/as-view/7").status_code == 409


def test_a_view_without_a_name_has_that_of_its_function_or_class():
    assert json.loads(Client().get("/unnamed").content)[0] == f"{__name__}.unnamed"
    assert json.loads(Client().get("/unnamed-class").content)[0] == f"{__name__}.Unnamed"


def test_a_name_with_a_field_that_the_view_is_not_given_is_told():
    with pytest.raises(InvalidOption, match="names 'colour'; the view is given: request"):
        Client().get("/wrong-field")


def test_what_a_view_answers_while_it_is_busy_and_whether_it_waits(locks):
    with locks.lock("busy"):
        answer = Client().get("/own-answer")
        assert (answer.status_code, answer.content) == (503, b"later")
        answer = Client().get("/waits")
        assert (answer.status_code, answer["Retry-After"]) == (409, "7")
    assert Client().get("/waits").status_code == 200


def test_an_answer_that_is_made_after_the_release_is_refused():
    with pytest.raises(TypeError, match="streams returned a StreamingHttpResponse, whose body is made after"):
        Client().get("/streams")
    with pytest.raises(TypeError, match="has returned a coroutine, whose work would be done"):
        Client().get("/hidden-coroutine")
    assert b"".join(Client().get("/file").streaming_content) == b"made before"
    for wrong in ({"colour": "red"}, {"retry_after": -1}, {"on_busy": "skip"}):
        with pytest.raises(InvalidOption, match=next(iter(wrong))):
            locked_view("x", **wrong)
    with pytest.raises(TypeError, match="is a class: write @method_decorator"):
        locked_view("x")(Class)


def test_the_transaction_of_a_request_ends_before_its_lock_is_released(locks):
    before = connection.settings_dict["ATOMIC_REQUESTS"]
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert Client().get("/commits").status_code == 200 and ended == [True]
        assert locks.inspect("commit") == []
        assert Client().get("/atomic").content == Client().get("/atomic-class").content == b"True"
        assert Client().get("/not-atomic").content == b"False"
        with pytest.raises(RuntimeError, match="ATOMIC_REQUESTS"):
            Client().get("/async-class-atomic/1")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = before
    assert Client().get("/atomic").content == b"False"


def test_functions_are_locked_by_their_arguments(locks, name):
    @locked(f"{name}/{{number}}")
    def bill(number, *, tax=1):
        return number + tax, locks.inspect(f"{name}/{number}")[0].held

    @locked(f"{name}/{{number}}", on_busy="skip")
    async def bill_async(number, **more):
        return number, (await locks.aio.inspect(f"{name}/{number}"))[0].held

    @locked(f"{name}/{{number}}", on_busy=lambda number: -number)
    def or_else(number):
        return number

    @locked(f"{name}/{{last}}")
    def numbers(last):
        for number in range(last):
            yield number, locks.inspect(f"{name}/{last}")[0].held

    assert list(numbers(2)) == [(0, True), (1, True)] and locks.inspect(f"{name}/2") == []
    assert bill(1) == (2, True) and asyncio.run(bill_async(1)) == (1, True) and or_else(1) == 1
    with locks.lock(f"{name}/1"):
        with pytest.raises(NotLocked, match=f"{name}/1"):
            bill(number=1)
        assert asyncio.run(bill_async(1)) is None and or_else(1) == -1
        assert bill(2) == (3, True)
    assert locks.inspect(f"{name}/1") == []


def by_number(number):
    return f"by-number/{number}"


def test_a_function_that_makes_the_name_is_not_taken_for_what_is_decorated(locks):
    def local(number):
        return by_number(number)

    def made():
        def inner(number):
            return by_number(number)

        return inner

    class Names:
        by_number = staticmethod(by_number)

    for make in (lambda number: by_number(number), local, Names.by_number, Names().by_number, made()):
        assert locked(make) and locked(made()) and locked(functools.partial(by_number))

        @locked(make)
        def bill(number):
            return locks.inspect(f"by-number/{number}")[0].held

        assert bill(7) is True
        with locks.lock("by-number/7"), pytest.raises(NotLocked, match="by-number/7"):
            bill(number=7)
    with pytest.raises(TypeError, match="give that of a command as a text"):
        locked(by_number)(type("Command", (BaseCommand,), {}))


def test_a_function_that_is_decorated_without_parentheses_is_refused_at_once():
    with pytest.raises(TypeError, match=r"bare\(\) is decorated by @locked without parentheses"):

        @locked
        def bare(number):
            raise AssertionError("runs without its lock")

    with pytest.raises(TypeError, match=r"write @locked\(\)"):

        class Shop:
            @locked
            async def bare(self, number):
                raise AssertionError("runs without its lock")

    def other(function):
        @functools.wraps(function)
        def run(*arguments):
            return function(*arguments)

        return run

    with pytest.raises(TypeError, match=r"write @locked\(\)"):

        @locked
        @other
        def bare_above_another(number):
            raise AssertionError("runs without its lock")

    if sys.version_info >= (3, 12):
        with pytest.raises(TypeError, match=r"write @locked\(\)"):
            exec("@locked\ndef bare[T](number: T) -> T: ...", {"locked": locked, "__name__": "bare"})
    # What does not show it is refused when it is called.
    hidden = locked(by_number)
    with pytest.raises(TypeError, match=r"write @locked\(\)"):
        hidden(7)


def test_a_coroutine_function_is_cancelled_when_its_lock_is_lost(locks, name):
    @locked(name, cancel_on_loss=True)
    async def work():
        await locks.aio.evict(name, (await locks.aio.inspect(name))[0])
        await asyncio.sleep(60)
        raise AssertionError("goes on without its lock")

    with pytest.raises(LockLost):
        asyncio.run(work())
    with pytest.raises(TypeError, match="nothing can cancel"):
        locked(name, cancel_on_loss=True)(lambda: None)
    with pytest.raises(TypeError, match="nothing can cancel"):
        locked(name, cancel_on_loss=True)(type("Command", (BaseCommand,), {}))
    with pytest.raises(InvalidOption, match="cancel_on_loss"):
        locked(name, cancel_on_loss=1)

    class Row:
        @locked_instance(cancel_on_loss=True)
        async def work(self):
            pass

    with pytest.raises(TypeError, match="nothing can cancel"):
        locked_instance(cancel_on_loss=True)(lambda self: None)


def test_what_cannot_hold_a_lock_is_refused_when_it_is_decorated():
    async def numbers():
        yield 1

    for generator in (lambda: (yield), numbers):
        with pytest.raises(TypeError, match="is a generator: read the instance again in it"):
            locked_instance(refresh=True)(generator)
    with pytest.raises(TypeError, match="has no execute"):
        locked("x")(Class)
    with pytest.raises(TypeError, match="a lock cannot be held by a int"):
        locked("x")(7)
    with pytest.raises(InvalidOption, match="has the field {colour}"):
        locked("x/{colour}")(lambda number: number)
    with pytest.raises(InvalidOption, match="a function has none"):
        locked("x", exit_status=3)(lambda: None)
    with pytest.raises(InvalidOption, match="on_busy"):
        locked("x", on_busy="wait")
    with pytest.raises(InvalidOption, match="has no option 'colour'"):
        locked("x", colour="red")
    with pytest.raises(TypeError, match="has returned a coroutine"):
        locked("x")(lambda: plain_async(None, 1))()


def test_what_a_command_does_instead_while_it_is_busy(locks, name):
    def made(**options):
        class Command(BaseCommand):
            def handle(self, *arguments, **options):
                return "done"

        return locked(name, **options)(Command)()

    assert call_command(made(on_busy="skip")) == "done"
    with locks.lock(name):
        assert call_command(made(on_busy="skip")) is None
        assert call_command(made(on_busy=lambda command, **options: "later")) == "later"
        with pytest.raises(NotLocked, match=name):
            call_command(made(on_busy="raise"))
        with pytest.raises(CommandError, match="is running already") as raised:
            call_command(made(exit_status=9))
        assert raised.value.returncode == 9
        told = StringIO()
        assert call_command(made(), stderr=told) is None and "is running already" in told.getvalue()
        assert call_command(made(blocking_timeout=0.2), stderr=told) is None
    members = {"handle": lambda self, **options: "done", "__module__": name}
    bare = locked(type("Command", (BaseCommand,), members))
    with locks.lock(name):
        assert call_command(bare(), stderr=told) is None
    assert call_command(bare()) == "done"
    for wrong in ({"exit_status": 256}, {"exit_status": True}):
        with pytest.raises(InvalidOption, match="exit_status"):
            made(**wrong)


def test_one_manager_serves_the_process_until_the_settings_change():
    one = get_shared_global_lock_manager()
    assert get_shared_global_lock_manager() is one
    with override_settings(CACHES={}):
        assert get_shared_global_lock_manager() is not one


def test_a_row_has_one_name():
    from djangoapp.models import Order, Page, Place, Restaurant, Ticket, UrgentOrder

    order = Order.objects.create()
    wanted = f"djangoapp.order/{order.pk}"
    assert instance_name(order) == instance_name(Order, pk=order.pk) == wanted
    assert instance_name(Order, pk=str(order.pk)) == wanted
    assert instance_name(UrgentOrder.objects.get(pk=order.pk)) == wanted
    restaurant = Restaurant.objects.create()
    assert instance_name(restaurant) == instance_name(Place.objects.get(pk=restaurant.pk))
    ticket = Ticket.objects.create()
    assert instance_name(Ticket, pk=ticket.pk.hex) == instance_name(ticket) == f"djangoapp.ticket/{ticket.pk}"
    # No two rows share a name, whatever their keys contain.
    assert instance_name(Page, pk="a/b@east") == "djangoapp.page/a%2Fb%40east"
    assert instance_name(Page, pk="a", using="east") == "djangoapp.page/a@east"
    # A row that was read from another database is the same row, unless somebody says that it is not.
    order._state.db = "replica"
    assert instance_name(order) == wanted and instance_name(order, using="east") == f"{wanted}@east"


def test_a_row_of_several_keys_has_one_name():
    composite = getattr(models, "CompositePrimaryKey", None)
    if composite is None:
        pytest.skip("Django has them from 5.2 on")

    class Line(models.Model):
        pk = composite("order", "place")
        order = models.CharField(max_length=9)
        place = models.IntegerField()

        class Meta:
            app_label = "djangoapp"
            managed = False

    assert instance_name(Line, pk=("a,b", 2)) == "djangoapp.line/a%2Cb,2"
    assert instance_name(Line, pk=["a,b", "2"]) == "djangoapp.line/a%2Cb,2"
    with pytest.raises(InvalidName, match="no whole primary key"):
        instance_name(Line, pk=("a",))


def test_what_has_no_row_is_refused():
    from djangoapp.models import Order, Ticket

    for unsaved in (Order(), Ticket(), Order(pk=7)):
        with pytest.raises(InvalidName, match="is not saved yet"):
            lock_instance(unsaved)
    with pytest.raises(InvalidName, match="names no row: give pk"):
        lock_instance(Order)
    with pytest.raises(InvalidName, match="is no model"):
        lock_instance("order")
    with pytest.raises(InvalidName, match="give no pk"):
        lock_instance(Order.objects.create(), pk=7)


def test_methods_of_a_model_hold_the_lock_of_their_row(locks):
    from djangoapp.models import Order

    order, other = Order.objects.create(), Order.objects.create()
    Order.objects.filter(pk=order.pk).update(state="paid")
    # It was read before, and is read again under the lock.
    assert order.ship() == "paid, shipped"
    with lock_instance(order) as lock:
        assert lock.is_locked
        with pytest.raises(NotLocked, match=f"djangoapp.order/{order.pk}"):
            order.ship()
        assert asyncio.run(order.bill()) == f"{order.pk} is busy"
        assert other.ship() == "new, shipped"
    assert asyncio.run(order.bill()) == f"{order.pk} is billed"
    assert locks.inspect(instance_name(order)) == []
