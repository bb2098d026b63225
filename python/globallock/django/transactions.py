"""Locks that end with a transaction of Django's."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, connections

from ..exceptions import InvalidOption
from ..transactions import OUTSIDE, PREFIX, Wait, call, granted

__all__ = ["transaction_lock"]


def transaction_lock(
    name: str,
    wait: Wait = None,
    using: str = DEFAULT_DB_ALIAS,
    *,
    schema: str = "globallock",
    prefix: str = PREFIX,
) -> int:
    """Takes a lock until the outermost ``atomic()`` ends, and returns the fencing token.

    >>> with transaction.atomic():
    ...     transaction_lock("orders/7", wait=5)
    ...     Order.objects.filter(pk=7).update(state="shipped")

    It uses the connection of the transaction and no other, and excludes the locks of managers that have this
    database. An inner ``atomic()`` that is rolled back gives back what was taken in it.

    :param name: the same as that of managers' locks.
    :param wait: for so long, in seconds or a ``timedelta``; 0 tries, ``None`` waits for ever.
    :param using: the database, which must be PostgreSQL and have the tables of locks.
    :param schema: where the tables of locks are.
    :param prefix: that of the managers' address.
    :raises NotLocked: somebody else had it all the time. The transaction has not failed.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        kind = connection.display_name
        raise InvalidOption(f"the database {using!r} is {kind}: a lock in a transaction needs PostgreSQL")
    function, arguments = call(name, wait, schema, prefix)
    if connection.get_autocommit():
        raise InvalidOption(f"there is no transaction.atomic() around: {OUTSIDE}")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s, %s::bigint, %s)", arguments)
        return granted(name, cursor.fetchone()[0])
