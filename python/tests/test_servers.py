"""The hosts of Python programs: gunicorn, celery, uvloop."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request

import pytest
from conftest import ends, eventually, run


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_gunicorn_with_a_manager_made_before_the_fork(redis_server, tmp_path, name):
    (tmp_path / "application.py").write_text(
        textwrap.dedent(f"""
        import json, os
        from globallock import GlobalLockManager
        lockman = GlobalLockManager({redis_server.url!r})
        master = lockman.lock({name!r})
        assert master.acquire()

        def application(environment, start):
            with lockman.lock({name + "-request"!r}, blocking_timeout=30) as lock:
                taken = lockman.lock({name!r}, blocking=False).acquire()
                fields = [os.getpid(), lock.is_locked, master.is_locked, taken]
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(fields).encode()]
        """)
    )
    # gunicorn passes a signal to workers that do not listen for signals yet, and then waits for them in vain.
    ready = tmp_path / "ready"
    ready.touch()
    (tmp_path / "gunicorn.conf.py").write_text(
        textwrap.dedent(f"""
            def post_worker_init(worker):
                with open({str(ready)!r}, "a") as file:
                    file.write("one more\\n")
            """)
    )
    port = free_port()
    arguments = ["--preload", "--workers", "4", "--bind", f"127.0.0.1:{port}", "application:application"]
    command = [sys.executable, "-m", "gunicorn", *arguments]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)

    def ask():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    try:
        eventually("all workers are ready", lambda: ready.read_text().count("\n") == 4)
        workers = set()

        def all_have_served():
            worker, locked, parents_in_child, parents_taken = ask()
            assert (locked, parents_in_child, parents_taken) == (True, False, False)
            workers.add(worker)
            return len(workers) >= 2

        eventually("several workers have served", all_have_served)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


TASKS = """
import os, sys
from celery import Celery
from globallock import GlobalLockManager
lockman = GlobalLockManager(os.environ["STORE"])
master = lockman.lock(os.environ["NAME"])
app = Celery("tasks", broker=os.environ["STORE"] + "/1", backend=os.environ["STORE"] + "/2")
app.conf.broker_connection_retry_on_startup = True

@app.task
def work():
    with lockman.lock(os.environ["NAME"] + "-task", blocking_timeout=30) as lock:
        return [os.getpid(), lock.is_locked, master.is_locked]

from celery.signals import worker_init

@worker_init.connect
def before_the_fork(**_):
    assert master.acquire()
"""


def test_celery_with_a_manager_made_before_the_fork(redis_server, tmp_path, name):
    (tmp_path / "tasks.py").write_text(TASKS)
    environment = {**os.environ, "STORE": redis_server.url, "NAME": name, "PYTHONPATH": str(tmp_path)}
    arguments = ["-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "3", "--loglevel", "ERROR"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", *arguments], cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    asks = textwrap.dedent("""
        import tasks, json
        results = [tasks.work.delay() for _ in range(12)]
        print(json.dumps([result.get(timeout=60) for result in results]))
    """)
    try:
        outcomes = json.loads(ends(run(asks, cwd=tmp_path, env=environment)))
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
    assert len(outcomes) == 12
    assert all((locked, masters) == (True, False) for _, locked, masters in outcomes)


UVLOOP = """
import asyncio, sys, uvloop
from globallock import GlobalLockManager
lockman = GlobalLockManager(sys.argv[1])

async def work():
    async with lockman.aio.lock(sys.argv[2]) as lock:
        return lock.is_locked

async def main():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    print(all(await asyncio.gather(*(work() for _ in range(20)))))

uvloop.install()
asyncio.run(main())
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_uvloop(redis_server, name):
    assert ends(run(UVLOOP, redis_server.url, name)) == "True\n"
