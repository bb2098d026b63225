"""The blocks of docs/recipes-python.md, each in its own framework, where that is installed."""

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version

import pytest
from conftest import ROOT, eventually
from globallock import GlobalLockManager

PAGE = (ROOT / "docs" / "recipes-python.md").read_text()
#: Those that are installed for the tests of one CPython, and so must run there. The others: `make recipes`.
IN_CI = ("RQ", "huey", "dramatiq", "APScheduler 3")


def blocks(title):
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def needs(title, module, major=None):
    """Skips a test whose framework is not installed, unless this run must have it."""
    try:
        found = importlib.util.find_spec(module) is not None
        found = found and (major is None or version(module).split(".")[0] == major)
    except PackageNotFoundError:
        found = False
    if not found:
        wanted = IN_CI if os.environ.get("GLOBALLOCK_FRAMEWORKS") == "1" else ()
        assert title not in (*wanted, os.environ.get("GLOBALLOCK_RECIPES")), f"{title} is not installed"
        pytest.skip(f"{title} is not installed")


@pytest.fixture
def lockman(redis_server):
    with GlobalLockManager(redis_server.url) as lockman:
        yield lockman
        for name in lockman.names():
            for claim in lockman.inspect(name):
                lockman.evict(name, claim)


@pytest.fixture
def run(redis_server):
    """Runs a block as a module, and returns its names. What is left to the reader is given."""

    def run(title, number=0, **given):
        # An earlier test may have recorded that it was done.
        source = blocks(title)[number].replace("redis://10.0.0.7", redis_server.url)
        source = source.replace('once("', f'once("{time.time_ns()}-')
        exec(compile(source, f"recipe of {title}", "exec"), given)
        return given

    return run


def account():
    return f"account-{time.time_ns()}"


def test_every_block_of_the_page_is_run_here():
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert titles == ["RQ", "huey", "dramatiq", "APScheduler 3", "APScheduler 4", "Airflow"]
    assert [len(blocks(title)) for title in titles] == [1, 1, 1, 2, 1, 1]


RQ_WORKER = """
import sys
from redis import Redis
from rq import Worker
Worker([sys.argv[2]], connection=Redis.from_url(sys.argv[1])).work(burst=True, with_scheduler=False)
"""


def test_rq(lockman, redis_server, tmp_path):
    needs("RQ", "rq")
    from redis import Redis
    from rq import Queue

    name = account()
    source = blocks("RQ")[0].replace("redis://10.0.0.7", redis_server.url)
    source = source.replace("max=20, interval=30", "max=2, interval=0")
    (tmp_path / "jobs.py").write_text(source + "\ndef read_account(account, token):\n    return token\n")
    queue = Queue(name, connection=Redis.from_url(redis_server.url))

    def work():
        subprocess.run(
            # In this directory, so that it finds the job.
            [sys.executable, "-c", RQ_WORKER, redis_server.url, name], cwd=tmp_path, check=True, timeout=120,
            capture_output=True,
        )  # fmt: skip

    with lockman.lock(f"import/{name}"):
        job = queue.enqueue("jobs.import_account", name)
        work()
        assert job.get_status(refresh=True) == "failed" and job.return_value() is None
        assert job.latest_result().type.name == "MAX_RETRIES_EXCEEDED"
    job = queue.enqueue("jobs.import_account", name)
    work()
    assert job.return_value() > 0


def test_huey(lockman, run):
    needs("huey", "huey")
    read, mails, name = [], [], account()

    def read_account(account, token):
        read.append(account)
        return token

    source = run("huey", read_account=read_account, send_the_mail=lambda: mails.append(1))
    huey = source["huey"]
    huey.name = name
    huey.storage.flush_all()
    consumer = huey.create_consumer(workers=2, worker_type="thread", initial_delay=0.01, max_delay=0.05)
    consumer.start()
    try:
        with lockman.lock(f"import/{name}"):
            busy = source["import_account"](name)
            eventually("it is to be tried again later", lambda: huey.scheduled_count() == 1)
        done = source["import_account"](name)
        assert done.get(blocking=True, timeout=30) > 0 and read == [name]
        assert busy.get() is None
    finally:
        consumer.stop(graceful=True)
    for _ in range(2):
        source["hourly"].call_local()
    assert mails == [1]


def test_dramatiq(lockman, run):
    needs("dramatiq", "dramatiq")
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    broker, read, name = StubBroker(), [], account()
    dramatiq.set_broker(broker)
    tokens = threading.Event()

    def read_account(account, token):
        read.append((account, token))
        tokens.set()

    source = run("dramatiq", read_account=read_account)
    worker = dramatiq.Worker(broker, worker_timeout=50)
    worker.start()
    try:
        with lockman.lock(f"import/{name}"):
            source["import_account"].send(name)
            later = worker.consumers["default.DQ"].delay_queue
            eventually("it is to be tried again later", lambda: later.qsize() == 1)
            assert read == []
        source["import_account"].send(name)
        assert tokens.wait(30) and read[0][0] == name and read[0][1] > 0
    finally:
        worker.stop()


def test_apscheduler_3_does_each_job_once(run):
    needs("APScheduler 3", "apscheduler", "3")
    done, reports = [], []
    source = run("APScheduler 3", send_the_report=lambda: reports.append(1))
    scheduler = source["scheduler"]
    try:
        for _ in range(2):
            # As two hosts do, at two o'clock.
            scheduler.add_job(lambda: done.append(source["nightly_report"]()))
        eventually("both jobs have run", lambda: len(done) == 2)
        assert reports == [1] and sorted(ran.done for ran in done) == [False, True]
        assert len(scheduler.get_jobs()) == 1
    finally:
        scheduler.shutdown()


def test_apscheduler_3_ends_when_the_lead_is_lost(lockman, run):
    needs("APScheduler 3", "apscheduler", "3")
    led = threading.Thread(target=run, args=("APScheduler 3", 1), kwargs={"check_mail": print})
    led.start()
    eventually("it leads", lambda: [claim.held for claim in lockman.inspect("scheduler")] == [True])
    lockman.evict("scheduler", lockman.inspect("scheduler")[0], reason="the test says so")
    led.join(30)
    assert not led.is_alive()


def test_apscheduler_4(run):
    needs("APScheduler 4", "apscheduler", "4")
    from apscheduler import AsyncScheduler

    reports = []

    async def send_the_report():
        reports.append(1)

    async def main():
        source = run("APScheduler 4", send_the_report=send_the_report)
        running = asyncio.ensure_future(source["main"]())
        async with AsyncScheduler() as scheduler:
            await scheduler.start_in_background()
            for _ in range(2):
                job = await scheduler.add_job(source["nightly_report"], result_expiration_time=60)
                await scheduler.get_job_result(job)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert reports == [1]


AIRFLOW = """
import sys, os
from globallock import GlobalLockManager
sys.path.insert(0, os.getcwd())
import warehouse_dag
run = warehouse_dag.found.test()
task = run.get_task_instance("load")
print("STATE", task.state)
"""


def test_airflow(lockman, redis_server, tmp_path):
    needs("Airflow", "airflow")
    source = blocks("Airflow")[0].replace("redis://10.0.0.7", redis_server.url)
    source = source.replace("blocking_timeout=600", "blocking_timeout=0.2")
    source = source.replace("\nwarehouse()\n", "\nfound = warehouse()\n")
    (tmp_path / "warehouse_dag.py").write_text(
        source + "\ndef load_the_warehouse(token):\n    print('LOADED', token > 0)\n    return 'loaded'\n"
    )
    environment = {
        **os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path), "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    }  # fmt: skip
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=environment, check=True, timeout=200, capture_output=True)

    def test():
        done = subprocess.run(
            [sys.executable, "-c", AIRFLOW], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with lockman.lock("warehouse"):
        assert "STATE skipped" in test()
    assert "STATE success" in test()
