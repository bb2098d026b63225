"""A lock that is taken in a transaction of the user's own in PostgreSQL, and ends with it.

It excludes the locks of managers with the same name, and other transactions.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Optional, Tuple, Union

from .exceptions import InvalidName, InvalidOption, NotLocked

__all__ = ["transaction_lock"]

#: How long to wait: in seconds, or for ever.
Wait = Union[float, timedelta, None]

#: What comes before a name in its key, as the option `prefix` of an address.
PREFIX = "_glocks:"

#: Where to call it.
OUTSIDE = "the lock would end with its own statement: take it in the transaction that it is for"

_IDLE = 0


def transaction_lock(
    cursor: Any, name: str, wait: Wait = None, *, schema: str = "globallock", prefix: str = PREFIX
) -> int:
    """Takes a lock until this transaction in PostgreSQL ends, and returns the fencing token.

    >>> with psycopg.connect(url) as connection, connection.cursor() as cursor:
    ...     token = transaction_lock(cursor, "orders/7", wait=5)
    ...     cursor.execute("UPDATE orders SET state = 'shipped' WHERE id = 7")

    It needs no connection but this one, and also works through a pooler. Taken again, it is there already. A
    savepoint that is rolled back gives back what was taken since.

    :param cursor: of psycopg or psycopg2, of the database that has the tables of locks.
    :param name: the same as that of managers' locks.
    :param wait: for so long, in seconds or a ``timedelta``; 0 tries, ``None`` waits for ever.
    :param schema: where the tables of locks are.
    :param prefix: that of the managers' address.
    :raises NotLocked: somebody else had it all the time. The transaction has not failed.
    """
    function, arguments = call(name, wait, schema, prefix)
    connection = cursor.connection
    is_idle = connection.info.transaction_status == _IDLE
    if connection.autocommit and is_idle:
        raise InvalidOption(f"the connection is in autocommit mode: {OUTSIDE}")
    cursor.execute(f"SELECT {function}(%s, %s::bigint, %s)", arguments)
    return granted(name, cursor.fetchone()[0])


def call(
    name: str, wait: Wait, schema: str, prefix: str
) -> "Tuple[str, Tuple[str, Optional[int], str]]":
    """The function to call, and its arguments."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidName(f"invalid lock name {name!r}: give a text that is not empty")
    if re.fullmatch("[a-z_][a-z0-9_]*", schema) is None:
        raise InvalidOption(f"the option schema is {schema!r}: give the name that the address has")
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if seconds is not None and not 0 <= seconds < 2**40:
        raise InvalidOption(f"the option wait is {wait!r}: give seconds from 0 on, or None to wait for ever")
    milliseconds = None if seconds is None else round(seconds * 1000)
    return f'"{schema}".transaction_lock_1', (name, milliseconds, prefix)


def granted(name: str, token: "Optional[int]") -> int:
    """What the function says."""
    if token is None:
        raise NotLocked(name)
    return token
