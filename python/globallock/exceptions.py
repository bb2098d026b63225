"""What can go wrong. That a lock was not to be had is no error."""

__all__ = [
    "GlobalLockClassNotFoundException",
    "GlobalLockError",
    "InvalidAddress",
    "InvalidName",
    "InvalidOption",
    "NotLocked",
    "StoreDenied",
    "StoreUnavailable",
    "StoreUnfit",
]


class GlobalLockClassNotFoundException(Exception):
    """The configured engine class cannot be imported."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self._message = message
        # What callers of earlier releases may look at, whatever the message is.
        self.args = (210103001, "分布锁类未定义")

    def __str__(self) -> str:
        return self._message


class GlobalLockError(Exception):
    """A lock operation failed."""


class InvalidAddress(GlobalLockError, ValueError):
    """The store's address, or what was configured in its place, is wrong."""


class InvalidName(GlobalLockError, ValueError):
    """The lock's name is no text, empty, too long, or has a NUL in it."""


class InvalidOption(GlobalLockError, ValueError):
    """An option is out of its range, or is not known."""


class NotLocked(GlobalLockError):
    """A function that runs only with its lock was called, and the lock was not to be had."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the lock {name!r} was not to be had")


class StoreUnavailable(GlobalLockError, ConnectionError):
    """The store did not answer in time: the same call may succeed later."""


class StoreDenied(GlobalLockError, PermissionError):
    """The store refused the user's credentials or rights."""


class StoreUnfit(GlobalLockError):
    """The store answered, but cannot serve locks as it is."""
