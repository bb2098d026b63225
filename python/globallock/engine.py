"""The connection of a manager, and what goes to and comes from the Rust core by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Optional, Union

from . import _rust
from ._rust import LockRequest
from .addresses import Seconds, is_text, lock_name, seconds
from .constants import DEFAULT_LEASE
from .exceptions import InvalidAddress, InvalidOption
from .fields import EntryFields
from .onlooker import AsyncWatch, Question, Summary, Watch, summaries

__all__ = ["Claim", "Engine", "LockRequest", "Value", "claims"]


@dataclass(frozen=True)
class Claim:
    """One party's place in the queue of a lock: a holder or a waiter. Times are in seconds.

    >>> with lockman.hold("orders/7"):
    ...     [claim] = lockman.inspect("orders/7")
    ...     print(claim.held, claim.pid == os.getpid(), claim.age < 3600)
    True True True
    """

    #: The claim's id; ``None`` for a foreign holder, such as a lock of redis-py.
    id: Optional[str]
    #: Whether it holds the lock; otherwise it waits.
    held: bool
    #: How much of the lock it takes, and of how much.
    permits: int
    capacity: int
    fencing_token: int
    host: str
    pid: Optional[int]
    label: Optional[str]
    #: How long it has held, or waited; ``None`` where the store does not know.
    age: Optional[float]
    #: How long the store keeps it without another sign of life of its owner.
    expires_in: Optional[float]
    #: Which claim this is, of all that there are and will be: for the manager's ``evict()``.
    key: str


@dataclass(frozen=True)
class Value:
    """The value of a lock's name, which a holder has left.

    >>> with lockman.hold("import", with_value=True) as lock:
    ...     lock.set_value(b"row 7", keep=3600)
    ...     lock.value.data, lock.value.fencing_token == lock.fencing_token, lock.value.age < 3600
    True
    (b'row 7', True, True)
    """

    #: What was set. Not shown, because it is nobody's business but the holders'.
    data: bytes = field(repr=False)
    #: The fencing token of the holder that set it.
    fencing_token: int
    #: How many seconds ago that was, when this was read: by the clock of the store where it has one.
    age: float


class Engine:
    """The connection of one manager, which each process makes for itself when it first needs it."""

    def __init__(self, url: str, lease: Optional[Seconds], label: Optional[str], prefix: str = "") -> None:
        if not is_text(url):
            raise InvalidAddress("the address is not a text that can be sent")
        if label is not None and not is_text(label):
            raise InvalidOption("the option label is not a text that can be sent")
        default = DEFAULT_LEASE if lease is None else seconds("lock_ttl", lease)
        self.native = _rust.Manager(url, default, label)
        #: Prepended to the names that are given to the core: the part of the key prefix after its last slash,
        #: which cannot be part of the store's path.
        self.prefix = prefix

    def add_prefix(self, name: Any) -> str:
        """Turns the user's name of a lock into the core's."""
        return lock_name(name, self.prefix)

    def strip_prefix_of(self, name: str) -> str:
        """Turns the core's name of a lock into the user's."""
        return name[len(self.prefix) :]

    def strip_prefix(self, names: "List[str]") -> "List[str]":
        """Turns the core's names of locks into the user's, sorted."""
        return sorted(self.strip_prefix_of(name) for name in names)

    # `List`, because `list` is a method of this class.
    def inspect(self, name: Any) -> "Question[List[Claim]]":
        """Asks for the holders and the waiters of a lock, oldest first."""
        return Question(self.native.inspect(self.add_prefix(name)), claims)

    def names(self, prefix: Any) -> "Question[List[str]]":
        """Asks for the names below a prefix that have a holder or a waiter."""
        return Question(self.native.names(self.add_prefix(prefix)), self.strip_prefix)

    def list(self, prefix: Any) -> "Question[List[Summary]]":
        """Asks for the same, summed up."""
        return Question(self.native.list(self.add_prefix(prefix)), lambda listed: summaries(listed, self))

    def evict(self, name: Any, claim: "Union[Claim, str]", reason: Any) -> "Question[bool]":
        """Asks to take a claim out of the queue of a lock; answers whether it was there."""
        key = claim.key if isinstance(claim, Claim) else claim
        for what, value in (("key of a claim", key), ("reason", reason)):
            if not is_text(value):
                raise InvalidOption(f"the {what} is not a text that can be sent")
        return Question(self.native.evict(self.add_prefix(name), key, reason), bool)

    def watch(self, prefix: Any, every: Seconds) -> Watch:
        """Tells how the names below a prefix change."""
        return Watch(self._watch(prefix, every), self)

    def watch_async(self, prefix: Any, every: Seconds) -> AsyncWatch:
        """Does the same for asyncio."""
        return AsyncWatch(self._watch(prefix, every), self)

    def _watch(self, prefix: Any, every: Seconds) -> _rust.Watch:
        return self.native.watch(self.add_prefix(prefix), seconds("every", every))

    def close(self, limit: float) -> None:
        """Closes the connection once the store has answered all releases, or after ``limit`` seconds."""
        self.native.close(limit)


def claims(entries: "List[EntryFields]") -> "List[Claim]":
    """Makes claims of the entries of a queue that the core has listed."""
    return [
        Claim(id, held, permits, capacity, fencing_token, *owner, age, expires_in, key)
        for key, id, held, permits, capacity, fencing_token, owner, age, expires_in in entries
    ]
