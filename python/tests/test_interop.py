"""Locks that exclude those of django-pglock, for a project that moves over."""

import json
import os

from conftest import django_database, ends, run
from frameworks import needs_framework

needs_framework("django", "pglock", "psycopg")

PROJECT = """
import json, os
from django.conf import settings
settings.configure(
    DATABASES={"default": json.loads(os.environ["DATABASE"])},
    INSTALLED_APPS=["pgactivity", "pglock"], USE_TZ=True,
)
import django
django.setup()
import globallock
import pglock

def theirs(name, **options):
    with pglock.advisory(name, timeout=0, **options) as acquired:
        return acquired

def ours(name):
    lock = lockman.lock(name, blocking=False)
    return lock.acquire() and (lock.release() or True)

for option in ("advisory", "django-pglock", "no"):
    lockman = globallock.GlobalLockManager(os.environ["URL"] + "?interop=" + option)
    for name in ("a", "orders/7", "é漢字"):
        with lockman.hold(name, timeout=60):
            held = theirs(name), theirs(name, shared=True), theirs(name + "b")
        with pglock.advisory(name):
            print(option, held, theirs(name), ours(name), ours(name + "b"))
        assert ours(name)
    lockman.close()

lockman = globallock.GlobalLockManager(os.environ["URL"] + "?interop=advisory")
pglock.advisory("a").acquire()
waiter = lockman.lock("a", timeout=60, blocking_timeout=30)
import threading
acquiring = threading.Thread(target=waiter.acquire)
acquiring.start()
while not lockman.inspect("a"):
    pass
print(waiter.is_locked)
pglock.advisory("a").release()
acquiring.join()
print(theirs("a"))
"""


def test_locks_of_django_pglock_and_ours_exclude_each_other_both_ways(postgres_server):
    url = postgres_server.url
    project = {"DATABASE": json.dumps(django_database(url)), "URL": url}
    excludes = "(False, False, True) True False True"
    assert ends(run(PROJECT, env={**os.environ, **project})).splitlines() == [
        *[f"advisory {excludes}"] * 3,
        *[f"django-pglock {excludes}"] * 3,
        *["no (True, True, True) True True True"] * 3,
        "False",
        "False",
    ]
