"""The errors. That another owner holds a lock is not one of them."""

__all__ = [
    "Evicted",
    "GlobalLockClassNotFoundException",
    "GlobalLockError",
    "HeldTooLong",
    "InvalidAddress",
    "InvalidName",
    "InvalidOption",
    "LockLost",
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
        # Callers of earlier releases may look at these, whatever the message is.
        self.args = (210103001, "分布锁类未定义")

    def __str__(self) -> str:
        return self._message


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


class LockLost(NotLocked):
    """The lock was lost while its owner needed it. The text says why; another owner may hold it by now."""

    def __init__(self, text: str) -> None:
        GlobalLockError.__init__(self, text)


class HeldTooLong(GlobalLockError, TimeoutError):
    """Work was ended because its lock was held for the max hold time; the lock was kept until then."""


class StoreUnavailable(GlobalLockError, ConnectionError):
    """The store did not answer in time: the same call may succeed later."""


class StoreDenied(GlobalLockError, PermissionError):
    """The store refused the user's credentials or rights."""


class StoreUnfit(GlobalLockError):
    """The store answered, but cannot serve locks in its present state."""
