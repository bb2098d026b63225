"""Several `celery beat` processes, of which one sends the tasks."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import eventually
from frameworks import needs_framework

needs_framework("celery", "redis")

from datetime import datetime, timezone  # noqa: E402
from pathlib import Path  # noqa: E402

import redis  # noqa: E402
from globallock import GlobalLockManager  # noqa: E402

HERE = Path(__file__).resolve().parent


class Beats:
    """Beats of one app, and what they send."""

    def __init__(self, server, directory):
        self.name = f"beat-{time.time_ns()}"
        self.broker = redis.Redis.from_url(server.url, db=1, socket_timeout=None)
        self.lockman = GlobalLockManager(server.url)
        self.directory, self.server, self.processes, self.sent = directory, server, [], []

    def start(self):
        number = len(self.processes)
        environment = {"CELERY_REDIS": self.server.url, "CELERY_QUEUE": self.name, "BEAT_LEADER": self.name}
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_project", "beat", "-l", "DEBUG",
             "--pidfile", "", "-s", str(self.directory / "schedule")],
            cwd=HERE, env={**os.environ, **environment}, stderr=subprocess.STDOUT,
            stdout=(self.directory / f"beat-{number}.log").open("wb"),
        )  # fmt: skip
        self.processes.append(process)
        return process

    def log(self, process):
        return (self.directory / f"beat-{self.processes.index(process)}.log").read_text(errors="replace")

    def next(self, limit=10):
        """The next task that is sent: its name, and the process that has sent it."""
        found = self.broker.blpop(self.name, timeout=limit)
        assert found, [self.log(process) for process in self.processes]
        headers = json.loads(found[1])["headers"]
        message = headers["task"].rpartition(".")[2], int(headers["origin"].split("@")[0][3:])
        self.sent.append(message)
        return message

    def next_of(self, processes, limit=30):
        pids = [process.pid for process in processes]
        eventually("a task is sent", lambda: self.next()[1] in pids, limit)

    def waiting(self):
        return sum(not claim.held for claim in self.lockman.inspect(self.name))

    def process(self, pid):
        return next(process for process in self.processes if process.pid == pid)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(60)


@pytest.fixture
def beats(redis_server, tmp_path):
    beats = Beats(redis_server, tmp_path)
    yield beats
    beats.stop()


def test_of_several_beats_one_sends_and_another_takes_over_within_a_lease(beats):
    for _ in range(3):
        beats.start()
    leader = beats.process(beats.next()[1])
    eventually("the others wait", lambda: beats.waiting() == 2)
    for _ in range(4):
        assert beats.next()[1] == leader.pid
    os.kill(leader.pid, signal.SIGKILL)
    killed = time.monotonic()
    others = [process for process in beats.processes if process is not leader]
    beats.next_of(others)
    # The lease is 2 s, the interval of the task 0.4 s, and the host may be slow.
    assert time.monotonic() - killed < 2 + 0.4 + 4
    second = beats.process(beats.sent[-1][1])
    # One that ends by itself hands over at once.
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert second.pid not in [claim.pid for claim in beats.lockman.inspect(beats.name)], "no lease is left"
    beats.next_of([process for process in others if process is not second])
    assert [task for task, _ in beats.sent].count("rarely") == 0, "its hour has not passed"


def test_a_new_leader_knows_when_each_task_was_sent(beats):
    """An entry of an hour that was sent 59 minutes and 58 seconds ago is due in two seconds, for anybody."""
    for name, ago in (("rarely", 3598), ("often", -3600)):
        with beats.lockman.lock(f"{beats.name}/{name}", with_value=True) as lock:
            lock.set_value(repr(time.time() - ago).encode(), keep=60)
    beats.start()
    assert beats.next()[0] == "rarely"
    with beats.lockman.lock(f"{beats.name}/rarely", with_value=True) as lock:
        assert time.time() - 30 < float(lock.value.data) <= time.time()


def test_a_leader_that_was_suspended_sends_nothing_until_it_leads_again(beats):
    first = beats.start()
    assert beats.next()[1] == first.pid
    second = beats.start()
    eventually("the other waits", lambda: beats.waiting() == 1)
    os.kill(first.pid, signal.SIGSTOP)
    beats.next_of([second])
    os.kill(first.pid, signal.SIGCONT)
    eventually("it waits", lambda: beats.waiting() == 1)
    beats.sent.clear()
    for _ in range(4):
        beats.next()
    assert {pid for _, pid in beats.sent} == {second.pid} and "the lead is lost" in beats.log(first)


def test_what_another_beat_has_sent_is_not_sent_again(redis_server):
    """That is looked at for each entry, however late a beat learns that it does not lead any more."""
    from celery import Celery
    from celery.schedules import schedule
    from globallock.celery_beat import LeaderScheduler

    name, sent = f"beat-{time.time_ns()}", []
    app = Celery("beat", broker="memory://")
    app.conf.update(
        global_lock_config=redis_server.url, beat_leader_name=name, result_expires=None,
        beat_schedule={"hourly": {"task": "hourly", "schedule": schedule(3600.0)}},
    )  # fmt: skip
    scheduler = LeaderScheduler(app)
    scheduler.apply_async = lambda entry, **_: sent.append(entry.name)
    scheduler.tick()
    assert sent == [] and scheduler._leading.is_locked

    def make_due():
        scheduler.schedule["hourly"].last_run_at = datetime.fromtimestamp(0, timezone.utc)
        scheduler._heap = None

    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(f"{name}/hourly", with_value=True) as lock:
        lock.set_value(repr(time.time() - 60).encode(), keep=60)
    make_due()
    scheduler.tick()
    assert sent == [] and abs(scheduler.schedule["hourly"].last_run_at.timestamp() - time.time() + 60) < 30
    with lockman.lock(f"{name}/hourly", with_value=True) as lock:
        lock.set_value(repr(time.time() - 7200).encode(), keep=60)
    make_due()
    scheduler.tick()
    assert sent == ["hourly"]
    make_due()
    scheduler.tick()
    assert sent == ["hourly"], "it was sent a moment ago"
    scheduler.close()
    assert lockman.inspect(name) == []
    with pytest.raises(SystemExit):
        # Where the one of the signal's handler was swallowed.
        scheduler.tick()
    assert lockman.inspect(name) == []
