"""What onlookers see of a store: the names that are in use, and how that changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, TypeVar

from . import _rust
from .fields import SummaryFields
from .greenlets import ask

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["AsyncWatch", "Question", "Summary", "Watch", "summaries"]

S = TypeVar("S")
T = TypeVar("T")


class Question(Generic[T]):
    """What is asked of a store, and how the answer is read: by a thread, or by a task."""

    def __init__(self, request: "_rust.Request[S]", read: "Callable[[S], T]") -> None:
        self._request: "_rust.Request[Any]" = request
        self._read: "Callable[[Any], T]" = read

    def answer(self) -> T:
        """Waits for the answer."""
        return self._read(ask(self._request))

    async def answer_async(self) -> T:
        """Waits for the answer, while other tasks run."""
        from .loops import outcome

        return self._read(await outcome(self._request))


@dataclass(frozen=True)
class Summary:
    """One name, and how many have it or wait for it. Times are in seconds."""

    #: The name, as ``lock()`` takes it.
    name: str
    #: What its first claim makes of it: ``mutex``, ``read``, ``write``, or of a semaphore the permits that
    #: are held, such as ``2/5``. ``None`` for a name that is free.
    kind: Optional[str]
    #: How many claims hold it, and how many wait for it.
    holders: int
    waiters: int
    #: The highest fencing token that is held; 0 where nobody holds it, or nobody of ours.
    fencing_token: int
    #: How long the oldest claim has held, or waited; ``None`` where the store does not know.
    oldest: Optional[float]

    @property
    def is_free(self) -> bool:
        """Whether nobody has the name or waits for it: ``watch()`` tells so when the last claim has gone."""
        return self.holders == 0 and self.waiters == 0


class Watch:
    """The changes of a store, one after the other; ends when it is closed, or its manager is."""

    def __init__(self, native: _rust.Watch, engine: Engine) -> None:
        self._native, self._engine = native, engine

    def __iter__(self) -> "Watch":
        return self

    def __next__(self) -> Summary:
        while ask(self._native.next()):
            change = _taken(self._native, self._engine)
            if change is not None:
                return change
        raise StopIteration

    def close(self) -> None:
        """Ends it, also for a thread that waits for the next change. May be called again."""
        self._native.close()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class AsyncWatch:
    """The changes of a store for asyncio; ends when it is closed, or its manager is.

    If the wait for the next change is cancelled, that change is not lost.
    """

    def __init__(self, native: _rust.Watch, engine: Engine) -> None:
        self._native, self._engine = native, engine

    def __aiter__(self) -> "AsyncWatch":
        return self

    async def __anext__(self) -> Summary:
        from .loops import outcome

        while await outcome(self._native.next()):
            change = _taken(self._native, self._engine)
            if change is not None:
                return change
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends it, also for a task that waits for the next change. May be called again."""
        self._native.close()

    async def __aenter__(self) -> "AsyncWatch":
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self.aclose()


def _taken(native: _rust.Watch, engine: Engine) -> Optional[Summary]:
    """The change that was waited for; ``None`` if another thread or task has taken it."""
    fields = native.take()
    return None if fields is None else _summary(fields, engine)


def _summary(fields: SummaryFields, engine: Engine) -> Summary:
    name, kind, holders, waiters, fencing_token, oldest = fields
    return Summary(engine.strip_prefix_of(name), kind, holders, waiters, fencing_token, oldest)


def summaries(listed: "list[SummaryFields]", engine: Engine) -> "list[Summary]":
    """Makes summaries of what the core has listed, sorted by name; the core may list a name twice."""
    by_name = {fields[0]: _summary(fields, engine) for fields in listed}
    return [by_name[name] for name in sorted(by_name)]
