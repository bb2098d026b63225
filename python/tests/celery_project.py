"""The Celery app of the tests. Its tasks tell in Redis what they do, and wait there until they may go on."""

import os
import sys

import redis
from celery import Celery
from globallock import GlobalLockManager
from globallock.celery import UniqueTask, current_lock, exclusive

URL = os.environ["CELERY_REDIS"]
#: What a dead worker had is delivered again after a second, and not after an hour.
FORGETS = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
app = Celery("project", broker=f"{URL}/1", backend=f"{URL}/2")
app.conf.update(
    global_lock_config={
        "global_lock_engine_class": "globallock.url_global_lock.UrlGlobalLock",
        "global_lock_engine_options": {"url": URL},
        "lock_ttl": 2,
    },
    broker_transport_options=FORGETS if os.environ.get("CELERY_FORGETS") else {},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_default_queue=os.environ.get("CELERY_QUEUE", "celery"),
    beat_scheduler="globallock.celery_beat:LeaderScheduler",
    beat_leader_lock_ttl=2,
    beat_leader_name=os.environ.get("BEAT_LEADER", "beat"),
    beat_schedule={
        "often": {"task": "celery_project.often", "schedule": 0.4},
        "rarely": {"task": "celery_project.rarely", "schedule": 3600.0},
    },
    result_expires=None,
)
told = redis.Redis.from_url(URL, db=3, decode_responses=True, socket_timeout=None)

if "worker" in sys.argv:
    # A connection that is there before the worker forks.
    before = GlobalLockManager(app.conf.global_lock_config)
    held = before.lock(f"main-process-{os.getpid()}")
    held.acquire()


def tell(key, what):
    told.rpush(f"told:{key}", f"{what} {os.getpid()}")


def gate(key):
    assert told.blpop(f"gate:{key}", timeout=60), "the test has not opened the gate"


def work(task, key):
    tell(key, f"began {task.request.id}")
    gate(key)
    tell(key, f"ended {task.request.id}")
    return task.request.id


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
@exclusive("import/{key}")
def skipping(self, key):
    assert current_lock().fencing_token > 0
    return work(self, key)


@app.task(bind=True)
@exclusive("import/{key}", on_busy="retry", countdown=0.2, max_retries=200)
def retrying(self, key):
    return work(self, key)


@app.task(bind=True)
@exclusive("import/{key}", on_busy="retry", countdown=0.05, max_retries=2)
def giving_up(self, key):
    return work(self, key)


@app.task(bind=True)
@exclusive("import/{key}", on_busy="wait", blocking_timeout=60)
def waiting(self, key):
    return work(self, key)


@app.task(bind=True, base=UniqueTask, unique_name="report/{key}", unique_for=3600, max_retries=5)
def report(self, key, fails=0):
    if self.request.retries < fails:
        tell(key, f"retried {self.request.id}")
        raise self.retry(countdown=1)
    return work(self, key)


@app.task(
    bind=True, base=UniqueTask, unique_name="report/{key}", unique_for=3600,
    acks_late=True, reject_on_worker_lost=True,
)  # fmt: skip
def lasting_report(self, key):
    return work(self, key)


@app.task(base=UniqueTask, unique_name="brief/{key}", unique_for=1)
def brief(key):
    return key


@app.task
def step():
    return "done"


@app.task
def often():
    pass


@app.task
def rarely():
    pass
