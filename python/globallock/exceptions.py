"""The errors, and why a lock is lost. That another owner holds a lock is not an error."""

from __future__ import annotations

import enum
from typing import Any, Optional

from .fields import ReasonFields

__all__ = [
    "Evicted",
    "GlobalLockClassNotFoundException",
    "GlobalLockError",
    "HeldTooLong",
    "InvalidAddress",
    "InvalidName",
    "InvalidOption",
    "LockLost",
    "Loss",
    "NotLocked",
    "Reason",
    "StaleToken",
    "StoreDenied",
    "StoreUnavailable",
    "StoreUnfit",
]


class Loss(enum.Enum):
    """Why a lock is not held any more, though its owner did not release it.

    >>> with lockman.hold("orders/7", timeout=0.1) as lock:
    ...     if lock.wait_lost(timeout=30).loss is Loss.HELD_TOO_LONG:
    ...         print("give it a longer timeout")
    give it a longer timeout
    """

    #: No renewal was confirmed before the lease expired: the store was away, or this process was stopped.
    EXPIRED = "expired"
    #: It was held for its max hold time (``timeout``).
    HELD_TOO_LONG = "held_too_long"
    #: The store has no such claim any more: somebody deleted its key, or the store lost its data.
    REVOKED = "revoked"
    #: An operator took it away, by ``evict()`` or ``globallock break``.
    EVICTED = "evicted"


class Reason(str):
    """A sentence that says why a lock is lost, or why its owner is asked to end its work.

    >>> with lockman.hold("orders/7", timeout=0.1) as lock:
    ...     reason = lock.wait_lost(timeout=30)
    >>> print(reason, reason.loss, sep="; ")
    it was held for its max hold time; Loss.HELD_TOO_LONG
    """

    #: Which kind of loss it is; ``None`` if the lock is still held, and its planned end has come.
    loss: Optional[Loss]

    def __new__(cls, sentence: str, loss: Optional[Loss] = None) -> "Reason":
        reason = super().__new__(cls, sentence)
        reason.loss = loss
        return reason


def reason_of(fields: "Optional[ReasonFields]") -> Optional[Reason]:
    """Makes a reason of what the core says."""
    if fields is None:
        return None
    kind, sentence = fields
    return Reason(sentence, None if kind == "asked" else Loss(kind))


class GlobalLockClassNotFoundException(Exception):
    """The configured engine class cannot be imported.

    >>> GlobalLockManager({"global_lock_engine_class": "shop.Missing"})
    Traceback (most recent call last):
    globallock.exceptions.GlobalLockClassNotFoundException: global lock class shop.Missing is NOT found...
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self._message = message
        # Callers of earlier releases may look at these, whatever the message is.
        self.args = (210103001, "分布锁类未定义")

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> Any:
        return (type(self), (self._message,))


class GlobalLockError(Exception):
    """A lock operation failed.

    >>> try:
    ...     with lockman.hold("orders/7"), lockman.hold("orders/7", blocking=False):
    ...         print("ships the order")
    ... except GlobalLockError as error:
    ...     print(error)
    the lock 'orders/7' was not granted
    """


class Evicted(GlobalLockError):
    """Somebody took this waiter out of the queue. The text says who, and why: ask before you try again.

    >>> async def main():
    ...     async with lockman.aio.hold("orders/7"), lockman.aio.watch() as changes:
    ...         waiter = asyncio.ensure_future(lockman.aio.lock("orders/7").acquire())
    ...         async for summary in changes:
    ...             if summary.waiters:
    ...                 break
    ...         [_, waits] = await lockman.aio.inspect("orders/7")
    ...         await lockman.aio.evict("orders/7", waits)
    ...         try:
    ...             await waiter
    ...         except Evicted:
    ...             print("asks why before it tries again")
    >>> asyncio.run(main())
    asks why before it tries again
    """


class InvalidAddress(GlobalLockError, ValueError):
    """The store's address, or what was configured in its place, is wrong.

    >>> GlobalLockManager("reddis://127.0.0.1")
    Traceback (most recent call last):
    globallock.exceptions.InvalidAddress: the address has the scheme 'reddis': did you mean 'redis'?
    """


class InvalidName(GlobalLockError, ValueError):
    """The lock's name is not a text, is empty or too long, or contains a NUL.

    >>> lockman.lock("").acquire()
    Traceback (most recent call last):
    globallock.exceptions.InvalidName: invalid lock name "": it is empty
    """


class InvalidOption(GlobalLockError, ValueError):
    """An option is outside its range, or is not known.

    >>> lockman.lock("orders/7", timout=60)
    Traceback (most recent call last):
    globallock.exceptions.InvalidOption: UrlGlobalLock: lock() has no option 'timout': did you mean 'timeout'?
    """


class NotLocked(GlobalLockError):
    """What needs its lock was called, and the lock was not granted, or is not held.

    >>> with lockman.hold("orders/7"):
    ...     try:
    ...         with lockman.hold("orders/7", blocking=False):
    ...             print("ships the order")
    ...     except NotLocked as error:
    ...         print(error.name, "is being shipped by somebody else")
    orders/7 is being shipped by somebody else
    """

    def __init__(self, name: str, why: str = "was not granted") -> None:
        super().__init__(f"the lock {name!r} {why}")
        #: The name of the lock.
        self.name: Optional[str] = name
        self._why = why

    def __reduce__(self) -> Any:
        return (type(self), (self.name, self._why), self.__dict__)


class LockLost(NotLocked):
    """The lock was lost while its owner needed it. The text says why; another owner may hold it by now.

    >>> with lockman.hold("import", timeout=0.1) as lock:
    ...     lock.lost_event().wait(30)
    ...     try:
    ...         lock.set_value(b"row 7", keep=3600)
    ...     except LockLost as error:
    ...         print("row 7 is not recorded")
    True
    row 7 is not recorded
    """

    def __init__(self, text: str, name: Optional[str] = None, loss: Optional[Loss] = None) -> None:
        GlobalLockError.__init__(self, text)
        self.name = name
        #: Why it was lost, where that is known.
        self.loss = loss

    def __reduce__(self) -> Any:
        return (type(self), (str(self), self.name, self.loss), self.__dict__)


class HeldTooLong(GlobalLockError, TimeoutError):
    """Work was ended because its lock was held for the max hold time; the lock was kept until then.

    >>> async def main():
    ...     try:
    ...         await lockman.aio.lock("reindex", timeout=0.1, grace=30).run(asyncio.sleep, 3600)
    ...     except HeldTooLong as error:
    ...         print(error)
    >>> asyncio.run(main())
    the lock 'reindex' was held for its timeout of 0.1 s, and its work was ended
    """


class StoreUnavailable(GlobalLockError, ConnectionError):
    """The store did not answer in time: the same call may succeed later.

    >>> try:
    ...     GlobalLockManager("redis://127.0.0.1:1").lock("orders/7", blocking_timeout=0.1).acquire()
    ... except StoreUnavailable:
    ...     print("try again later")
    try again later
    """


class StaleToken(GlobalLockError):
    """A write has a lower fencing token than an earlier one: its lock was lost, and held by others since.

    >>> def ship(order, token):
    ...     if token < order["fence"]:
    ...         raise StaleToken("a later holder has shipped it")
    >>> try:
    ...     ship({"fence": 12}, token=11)
    ... except StaleToken as stale:
    ...     print(stale)
    a later holder has shipped it
    """


class StoreDenied(GlobalLockError, PermissionError):
    """The store refused the user's credentials or rights."""


class StoreUnfit(GlobalLockError):
    """The store answered, but cannot serve locks in its present state.

    >>> try:
    ...     GlobalLockManager("file:///dev/null").lock("orders/7").acquire()
    ... except StoreUnfit:
    ...     print("name a directory")
    name a directory
    """
