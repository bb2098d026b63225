"""A lock that is taken in the user's own transaction, and ends with it."""

import contextlib
import json
import os
from datetime import timedelta

import globallock
import pytest
from conftest import django_database, ends, run
from frameworks import needs_framework
from globallock.transactions import transaction_lock

needs_framework("django", "psycopg", "sqlalchemy")


@pytest.fixture
def database_lockman(postgres_server):
    with globallock.GlobalLockManager(postgres_server.url) as lockman:
        yield lockman


@contextlib.contextmanager
def connected(server, **options):
    import psycopg

    with psycopg.connect(server.url, **options) as connection:
        yield connection


def is_free(lockman, name):
    lock = lockman.lock(name, blocking=False)
    if not lock.acquire():
        return False
    lock.release()
    return True


def test_a_transaction_has_the_lock_until_it_ends(postgres_server, database_lockman):
    with connected(postgres_server) as connection, connected(postgres_server) as other:
        first = transaction_lock(connection.cursor(), "a", wait=0)
        assert not is_free(database_lockman, "a")
        assert is_free(database_lockman, "b")
        for wait in (0, 0.05, timedelta(milliseconds=50)):
            with pytest.raises(globallock.NotLocked, match="the lock 'a' was not granted"):
                transaction_lock(other.cursor(), "a", wait)
        assert transaction_lock(connection.cursor(), "a") > first
        connection.commit()
        assert is_free(database_lockman, "a")
        with database_lockman.hold("a", timeout=60) as lock:
            with pytest.raises(globallock.NotLocked):
                transaction_lock(other.cursor(), "a", wait=0.05)
            token = lock.fencing_token
        # The transaction has not failed by that.
        assert transaction_lock(other.cursor(), "a", wait=5) > token > first


def test_a_lock_outside_of_transactions_and_wrong_options_are_refused(postgres_server):
    with connected(postgres_server, autocommit=True) as connection:
        with pytest.raises(globallock.InvalidOption, match="in autocommit mode: the lock would end"):
            transaction_lock(connection.cursor(), "a")
        with connection.transaction():
            transaction_lock(connection.cursor(), "a")
    with pytest.raises(globallock.InvalidOption, match="the option schema"):
        transaction_lock(None, "a", schema='x"; DROP')
    for wait in (-1, float("inf"), float("nan")):
        with pytest.raises(globallock.InvalidOption, match="the option wait"):
            transaction_lock(None, "a", wait)
    for name in ("", "a\0", 7):
        with pytest.raises(globallock.InvalidName):
            transaction_lock(None, name)


PROJECT = """
import json, os
from django.conf import settings
settings.configure(
    DATABASES={
        "default": json.loads(os.environ["DATABASE"]),
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
    INSTALLED_APPS=[], USE_TZ=True, GLOBAL_LOCK_CONFIG=os.environ["URL"],
)
import django
django.setup()
from django.db import transaction
import globallock
from globallock.django import get_shared_global_lock_manager, transaction_lock

lockman = get_shared_global_lock_manager()

def is_free():
    lock = lockman.lock("a", blocking=False)
    return lock.acquire() and (lock.release() or True)

def told(work):
    try:
        work()
    except globallock.GlobalLockError as error:
        return f"{type(error).__name__}: {error}"
    return "done"

print(told(lambda: transaction_lock("a")))
print(told(lambda: transaction_lock("a", using="other")))
with transaction.atomic():
    token = transaction_lock("a", wait=0)
    print(is_free())
print(is_free())
with lockman.hold("a", timeout=60) as lock, transaction.atomic():
    print(told(lambda: transaction_lock("a", wait=0.05)), lock.fencing_token > token)
try:
    with transaction.atomic():
        transaction_lock("a", 5)
        raise ValueError
except ValueError:
    print(is_free())
"""


def test_djangos_transactions_take_locks(postgres_server):
    url = postgres_server.url
    project = {"DATABASE": json.dumps(django_database(url)), "URL": url}
    outside = "the lock would end with its own statement: take it in the transaction that it is for"
    assert ends(run(PROJECT, env={**os.environ, **project})).splitlines() == [
        f"InvalidOption: there is no transaction.atomic() around: {outside}",
        "InvalidOption: the database 'other' is SQLite: a lock in a transaction needs PostgreSQL",
        "False",
        "True",
        "NotLocked: the lock 'a' was not granted True",
        "True",
    ]


def test_transactions_of_sqlalchemy_take_locks(postgres_server, database_lockman):
    import sqlalchemy
    from globallock.sqlalchemy import transaction_lock
    from sqlalchemy.orm import Session

    engine = sqlalchemy.create_engine(postgres_server.url.replace("postgres://", "postgresql+psycopg://"))
    with Session(engine) as session:
        first = transaction_lock(session, "a", wait=5)
        assert not is_free(database_lockman, "a")
        session.rollback()
        assert is_free(database_lockman, "a")
    with database_lockman.hold("a", timeout=60), engine.connect() as connection:
        with pytest.raises(globallock.NotLocked, match="the lock 'a' was not granted"):
            transaction_lock(connection, "a", 0)
    with engine.begin() as connection:
        assert transaction_lock(connection, "a", timedelta(seconds=5)) > first
    at_once = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with at_once, pytest.raises(globallock.InvalidOption, match="in autocommit mode"):
        transaction_lock(at_once, "a")
    engine.dispose()


def test_asynchronous_sessions_of_sqlalchemy_take_locks(postgres_server, database_lockman):
    import asyncio

    from globallock.sqlalchemy import transaction_lock
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main():
        engine = create_async_engine(postgres_server.url.replace("postgres://", "postgresql+psycopg://"))
        async with AsyncSession(engine) as session:
            await session.run_sync(transaction_lock, "a", 5)
            assert not await asyncio.to_thread(is_free, database_lockman, "a")
            await session.commit()
            assert await asyncio.to_thread(is_free, database_lockman, "a")
        await engine.dispose()

    asyncio.run(main())
