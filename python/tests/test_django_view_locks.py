"""How the lock of a view is named, what becomes of a wrong name, and what a loss does to a view."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import asyncio
from datetime import timedelta

import frameworks
import pytest

frameworks.needs_framework("django")

from djangoproject import locks, project
from asgiref.sync import async_to_sync

from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from globallock import InvalidName, InvalidOption, LockLost
from globallock.django import get_shared_global_lock_manager, locked_view


@locked_view("cart/{request.user.pk}")
def cart(request):
    return HttpResponse(request.global_lock.name)


@locked_view("cart/{request.user.pk}")
async def cart_async(request):
    return HttpResponse(request.global_lock.name)


@method_decorator(locked_view("cart/{request.user.pk}"), name="dispatch")
class AsyncCart(View):
    async def get(self, request):
        return HttpResponse(request.global_lock.name)


@locked_view("file/{where}")
def of_path(request, where):
    return HttpResponse(request.global_lock.name)


@locked_view("file/{where}")
async def of_path_async(request, where):
    return HttpResponse(request.global_lock.name)


@locked_view("file/{where}")
def raises_itself(request, where):
    raise InvalidName("of the view")


@locked_view("{request.usr.pk}")
def wrong_attribute(request):
    raise AssertionError("runs without its lock")


async def evicted(request):
    """Loses its lock, and goes on."""
    lockman = get_shared_global_lock_manager().aio
    await lockman.evict("evicted", (await lockman.inspect("evicted"))[0])
    await asyncio.sleep(60)
    raise AssertionError("goes on without its lock")


@method_decorator(locked_view("evicted", cancel_on_loss=True), name="dispatch")
class Evicted(View):
    async def get(self, request):
        return await evicted(request)


@method_decorator(locked_view("evicted", cancel_on_loss=True), name="dispatch")
class NotAsync(View):
    def get(self, request):
        raise AssertionError("nothing would cancel it")


urlpatterns = [
    path("cart", cart),
    path("cart-async", cart_async),
    path("cart-class", AsyncCart.as_view()),
    path("file/<path:where>", of_path),
    path("file-async/<path:where>", of_path_async),
    path("raises/<path:where>", raises_itself),
    path("wrong-attribute", wrong_attribute),
    path("evicted", locked_view("evicted", cancel_on_loss=True)(evicted)),
    path("evicted-class", Evicted.as_view()),
    path("not-async", NotAsync.as_view()),
]


@pytest.fixture(autouse=True)
def urls(project):
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture(scope="module")
def user(project):
    from django.contrib.auth.models import User

    return User.objects.create_user("of the carts")


@pytest.mark.parametrize("kind", ["cart", "cart-async", "cart-class"])
def test_the_user_of_a_request_names_the_lock_of_any_view(kind, user, locks):
    client, async_client = Client(), AsyncClient()
    client.force_login(user)
    async_client.force_login(user)
    # In this thread, whose database in memory has the tables.
    for get in (client.get, async_to_sync(async_client.get)):
        assert get(f"/{kind}").content.decode() == f"cart/{user.pk}"
        with locks.lock(f"cart/{user.pk}"):
            assert get(f"/{kind}").status_code == 409


@pytest.mark.parametrize("kind", ["file", "file-async"])
def test_an_address_that_cannot_be_a_name_is_answered_400(kind):
    assert Client().get(f"/{kind}/a").content == b"file/a"
    for wrong in ("x" * 600, "a%00b"):
        assert Client().get(f"/{kind}/{wrong}").status_code == 400
        assert asyncio.run(AsyncClient().get(f"/{kind}/{wrong}")).status_code == 400


def test_a_wrong_name_that_no_address_is_to_blame_for_is_an_error(project):
    with pytest.raises(InvalidName, match="of the view"):
        Client().get("/raises/a")
    with pytest.raises(InvalidOption, match="'{request.usr.pk}'.*no attribute 'usr'"):
        Client().get("/wrong-attribute")
    with pytest.raises(InvalidName):
        locked_view("x" * 600)(lambda request: None)(RequestFactory().get("/"))


def test_a_mistyped_field_is_told_when_the_view_is_decorated():
    def by_number(request, number, *, page=1):
        raise AssertionError("is not called")

    for right in ("{number}/{page}", "{request.method}", "{0}", "{{x}}"):
        assert locked_view(right)(by_number)
    with pytest.raises(InvalidOption, match="names 'nmber'.*did you mean 'number'"):
        locked_view("order/{nmber}")(by_number)
    with pytest.raises(InvalidOption, match="names '1'"):
        locked_view("order/{1}")(by_number)
    with pytest.raises(InvalidOption, match="names 'colour'; the view is given: request, page"):
        locked_view("order/{colour}")(lambda request, /, *, page: None)
    with pytest.raises(InvalidOption, match="write {{ for a brace"):
        locked_view("order/{number")
    with pytest.raises(InvalidOption, match="has no name"):
        locked_view("order/{}")
    # What these are given is known at the request.
    assert locked_view("{colour}/{3}")(lambda request, *arguments, **keywords: None)


def test_what_is_no_name_of_a_views_lock_is_refused():
    def by_request(request):
        raise AssertionError("is taken for a view, and called with one")

    async def by_request_async(request):
        raise AssertionError("is taken for a view, and called with one")

    with pytest.raises(TypeError, match="give the name as a text"):
        locked_view(by_request)(evicted)
    with pytest.raises(TypeError, match="give the name as a text"):
        asyncio.run(locked_view(by_request_async)(evicted))
    with pytest.raises(TypeError, match="give the name as a text"):
        locked_view(by_request, retry_after=5)
    with pytest.raises(TypeError, match="give the name as a text"):
        locked_view(by_request, blocking=False)
    with pytest.raises(InvalidName, match="of type int"):
        locked_view(5)


def test_the_header_takes_any_time_and_rounds_it_up(locks):
    for given, wanted in ((timedelta(minutes=2), "120"), (1.2, "2"), (0, "0"), (7, "7")):
        view = locked_view("later", retry_after=given)(lambda request: HttpResponse())
        with locks.lock("later"):
            assert view(RequestFactory().get("/"))["Retry-After"] == wanted
    for wrong in (-1, True, "5", None):
        with pytest.raises(InvalidOption, match="retry_after"):
            locked_view("x", retry_after=wrong)


@pytest.mark.parametrize("kind", ["evicted", "evicted-class"])
def test_an_asynchronous_view_is_cancelled_when_its_lock_is_lost(kind):
    with pytest.raises(LockLost):
        asyncio.run(AsyncClient().get(f"/{kind}"))
    answer = asyncio.run(AsyncClient(raise_request_exception=False).get(f"/{kind}"))
    assert answer.status_code == 500


def test_a_view_that_nothing_can_cancel_is_refused():
    with pytest.raises(TypeError, match="nothing can cancel"):
        locked_view("x", cancel_on_loss=True)(lambda request: None)
    with pytest.raises(TypeError, match="nothing can cancel"):
        Client().get("/not-async")
    with pytest.raises(InvalidOption, match="cancel_on_loss"):
        locked_view("x", cancel_on_loss=1)
