"""Writes of a holder that has lost its lock are refused where they are written."""

import threading

import globallock
import pytest
from conftest import ends, run
from frameworks import needs_framework
from globallock.fenced import check_fence, fenced, fencing_token

needs_framework("django", "psycopg", "sqlalchemy")


def test_a_block_gives_its_writes_the_token_of_a_lock_that_is_held(lockman):
    with pytest.raises(globallock.NotLocked, match="this write has no fencing token"):
        fencing_token()
    with lockman.hold("a", timeout=60) as lock, fenced(lock) as token:
        assert fencing_token() == fencing_token(lock) == token == lock.fencing_token
        with fenced(7):
            assert fencing_token() == 7
        assert fencing_token() == token
    with pytest.raises(globallock.NotLocked, match="the lock 'a' is not held"):
        fencing_token(lock)
    with pytest.raises(globallock.InvalidOption, match="of type bool"):
        fencing_token(True)


def test_the_database_refuses_a_lower_token_until_the_end_of_its_transactions(postgres_server):
    import psycopg

    with globallock.GlobalLockManager(postgres_server.url) as lockman:
        with lockman.hold("orders/7", timeout=60) as earlier:
            early = earlier.fencing_token
        connect = psycopg.connect(postgres_server.url)
        with lockman.hold("orders/7", timeout=60) as later, connect as connection:
            check_fence(connection.cursor(), "orders/7", later)
            connection.commit()
            check_fence(connection.cursor(), "orders/8", early)
            lower = f"{early} of 'orders/7' is lower than"
            with pytest.raises(globallock.StaleToken, match=lower) as refused:
                check_fence(connection.cursor(), "orders/7", early)
            assert "GL003" not in str(refused.value)
            connection.rollback()
            # What was rolled back has not been here.
            with fenced(later.fencing_token + 5):
                check_fence(connection.cursor(), "orders/7")
            connection.rollback()
            check_fence(connection.cursor(), "orders/7", later)
            # Whoever comes meanwhile waits for the end of this transaction.
            told = []
            waits = threading.Thread(target=lambda: told.append(fence_elsewhere(postgres_server.url, early)))
            waits.start()
            wait_for_a_waiter(postgres_server.url)
            assert not told
            connection.commit()
            waits.join()
            assert told == ["StaleToken"]
        with pytest.raises(globallock.InvalidOption, match="the option schema"):
            check_fence(None, "a", 7, schema='x"; DROP')


def fence_elsewhere(url, token):
    import psycopg

    with psycopg.connect(url) as connection:
        try:
            check_fence(connection.cursor(), "orders/7", token)
        except globallock.StaleToken as error:
            return type(error).__name__
    return None


def wait_for_a_waiter(url):
    import psycopg

    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND query LIKE '%fence_1%'"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(waiting).fetchone() == (0,):
            pass


MODEL = """
import sys
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.contenttypes"], USE_TZ=True, GLOBAL_LOCK_CONFIG="memory:",
)
import django
django.setup()
from django.db import connection, models
import globallock
from globallock.django.fenced import FencedModel, fenced

class Order(FencedModel):
    state = models.CharField(max_length=20, default="new")
    class Meta:
        app_label = "shop"

with connection.schema_editor() as editor:
    editor.create_model(Order)

def told(work):
    try:
        work()
    except globallock.GlobalLockError as error:
        return type(error).__name__
    return "done"

order = Order(pk=7)
print(told(order.save))
with fenced(10):
    print(told(order.save), order.fence)
stale = Order.objects.get(pk=7)
with fenced(12):
    order.state = "shipped"
    print(told(lambda: order.save(update_fields=["state"])), order.fence)
with fenced(11):
    stale.state = "lost"
    print(told(stale.save), stale.fence, told(stale.delete))
print(told(order.delete), *Order.objects.values_list("state", "fence"))
with fenced(12):
    print(told(order.save), told(order.delete), Order.objects.count())
"""


def test_a_row_of_a_fenced_model_refuses_lower_tokens():
    assert ends(run(MODEL)).splitlines() == [
        "NotLocked",
        "done 10",
        "done 12",
        "StaleToken 10 StaleToken",
        "NotLocked ('shipped', 12)",
        "done done 0",
    ]


def test_a_row_of_a_fenced_class_of_sqlalchemy_refuses_lower_tokens(postgres_server):
    import sqlalchemy
    from globallock.sqlalchemy import Fenced
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Order(Fenced, Base):
        __tablename__ = "fenced_orders"
        __table_args__ = {"schema": "globallock"}
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str]

    engine = sqlalchemy.create_engine(postgres_server.url.replace("postgres://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    try:
        with fenced(10), Session(engine) as session:
            session.add(Order(id=7, state="new"))
            session.commit()
        with fenced(12), Session(engine) as session:
            session.get(Order, 7).state = "shipped"
            session.commit()
            assert session.get(Order, 7).fence == 12
        for token, change in ((11, "lost"), (11, None)):
            with fenced(token), Session(engine) as session:
                order = session.get(Order, 7)
                if change is None:
                    session.delete(order)
                else:
                    order.state = change
                with pytest.raises(globallock.StaleToken, match="11 is lower than 12"):
                    session.commit()
        with Session(engine) as session:
            session.get(Order, 7).state = "nobody's"
            with pytest.raises(globallock.NotLocked):
                session.commit()
        with fenced(12), Session(engine) as session:
            assert session.get(Order, 7).state == "shipped"
            session.delete(session.get(Order, 7))
            session.commit()
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()
