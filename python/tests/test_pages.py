"""The blocks of the pages for frameworks and tests run as they stand."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from frameworks import has_framework, with_plugin
from globallock import testing


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_page_of_testing(tmp_path):
    (tmp_path / "test_page.py").write_text("\n".join(blocks("python-testing.md")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *with_plugin(), "test_page.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_of_celery():
    if not has_framework("celery"):
        pytest.skip("Celery is not installed")
    start, one, once, beat, mixed = blocks("celery.md")
    start = start.replace("redis://10.0.0.7/1", "memory://").replace("redis://10.0.0.7/2", "cache+memory://")
    names = {"read_account": lambda account, token: (account, token), "__name__": "page"}
    with testing.locks() as locks:
        exec(start + one, names)
        app = names["app"]
        app.conf.broker_connection_retry = False
        assert names["import_account"].apply(("a",)).get()[0] == "a" and locks.granted == ["import/a"]
        with locks.taken("import/a"):
            assert names["import_account"].apply(("a",)).state == "FAILURE", "after all of its retries"
        exec(once + beat + mixed, names)
        assert app.conf.beat_scheduler == "globallock.celery_beat:LeaderScheduler"
        from celery.utils.imports import symbol_by_name

        assert symbol_by_name(app.conf.beat_scheduler)(app, lazy=True).max_interval > 0
        assert issubclass(names["MyScheduler"], names["PersistentScheduler"])


def test_the_page_of_fastapi():
    if not has_framework("fastapi"):
        pytest.skip("FastAPI is not installed")
    from starlette.testclient import TestClient

    collected, shipped = [], []

    async def collect_garbage():
        collected.append(1)

    async def carrier_ship(order, token):
        shipped.append(order) if token else None

    async def carrier_cancel(order):
        shipped.remove(int(order))

    names = {each.__name__: each for each in (collect_garbage, carrier_ship, carrier_cancel)}
    first, second = blocks("fastapi.md")
    with testing.locks() as locks:
        exec(first + second, names)
        app = names["app"]
        app.add_route("/orders/{order_id}/cancel", cancelling(names["cancel"]))
        with TestClient(app) as client:
            assert client.post("/orders/7/ship").json() == {"shipped": 7} and shipped == [7]
            with locks.taken("order/7"):
                assert client.post("/orders/7/ship").status_code == 409
            assert client.get("/orders/7/cancel").text == "cancelled" and shipped == []
        assert collected and "cron" in locks.granted


def cancelling(cancel):
    from starlette.responses import PlainTextResponse

    async def answer(request):
        await cancel(request)
        return PlainTextResponse("cancelled")

    return answer
