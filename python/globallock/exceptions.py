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
    "StoreDenied",
    "StoreUnavailable",
    "StoreUnfit",
]


class Loss(enum.Enum):
    """Why a lock is not held any more, though its owner did not release it."""

    #: No renewal was confirmed before the lease expired: the store was away, or this process was stopped.
    EXPIRED = "expired"
    #: It was held for its max hold time (``timeout``).
    HELD_TOO_LONG = "held_too_long"
    #: The store has no such claim any more: somebody deleted its key, or the store lost its data.
    REVOKED = "revoked"
    #: An operator took it away, by ``evict()`` or ``globallock break``.
    EVICTED = "evicted"


class Reason(str):
    """A sentence that says why a lock is lost, or why its owner is asked to end its work."""

    #: Which kind of loss it is; ``None`` if the lock is still held, and its planned end has come.
    loss: Optional[Loss]

    def __new__(cls, sentence: str, loss: Optional[Loss] = None) -> "Reason":
        reason = super().__new__(cls, sentence)
        reason.loss = loss
        return reason

    @classmethod
    def made_of(cls, fields: "Optional[ReasonFields]") -> "Optional[Reason]":
        """Makes a reason of what the core says."""
        if fields is None:
            return None
        kind, sentence = fields
        return cls(sentence, None if kind == "asked" else Loss(kind))


class GlobalLockClassNotFoundException(Exception):
    """The configured engine class cannot be imported."""

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
    """A lock operation failed."""


class Evicted(GlobalLockError):
    """Somebody took this waiter out of the queue. The text says who, and why: ask before you try again."""


class InvalidAddress(GlobalLockError, ValueError):
    """The store's address, or what was configured in its place, is wrong."""


class InvalidName(GlobalLockError, ValueError):
    """The lock's name is not a text, is empty or too long, or contains a NUL."""


class InvalidOption(GlobalLockError, ValueError):
    """An option is outside its range, or is not known."""


class NotLocked(GlobalLockError):
    """What needs its lock was called, and the lock was not granted, or is not held."""

    def __init__(self, name: str, why: str = "was not granted") -> None:
        super().__init__(f"the lock {name!r} {why}")
        #: The name of the lock.
        self.name: Optional[str] = name
        self._why = why

    def __reduce__(self) -> Any:
        return (type(self), (self.name, self._why), self.__dict__)


class LockLost(NotLocked):
    """The lock was lost while its owner needed it. The text says why; another owner may hold it by now."""

    def __init__(self, text: str, name: Optional[str] = None, loss: Optional[Loss] = None) -> None:
        GlobalLockError.__init__(self, text)
        self.name = name
        #: Why it was lost, where that is known.
        self.loss = loss

    def __reduce__(self) -> Any:
        return (type(self), (str(self), self.name, self.loss), self.__dict__)


class HeldTooLong(GlobalLockError, TimeoutError):
    """Work was ended because its lock was held for the max hold time; the lock was kept until then."""


class StoreUnavailable(GlobalLockError, ConnectionError):
    """The store did not answer in time: the same call may succeed later."""


class StoreDenied(GlobalLockError, PermissionError):
    """The store refused the user's credentials or rights."""


class StoreUnfit(GlobalLockError):
    """The store answered, but cannot serve locks in its present state."""
