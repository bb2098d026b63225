"""The names of the locks that requests hold, and what is refused where it is written."""

import asyncio
import enum
import functools
import uuid
from datetime import datetime
from decimal import Decimal

import pytest
from frameworks import needs_framework

needs_framework("fastapi", "httpx")

from fastapi import APIRouter, Depends, FastAPI, Path, WebSocket  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from globallock import GlobalLockManager, InvalidName, InvalidOption, testing  # noqa: E402
from globallock.fastapi import holding, leader, locked  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402


class Colour(str, enum.Enum):
    RED = "red"


@pytest.fixture
def app(locks):
    app = FastAPI()
    app.state.lockman = locks.lockman
    return app


@pytest.mark.parametrize(
    ("kind", "spellings", "name"),
    [
        (int, ("7", "07", "+7", " 7", "7.0", "0007"), "order/7"),
        (
            uuid.UUID,
            (
                "12345678-1234-5678-1234-56781234ABCD", "1234567812345678123456781234abcd",
                "{12345678-1234-5678-1234-56781234abcd}", "urn:uuid:12345678-1234-5678-1234-56781234abcd",
            ),
            "order/12345678-1234-5678-1234-56781234abcd",
        ),
        (bool, ("1", "true", "ON"), "order/True"),
        (float, ("7", "7.0", "70e-1"), "order/7.0"),
        (float, ("0", "-0"), "order/0.0"),
        (Decimal, ("7", "7.00", "70e-1"), "order/7"),
        (Decimal, ("700", "7e2"), "order/700"),
        (datetime, ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00"), "order/2026-01-01 00:00:00+00:00"),
        (Colour, ("red",), "order/red"),
        (str, ("07",), "order/07"),
    ],
)  # fmt: skip
def test_a_value_has_one_name_however_the_client_spells_it(app, locks, kind, spellings, name):
    async def ship(order_id, lock=Depends(locked("order/{order_id}"))):
        return lock.name

    ship.__annotations__["order_id"] = kind
    app.post("/orders/{order_id}")(ship)
    client = TestClient(app)
    for each in spellings:
        assert client.post(f"/orders/{each}").json() == name
    with locks.taken(name):
        assert {client.post(f"/orders/{each}").status_code for each in spellings} == {409}


def test_the_type_is_found_wherever_it_is_declared(app, locks):
    ship = Depends(locked("{shop}/{order}"))

    def an_order(order: int):
        return order

    router = APIRouter(prefix="/orders/{order}")

    @router.post("/typed", dependencies=[ship])
    async def typed(shop: int, order: int): ...

    @router.post("/alias", dependencies=[ship])
    async def alias(shop: int, number: int = Path(alias="order")): ...

    @router.post("/other", dependencies=[ship])
    async def other(shop: int, found: int = Depends(an_order)): ...

    @router.post("/deep", dependencies=[ship, Depends(an_order)])
    async def deep(shop: int): ...

    @router.post("/block")
    async def block(request: "Request", shop: int, order: int):  # noqa: F821
        async with holding(request, "{shop}/{order}"):
            pass

    @router.websocket("/live")
    async def live(socket: WebSocket, shop: int, order: int, lock=ship):
        await socket.accept()
        await socket.close()

    from starlette.requests import Request

    block.__annotations__["request"] = Request
    app.include_router(router, prefix="/shops/{shop}")
    client = TestClient(app)
    for path in ("typed", "alias", "other", "deep"):
        assert client.post(f"/shops/03/orders/07/{path}").status_code == 200
        assert locks.granted.pop() == "3/7", path
    with client.websocket_connect("/shops/03/orders/07/live"):
        pass
    assert locks.granted == ["3/7"]


def test_a_value_that_is_none_of_its_type_is_refused_before_a_lock_is_asked_for(app, locks):
    @app.post("/orders/{order_id}", dependencies=[Depends(locked("order/{order_id}"))])
    async def ship(order_id: int): ...

    @app.websocket("/live/{order_id}")
    async def live(socket: WebSocket, order_id: int, lock=Depends(locked("order/{order_id}"))): ...

    from starlette.websockets import WebSocketDisconnect

    client = TestClient(app)
    refused = client.post("/orders/seven")
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["path", "order_id"] and locks.granted == []
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/live/seven"):
        pass
    assert closed.value.code == 1008 and locks.granted == []


def test_parts_of_values_may_be_named(app, locks):
    @app.post("/days/{day}", dependencies=[Depends(locked("{day.year:05}/{day:%m}"))])
    async def report(day: datetime): ...

    assert TestClient(app).post("/days/2026-03-01T00:00:00").status_code == 200
    assert locks.granted == ["02026/03"]


def test_in_starlette_the_convertor_of_the_path_decides(locks):
    async def ship(request):
        async with holding(request, "order/{order_id}", lockman=locks.lockman) as lock:
            return PlainTextResponse(lock.name)

    client = TestClient(Starlette(routes=[
        Route("/orders/{order_id:int}", ship), Route("/raw/{order_id}", ship),
    ]))  # fmt: skip
    assert client.get("/orders/07").text == "order/7" and client.get("/raw/07").text == "order/07"


def test_a_name_of_a_block_that_is_too_long_is_a_bad_request(locks):
    async def ship(request):
        async with holding(request, "order/" + request.path_params["order_id"], lockman=locks.lockman):
            raise AssertionError

    client = TestClient(Starlette(routes=[Route("/orders/{order_id}", ship)]))
    assert client.get("/orders/" + "x" * 600).status_code == 400


def test_a_function_that_declares_no_type_keeps_the_text(app, locks):
    router = APIRouter()

    class Odd:
        __hash__ = None

        async def __call__(self): ...

    router.post("/odd", dependencies=[Depends(locked("{order}"))])(Odd())
    app.include_router(router, prefix="/orders/{order}")
    assert TestClient(app).post("/orders/07/odd").status_code == 200
    assert locks.granted == ["07"]


def test_a_part_that_a_value_does_not_have_is_told(app):
    @app.post("/days/{day}", dependencies=[Depends(locked("{day.yaer}"))])
    async def report(day: datetime): ...

    with pytest.raises(InvalidOption, match="cannot be made of the path: .*yaer"):
        TestClient(app).post("/days/2026-03-01T00:00:00")


def test_a_field_that_is_misspelt_is_told(app):
    @app.post("/orders/{order_id}", dependencies=[Depends(locked("order/{oder_id}"))])
    async def ship(order_id: int): ...

    with pytest.raises(InvalidOption, match="has the field 'oder_id', .*: did you mean 'order_id'"):
        TestClient(app).post("/orders/7")


WRONG = [
    ({"lock_tll": 5}, "has no option 'lock_tll': did you mean 'lock_ttl'"),
    ({"lock_ttl": -5}, "lock_ttl"),
    ({"timeout": "x"}, "the option timeout is of type str"),
    ({"kind": "wirte"}, "did you mean 'write'"),
    ({"cancel_on_loss": True}, "has no option 'cancel_on_loss'"),
]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        *WRONG,
        ({"retry_afer": 5}, r"locked\(\) has no option 'retry_afer': did you mean 'retry_after'"),
        ({"status_code": 4090}, "status_code is 4090: give one from 400 to 599"),
        ({"blocking_timeout": "x"}, "blocking_timeout"),
    ],
)
def test_options_of_requests_are_refused_where_they_are_written(locks, options, wrong):
    with pytest.raises(InvalidOption, match=wrong):
        locked("order/{order_id}", **options)
    with pytest.raises(InvalidOption, match=wrong):
        locked("order/{order_id}", lockman=locks.lockman, **options)


def test_a_configuration_may_have_what_an_option_needs():
    locked("order", grace=5)
    with testing.locks(), pytest.raises(InvalidOption, match="grace needs a timeout"):
        locked("order", grace=5, lockman=GlobalLockManager("memory:here"))
    locked("order", grace=5, lockman=GlobalLockManager("memory:here", timeout=60))


def test_names_of_requests_are_refused_where_they_are_written():
    with pytest.raises(InvalidName):
        locked("")
    with pytest.raises(InvalidName):
        locked("x" * 5000)


async def work(*_):
    await asyncio.Event().wait()


def lead(locks, name="cron", run=work, **options):
    async def main():
        async with leader(locks.lockman, name, run=run, **options):
            return "leads"

    return asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        *WRONG,
        ({"grace": 5}, "grace needs a timeout"),
        ({"pase": 5}, r"leader\(\) has no option 'pase': did you mean 'pause'"),
        ({"blocking_timeout": "x"}, "blocking_timeout"),
    ],
)
def test_options_of_a_leader_are_refused_where_they_are_written(locks, options, wrong):
    with pytest.raises(InvalidOption, match=wrong):
        lead(locks, **options)


def test_a_leader_without_a_name_or_with_work_that_is_not_async_is_refused(locks):
    def plain(): ...

    def generator():
        yield

    async def async_generator():
        yield

    for name in ("", "x" * 5000, None):
        with pytest.raises(InvalidName):
            lead(locks, name)
    for run in (plain, generator, async_generator, None, work(), dict):
        with pytest.raises(TypeError, match="give a coroutine function"):
            lead(locks, run=run)
        getattr(run, "close", int)()
    assert locks.granted == []


class Callable:
    async def __call__(self):
        await work()


@pytest.mark.parametrize(
    "run",
    [work, functools.partial(work, 1), lambda: work(), Callable(), functools.wraps(work)(lambda: work())],
)
def test_work_of_a_leader_may_be_anything_that_is_awaited(locks, run):
    assert lead(locks, run=run) == "leads"


def test_work_that_turns_out_to_be_no_coroutine_is_not_begun_again_and_is_told(locks, caplog):
    runs = []

    async def main():
        began = asyncio.Event()

        def run():
            runs.append(1)
            began.set()

        async with leader(locks.lockman, "cron", run=lambda: run(), pause=0.01):
            await began.wait()
            await asyncio.sleep(0.1)

    with pytest.raises(TypeError, match="give a coroutine function"):
        asyncio.run(asyncio.wait_for(main(), 30))
    assert runs == [1] and "give a coroutine function" in caplog.text and locks.held() == []


def test_a_mistake_in_the_work_itself_is_the_works_failure(locks, caplog):
    async def main():
        runs, again = [], asyncio.Event()

        async def run():
            runs.append(1)
            if len(runs) == 2:
                again.set()
            locks.lockman.lock("other", timout=5)

        async with leader(locks.lockman, "cron", run=run, pause=0.01):
            await again.wait()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert "the work of the leader of 'cron' has failed" in caplog.text and "timout" in caplog.text


def test_work_that_returns_when_it_is_cancelled_ends_with_the_block_and_with_its_lock(locks):
    async def main():
        runs, began = [], asyncio.Event()

        async def run():
            runs.append(1)
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

        async with leader(locks.lockman, "cron", run=run, pause=0.01):
            await began.wait()
            began.clear()
            locks.lose("cron")
            await began.wait()
        return runs

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [1, 1] and locks.held() == []
