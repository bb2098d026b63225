"""Requests that hold a lock, and the leader of an app's processes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import eventually
from frameworks import needs_framework

needs_framework("fastapi", "httpx", "uvicorn")

import httpx  # noqa: E402
from fastapi import Depends, FastAPI, WebSocket  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from globallock import GlobalLockManager, InvalidOption  # noqa: E402
from globallock import fastapi as of_fastapi  # noqa: E402
from globallock.fastapi import holding, leader, locked  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

HERE = Path(__file__).resolve().parent


class Process:
    """A process of the app behind uvicorn."""

    def __init__(self, log, **environment):
        self.log = log
        self.process = subprocess.Popen(
            # Connections are kept for longer than any test: one may end just when it is used again.
            [
                sys.executable, "-m", "uvicorn", "fastapi_project:app", "--port", "0",
                "--timeout-keep-alive", "600",
            ],
            cwd=HERE, env={**os.environ, **environment}, stdout=log.open("wb"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_ready(self):
        def running():
            assert self.process.poll() is None, self.log.read_text()
            return re.search(r"running on (http://\S+)", self.log.read_text())

        eventually("uvicorn runs", running)
        self.client = httpx.Client(base_url=running()[1], timeout=60)
        return self

    def leads(self):
        return self.client.get("/leads").json()["leads"]


@pytest.fixture(scope="module")
def app_name():
    return f"app-{time.time_ns()}"


@pytest.fixture(scope="module")
def start(app_name, redis_server, tmp_path_factory):
    started = []

    def start():
        log = tmp_path_factory.mktemp("uvicorn") / "log"
        started.append(Process(log, FASTAPI_STORE=redis_server.url, FASTAPI_NAME=app_name))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(60)


@pytest.fixture(scope="module")
def processes(start):
    started = [start(), start(), start()]
    return [each.wait_ready() for each in started]


@pytest.fixture
def order():
    return time.time_ns()


@pytest.fixture
def held(app_name, redis_server, order):
    """How many hold the lock of this test's order."""
    lockman = GlobalLockManager(redis_server.url)
    yield lambda: sum(claim.held for claim in lockman.inspect(f"{app_name}/{order}"))
    lockman.close()


def test_a_request_is_refused_while_another_process_has_the_lock(processes, order, held):
    first, second, _ = (each.client for each in processes)
    answers = []
    shipping = threading.Thread(target=lambda: answers.append(first.post(f"/ship/{order}")))
    shipping.start()
    eventually("the first has the lock", held)
    refused = second.post(f"/ship/{order}")
    assert (refused.status_code, refused.headers["retry-after"]) == (409, "3")
    assert refused.json() == {"detail": "another request has the lock: try again later"}
    assert second.post(f"/threaded/{order + 1}").status_code == 200, "another order is free"
    first.post(f"/open/{order}")
    shipping.join(60)
    assert answers[0].status_code == 200 and answers[0].json()["held"]
    eventually("it is released", lambda: not held())
    after = second.post(f"/threaded/{order}")
    assert after.json()["held"] and after.json()["token"] > answers[0].json()["token"]


def test_a_streamed_response_holds_the_lock_to_its_last_byte(processes, order, held):
    first, second, _ = (each.client for each in processes)
    with first.stream("GET", f"/stream/{order}") as response:
        lines = response.iter_lines()
        assert next(lines) == "first" and held() == 1
        assert second.post(f"/threaded/{order}").status_code == 409
        first.post(f"/open/{order}")
        assert list(lines) == ["last"]
    eventually("it is released", lambda: not held())


def test_the_lock_is_released_when_the_client_goes(processes, order, held):
    with processes[0].client.stream("GET", f"/endless/{order}") as response:
        assert next(response.iter_lines()) == "more" and held() == 1
    eventually("it is released", lambda: not held())


def test_the_lock_is_released_when_the_function_raises(processes, order, held):
    # uvicorn closes the connection of a request that failed, perhaps just when it is used again.
    answer = processes[0].client.post(f"/fail/{order}", headers={"connection": "close"})
    assert answer.status_code == 500
    eventually("it is released", lambda: not held())


def test_one_process_leads_and_another_takes_over_within_a_lease(processes, app_name, redis_server):
    eventually("one leads", lambda: any(each.leads() for each in processes))
    (first,) = (each for each in processes if each.leads())
    others = [each for each in processes if each is not first]
    first.process.kill()
    killed = time.monotonic()
    eventually("another leads", lambda: any(each.leads() for each in others))
    assert time.monotonic() - killed < 2 + 4, "its lease is 2 s, and the host may be slow"
    (second,) = (each for each in others if each.leads())
    # One that ends by itself hands over at once.
    second.process.send_signal(signal.SIGTERM)
    second.process.wait(60)
    with GlobalLockManager(redis_server.url) as lockman:
        holders = [claim.pid for claim in lockman.inspect(f"{app_name}/cron")]
        assert second.process.pid not in holders, "no lease is left"
    (third,) = (each for each in others if each is not second)
    eventually("the last leads", third.leads)


# What follows needs no store.


@pytest.fixture
def client():
    app = FastAPI()
    app.state.lockman = GlobalLockManager("redis://127.0.0.1:1")

    @app.get("/orders/{order_id}")
    async def ship(order_id: str, lock=Depends(locked("order/{order_id}", retry_after=0.5))):
        return lock.name

    @app.get("/patient/{order_id}")
    async def patient(lock=Depends(locked("order/{order_id}", blocking_timeout=0.05, status_code=503))):
        return lock.name

    @app.get("/made")
    async def made(lock=Depends(locked(lambda request: request.query_params["name"], kind="read"))):
        return lock.name

    @app.get("/misspelt/{order_id}", dependencies=[Depends(locked("order/{order}"))])
    async def misspelt(): ...

    @app.get("/hangs/{order_id}", dependencies=[Depends(locked("order/{order_id}", answer_within=0.1))])
    async def hangs(): ...

    @app.websocket("/live/{order_id}")
    async def live(socket: WebSocket, lock=Depends(locked("order/{order_id}"))):
        await socket.accept()
        await socket.send_text(lock.name)
        await socket.close()

    with TestClient(app) as client:
        yield client


def test_what_is_answered_while_the_lock_is_busy_or_the_store_is_away(client, locks):
    assert client.get("/orders/7").json() == "order/7" and locks.held() == []
    with locks.taken("order/7"):
        refused, later = client.get("/orders/7"), client.get("/patient/7")
        assert (refused.status_code, refused.headers["retry-after"]) == (409, "1"), "not too early"
        assert (later.status_code, later.headers["retry-after"]) == (503, "1")
    with locks.store_away():
        away = client.get("/orders/7")
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert "redis" not in away.text and away.json()["detail"] == "the store of locks does not answer"
    assert client.get("/patient/7").json() == "order/7"
    assert client.get("/made", params={"name": "a"}).json() == "a"


def test_a_path_that_cannot_be_a_name_is_a_bad_request(client, locks):
    for path in ("/orders/%00", "/orders/" + "x" * 5000):
        assert client.get(path).status_code == 400
    assert locks.granted == []


def test_a_store_that_does_not_answer_does_not_keep_a_request_for_a_lease(client):
    began = time.monotonic()
    assert client.get("/hangs/7").status_code == 503
    assert time.monotonic() - began < 5


def test_a_connection_of_websocket_is_closed_to_come_again(client, locks):
    from starlette.websockets import WebSocketDisconnect

    with client.websocket_connect("/live/7") as socket:
        assert socket.receive_text() == "order/7"
    with locks.taken("order/7"), pytest.raises(WebSocketDisconnect) as closed:
        with client.websocket_connect("/live/7"):
            pass
    assert closed.value.code == 1013


def test_what_is_wrong_is_told(client, locks, monkeypatch):
    with pytest.raises(InvalidOption, match="has the field 'order', which is no parameter of /misspelt/7"):
        client.get("/misspelt/7")
    client.app.state.lockman = None
    with pytest.raises(InvalidOption, match="set app.state.lockman"):
        client.get("/orders/7")
    with pytest.raises(InvalidOption, match="no name of a parameter"):
        locked("order/{}")
    with pytest.raises(InvalidOption, match="no option 'blocking'"):
        locked("order", blocking=False)
    import fastapi

    monkeypatch.setattr(fastapi, "__version__", "0.117.1")
    with pytest.raises(InvalidOption, match="needs FastAPI 0.118 or newer, and this is 0.117.1"):
        locked("order")


def test_a_block_of_a_request_of_starlette_holds_a_lock(locks):
    async def ship(request):
        async with holding(request, "order/{order_id}", lockman=lambda: locks.lockman) as lock:
            return PlainTextResponse(f"{lock.name} {locks.held()}")

    client = TestClient(Starlette(routes=[Route("/orders/{order_id}", ship)]))
    assert client.get("/orders/7").text == "order/7 ['order/7']"
    with locks.taken("order/7"):
        assert client.get("/orders/7").status_code == 409


def test_the_work_of_a_leader_ends_with_its_block(locks):
    async def main():
        began, ended = asyncio.Event(), []

        async def work():
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(locks.held())

        async with leader(locks.lockman, "cron", run=work) as led:
            await began.wait()
            assert led.is_leader and locks.held() == ["cron"]
        assert not led.is_leader and ended == [["cron"]] and locks.held() == []

    asyncio.run(main())


def test_a_leader_whose_work_fails_queues_again(locks, caplog):
    async def main():
        runs, again = [], asyncio.Event()

        async def work():
            runs.append(len(runs))
            if len(runs) == 1:
                raise RuntimeError("on fire")
            again.set()

        async with leader(locks.lockman, "cron", run=work, pause=0.01) as led:
            await again.wait()
            assert led.is_leader
            locks.lose("cron")
            again.clear()
            await again.wait()
        return runs

    assert asyncio.run(main()) == [0, 1, 2]
    assert "the work of the leader of 'cron' has failed" in caplog.text and "on fire" in caplog.text
    assert "this process does not lead 'cron' any more" in caplog.text


def test_work_that_has_returned_is_not_begun_elsewhere(locks):
    async def main():
        runs, ran = [], asyncio.Event()

        async def work():
            runs.append(1)
            ran.set()

        async with leader(locks.lockman, "cron", run=work) as first:
            await ran.wait()
            async with leader(locks.lockman, "cron", run=work) as second:
                await locks.wait_for_waiting_task("cron")
                assert first.is_leader and not second.is_leader and runs == [1]
        assert runs == [1]

    asyncio.run(main())


def test_nobody_leads_until_the_store_is_back(locks, caplog):
    async def main():
        began = asyncio.Event()

        async def work():
            began.set()

        away, told = locks.store_away(), asyncio.Event()
        loop, error = asyncio.get_running_loop(), of_fastapi._logger.error

        def note(*what):
            error(*what)
            loop.call_soon(told.set)

        of_fastapi._logger.error = note
        try:
            async with leader(locks.lockman, "cron", run=work, pause=0.01):
                await told.wait()
                assert not began.is_set()
                away.end()
                await began.wait()
        finally:
            del of_fastapi._logger.error

    asyncio.run(main())
    assert "nobody can be found to lead 'cron'" in caplog.text
