"""Rows of SQLAlchemy's that refuse writes of a holder that has lost its lock meanwhile, and locks that end
with a transaction of SQLAlchemy's.

::

    class Order(Fenced, Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    with lockman.hold("orders/7", timeout=60) as lock, fenced(lock), Session(engine) as session:
        session.get(Order, 7).state = "shipped"
        session.commit()

    with Session(engine) as session:
        transaction_lock(session, "orders/7", wait=5)
        session.get(Order, 7).state = "shipped"
        session.commit()
"""

from __future__ import annotations

from typing import Any

from .exceptions import InvalidOption, StaleToken
from .fenced import fenced, fencing_token
from .frameworks import imported
from .transactions import OUTSIDE, PREFIX, Wait, call, granted

_sqlalchemy: Any = imported("sqlalchemy", __name__, "sqlalchemy")
_orm: Any = imported("sqlalchemy.orm", __name__, "sqlalchemy")

__all__ = ["Fenced", "fenced", "transaction_lock"]


def transaction_lock(
    session: Any, name: str, wait: Wait = None, *, schema: str = "globallock", prefix: str = PREFIX
) -> int:
    """Takes a lock until this transaction in PostgreSQL ends, and returns the fencing token.

    >>> with Session(engine) as session:
    ...     transaction_lock(session, "orders/7", wait=5)
    ...     session.get(Order, 7).state = "shipped"
    ...     session.commit()

    With an ``AsyncSession`` or an ``AsyncConnection``:
    ``await session.run_sync(transaction_lock, "orders/7", wait=5)``.

    :param session: a session or a connection, of the database that has the tables of locks.
    :param name: the same as that of managers' locks.
    :param wait: for so long, in seconds or a ``timedelta``; 0 tries, ``None`` waits for ever.
    :param schema: where the tables of locks are.
    :param prefix: that of the managers' address.
    :raises NotLocked: somebody else had it all the time. The transaction has not failed.
    """
    function, (name, milliseconds, prefix) = call(name, wait, schema, prefix)
    connection = session.connection() if isinstance(session, _orm.Session) else session
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise InvalidOption(f"the connection is in autocommit mode: {OUTSIDE}")
    statement = f"SELECT {function}(CAST(:name AS text), CAST(:wait AS bigint), CAST(:prefix AS text))"
    arguments = {"name": name, "wait": milliseconds, "prefix": prefix}
    return granted(name, connection.execute(_sqlalchemy.text(statement), arguments).scalar())


class Fenced:
    """A mixin of mapped classes: a row keeps the highest fencing token that wrote it, and refuses lower ones.

    A flush compares the token of the block of ``fenced()`` around with that of the row, which it locks until
    the transaction ends. Without a token it raises ``NotLocked``. What a statement writes by itself
    (``session.execute(update(…))``) is not compared.

    :raises StaleToken: a later holder has written the row. The flush has failed.
    """

    fence = _orm.mapped_column(_sqlalchemy.BigInteger, nullable=False, default=0, server_default="0")


def _inserted(_mapper: Any, _connection: Any, row: Any) -> None:
    row.fence = fencing_token()


def _changed(mapper: Any, connection: Any, row: Any) -> None:
    token = fencing_token()
    table = mapper.columns.fence.table
    key = _sqlalchemy.inspect(row).identity
    columns = [column for column in mapper.primary_key if column.table is table]
    found = _sqlalchemy.select(table.c.fence).where(*(one == value for one, value in zip(columns, key)))
    seen = connection.execute(found.with_for_update()).scalar()
    if seen is not None and seen > token:
        raise StaleToken(
            f"the fencing token {token} is lower than {seen}, by which this row of {table.name} was written: "
            "the lock was lost, and somebody else has held it since"
        )
    row.fence = token


for _event, _listener in (
    ("before_insert", _inserted),
    ("before_update", _changed),
    ("before_delete", _changed),
):
    _sqlalchemy.event.listen(Fenced, _event, _listener, propagate=True)
