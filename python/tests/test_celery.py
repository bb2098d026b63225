"""Tasks of real workers of Celery, over a real Redis."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually
from frameworks import needs_framework

needs_framework("celery", "redis")

HERE = Path(__file__).resolve().parent


class Worker:
    """A worker in a process group of its own, with its log."""

    def __init__(self, log, *options, **environment):
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_project", "worker", "--without-gossip",
             "--without-mingle", "--without-heartbeat", "-l", "INFO", *options],
            cwd=HERE, env={**os.environ, **environment}, stdout=log.open("wb"), stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def wait_ready(self):
        eventually("the worker is ready", lambda: " ready." in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, self.text
        return self

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture(scope="module")
def project(redis_server):
    """The app, as a producer uses it; each test module has a queue of its own."""
    environment = {"CELERY_REDIS": redis_server.url, "CELERY_QUEUE": f"queue-{time.time_ns()}"}
    os.environ.update(environment)
    sys.modules.pop("celery_project", None)
    sys.path.insert(0, str(HERE))
    import celery_project

    yield celery_project
    sys.path.remove(str(HERE))
    for name in environment:
        del os.environ[name]


@pytest.fixture(scope="module")
def worker(project, tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("celery") / "worker.log", "-c", "3")
    yield worker.wait_ready()
    worker.stop()


@pytest.fixture
def key(project):
    return str(time.time_ns())


def heard(project, key):
    """What a task tells next: what, which task, and its process."""
    told = project.told.blpop(f"told:{key}", timeout=60)
    assert told, "no task tells anything"
    what, task, pid = told[1].split()
    return what, task, int(pid)


def began(project, key):
    what, task, pid = heard(project, key)
    assert what == "began"
    return task, pid


def open_gate(project, key, count=1):
    for _ in range(count):
        project.told.rpush(f"gate:{key}", "open")


def test_a_second_task_is_skipped_without_a_traceback(project, worker, key):
    first = project.skipping.delay(key)
    assert began(project, key)[0] == first.id
    second, other = project.skipping.delay(key), project.skipping.delay(f"{key}-other")
    assert second.get(timeout=60) is None and second.state == "SUCCESS"
    assert began(project, f"{key}-other")[0] == other.id, "it has another name"
    open_gate(project, key)
    open_gate(project, f"{key}-other")
    assert first.get(timeout=60) == first.id and other.get(timeout=60) == other.id
    assert f"skipped, because another task has the lock 'import/{key}'" in worker.text
    assert "Traceback" not in worker.text
    third = project.skipping.delay(key)
    open_gate(project, key)
    assert third.get(timeout=60) == third.id


def test_a_second_task_is_tried_again_until_its_limit(project, worker, key):
    first = project.retrying.delay(key)
    began(project, key)
    second, gives_up = project.retrying.delay(key), project.giving_up.delay(key)
    with pytest.raises(Exception, match="is held by another task") as raised:
        gives_up.get(timeout=60)
    assert type(raised.value).__name__ == "NotLocked" and gives_up.state == "FAILURE"
    eventually("the second is retried", lambda: second.state == "RETRY")
    open_gate(project, key, 2)
    assert first.get(timeout=60) == first.id and second.get(timeout=60) == second.id
    order = [heard(project, key)[:2] for _ in range(3)]
    assert order == [("ended", first.id), ("began", second.id), ("ended", second.id)]


def test_a_second_task_waits(project, worker, key):
    first, second = project.waiting.delay(key), project.waiting.delay(key)
    running, _ = began(project, key)
    manager = project.GlobalLockManager(project.app.conf.global_lock_config)
    eventually("the other waits", lambda: len(manager.inspect(f"import/{key}")) == 2)
    open_gate(project, key, 2)
    assert {first.get(timeout=60), second.get(timeout=60)} == {first.id, second.id}
    assert heard(project, key)[:2] == ("ended", running) and heard(project, key)[0] == "began"


def test_a_task_whose_process_is_killed_runs_again_and_never_beside_another(project, worker, key):
    killed = project.skipping.delay(key)
    _, pid = began(project, key)
    os.kill(pid, signal.SIGKILL)
    # It is delivered once more at once, and must not be skipped because of the lease that it has left.
    assert began(project, key)[0] == killed.id
    other = project.skipping.delay(key)
    assert other.get(timeout=60) is None
    open_gate(project, key)
    assert killed.get(timeout=60) == killed.id
    assert heard(project, key)[:2] == ("ended", killed.id)


def test_a_task_is_queued_once_until_it_has_ended(project, worker, key):
    first = project.report.delay(key)
    assert project.report.delay(key).id == first.id, "it is queued"
    assert began(project, key)[0] == first.id
    assert project.report.apply_async((key,)).id == first.id, "it runs"
    other = project.report.delay(f"{key}-other")
    assert other.id != first.id
    open_gate(project, key)
    open_gate(project, f"{key}-other")
    assert first.get(timeout=60) == first.id and other.get(timeout=60) == other.id
    assert heard(project, key)[0] == "ended"
    eventually("another may be queued", lambda: record(project, key) == "")
    second = project.report.delay(key)
    assert second.id != first.id and began(project, key)[0] == second.id
    open_gate(project, key)
    assert second.get(timeout=60) == second.id
    assert project.told.llen(f"told:{key}") == 1, "nothing else has run"


def record(project, key, name="report"):
    manager = project.GlobalLockManager(project.app.conf.global_lock_config)
    with manager.lock(f"{name}/{key}/queued", with_value=True) as lock:
        return lock.value.data.decode() if lock.value is not None else ""


def test_a_task_that_is_retried_stays_queued(project, worker, key):
    first = project.report.delay(key, fails=2)
    for _ in range(2):
        assert heard(project, key)[:2] == ("retried", first.id)
        eventually("it is to be retried", lambda: first.state == "RETRY")
        assert project.report.delay(key).id == first.id
    assert began(project, key)[0] == first.id
    open_gate(project, key)
    assert first.get(timeout=60) == first.id
    eventually("another may be queued", lambda: record(project, key) == "")


def test_a_unique_task_whose_process_is_killed_runs_again(project, worker, key):
    first = project.lasting_report.delay(key)
    _, pid = began(project, key)
    os.kill(pid, signal.SIGKILL)
    assert project.lasting_report.delay(key).id == first.id, "its lease lasts"
    assert began(project, key)[0] == first.id
    assert project.lasting_report.delay(key).id == first.id
    open_gate(project, key)
    assert first.get(timeout=60) == first.id


def test_a_task_that_is_lost_does_not_keep_others_out_for_ever(project, key):
    first = project.brief.apply_async((key,), queue=f"nobody-{key}")
    assert project.brief.apply_async((key,), queue=f"nobody-{key}").id == first.id
    eventually(
        "its time has passed",
        lambda: project.brief.apply_async((key,), queue=f"nobody-{key}").id != first.id,
    )


def test_a_task_that_is_revoked_or_expires_does_not_keep_others_out(project, worker, key):
    first = project.report.apply_async((key,), expires=-1)
    eventually("it is known to have expired", lambda: first.state == "REVOKED")
    eventually("another may be queued", lambda: record(project, key) == "")


def test_a_task_that_cannot_be_sent_does_not_keep_others_out(project, key, monkeypatch):
    from celery import Task

    with monkeypatch.context() as patched:
        patched.setattr(Task, "apply_async", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            project.report.delay(key)
    assert record(project, key) == ""


def test_a_task_whose_whole_worker_is_killed_runs_again(project, key, tmp_path):
    queue = {"CELERY_QUEUE": f"killed-{key}"}
    first = Worker(tmp_path / "first.log", "-c", "1", **queue)
    second = None
    try:
        task = project.skipping.apply_async((key,), queue=f"killed-{key}")
        assert began(project, key)[0] == task.id
        first.kill()
        second = Worker(tmp_path / "second.log", "-c", "2", **queue, CELERY_FORGETS="1")
        assert began(project, key)[0] == task.id
        # The broker takes this one for dead, too, and gives the message to the other process.
        eventually("it is delivered twice", lambda: "ignored, because another task"  in second.text)
        assert task.state != "SUCCESS"
        open_gate(project, key)
        assert task.get(timeout=60) == task.id
        assert heard(project, key)[:2] == ("ended", task.id)
    finally:
        # Not `stop()`: the second one has the message again and again, and would do it all first.
        for worker in filter(None, (first, second)):
            worker.kill()


def test_a_worker_with_greenlets_runs_tasks_one_at_a_time(project, key, tmp_path):
    worker = Worker(tmp_path / "gevent.log", "-P", "gevent", "-c", "10", CELERY_QUEUE=f"gevent-{key}")
    try:
        first = project.waiting.apply_async((key,), queue=f"gevent-{key}")
        assert began(project, key)[0] == first.id
        skipped = project.skipping.apply_async((key,), queue=f"gevent-{key}")
        assert skipped.get(timeout=60) is None
        second = project.waiting.apply_async((key,), queue=f"gevent-{key}")
        unique = project.report.apply_async((f"{key}-unique",), queue=f"gevent-{key}")
        assert began(project, f"{key}-unique")[0] == unique.id, "greenlets go on beside one that waits"
        assert project.report.delay(f"{key}-unique").id == unique.id
        open_gate(project, f"{key}-unique")
        open_gate(project, key, 2)
        assert [each.get(timeout=60) for each in (first, second, unique)] == [first.id, second.id, unique.id]
        assert [heard(project, key)[0] for _ in range(3)] == ["ended", "began", "ended"]
    finally:
        worker.stop()


def test_a_chain_whose_later_step_is_queued_already_fails(project, worker, key):
    from celery import chain

    first = project.report.delay(key)
    began(project, key)
    steps = chain(project.step.si(), project.report.si(key), project.step.si())()
    with pytest.raises(Exception, match="what was to follow it would never come") as raised:
        steps.get(timeout=60)
    assert type(raised.value).__name__ == "NotLocked" and first.id in str(raised.value)
    assert steps.parent.parent.state == steps.state == "FAILURE"
    # Where nothing follows the step, its own result is what somebody waits for.
    last = chain(project.step.si(), project.report.si(key))()
    with pytest.raises(Exception, match="would never come"):
        last.get(timeout=60)
    open_gate(project, key)
    assert first.get(timeout=60) == first.id
