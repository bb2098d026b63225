"""The guarded side of a lock: writes of a holder that has lost its lock meanwhile are refused.

A lock cannot stop a process that was paused while it wrote. What it writes to can, if it refuses fencing
tokens that are lower than one that it has seen.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from typing import Any, Iterator, Optional

from .exceptions import InvalidOption, NotLocked, StaleToken

__all__ = ["check_fence", "fenced", "fencing_token"]

#: The token of the writes of this task or thread, if there is one.
_token: "contextvars.ContextVar[Optional[int]]" = contextvars.ContextVar("globallock_fence", default=None)

#: The SQLSTATE of a token that is refused.
_REFUSED = "GL003"


@contextlib.contextmanager
def fenced(lock: Any) -> "Iterator[int]":
    """Gives the writes of this block the fencing token of ``lock``, and returns the token.

    >>> with lockman.hold("orders/7", timeout=60) as lock, fenced(lock) as token:
    ...     token == lock.fencing_token
    True

    :param lock: a lock that is held, or its token.
    :raises NotLocked: the lock is not held.
    """
    reset = _token.set(fencing_token(lock))
    try:
        token = _token.get()
        assert token is not None
        yield token
    finally:
        _token.reset(reset)


def fencing_token(lock: Any = None) -> int:
    """Returns the token of a lock, or without one that of the block of :func:`fenced` around.

    >>> with lockman.hold("orders/7", timeout=60) as lock:
    ...     fencing_token(lock) == lock.fencing_token
    True

    :raises NotLocked: the lock is not held, or there is no block around.
    """
    if isinstance(lock, bool):
        raise InvalidOption("the fencing token is of type bool: give a lock, or its token")
    token: Any = _token.get() if lock is None else getattr(lock, "fencing_token", lock)
    if token is None:
        name = getattr(lock, "name", "")
        what = "this write has no fencing token" if lock is None else f"the lock {name!r} is not held"
        raise NotLocked(f"{what}: write within `with fenced(lock):`, or give the lock that is held")
    return int(token)


def check_fence(cursor: Any, resource: str, lock: Any = None, *, schema: str = "globallock") -> None:
    """Refuses to go on in a transaction in PostgreSQL if a later holder has been here before.

    ::

        with transaction.atomic(), connection.cursor() as cursor:
            check_fence(cursor, "orders/7", lock)
            cursor.execute("UPDATE orders SET state = 'shipped' WHERE id = 7")

    Call it in the transaction that writes, before it does. Until that ends, others of the same resource wait.

    :param cursor: of psycopg or psycopg2, or of Django, of the database that has the tables of locks.
    :param resource: what is written; by convention the name of the lock.
    :param lock: a lock that is held, or its token. Default: that of the block of :func:`fenced` around.
    :param schema: where the tables of locks are.
    :raises StaleToken: a later holder has been here. The transaction has failed, as after any error.
    """
    if re.fullmatch("[a-z_][a-z0-9_]*", schema) is None:
        raise InvalidOption(f"the option schema is {schema!r}: give the name that the address has")
    token = fencing_token(lock)
    try:
        cursor.execute(f'SELECT "{schema}".fence_1(%s, %s)', (resource, token))
    except Exception as error:
        refused = _refusal(error)
        if refused is None:
            raise
        raise StaleToken(refused) from error


def _refusal(error: "Optional[BaseException]") -> Optional[str]:
    """What the server says of a token that it refuses; Django's errors have the driver's as their cause."""
    while error is not None:
        if _REFUSED in (getattr(error, "sqlstate", None), getattr(error, "pgcode", None)):
            return str(error).splitlines()[0]
        error = error.__cause__
    return None
