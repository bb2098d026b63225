"""The locks of a cache: those of this package, with the methods of redis-py's ``Lock``."""

from __future__ import annotations

from contextvars import ContextVar
from types import FrameType
from typing import Any, List, Optional, Type

from ..acquisitions import Acquisition
from ..addresses import Seconds, seconds
from ..aio.tasks import give_back, take
from ..engine import LockRequest
from ..exceptions import InvalidOption, NotLocked
from ..url_global_lock import UrlGlobalLock

__all__ = ["CacheLock", "Refused"]

#: What one call of ``acquire()`` asks for in place of the lock's own options.
_asked: "ContextVar[Optional[LockRequest]]" = ContextVar("globallock_cache_asked", default=None)


class Refused(NotLocked):
    """A lock of a cache was not granted, or is not held; also an error of redis-py or valkey-py."""

    def __init__(self, name: str, why: str = "was not granted") -> None:
        super().__init__(name, why)
        self.lock_name, self._why = name, why
        # Their errors do not hand a text on.
        self.args = (f"the lock {name!r} {why}",)

    def __reduce__(self) -> Any:
        return type(self), (self.lock_name, self._why)


class CacheLock(UrlGlobalLock):
    """A lock of a cache.

    It differs from redis-py's: waiters are served in order and do not poll, so ``sleep`` has no effect. A
    lock is renewed while its process lives, so one without a ``timeout`` is free soon after its process was
    killed. With a ``timeout`` it is lost after that time, and cannot be extended.

    It is a lock of this package too, with the fencing token and the rest.
    """

    #: What is raised where redis-py raises its ``LockError`` and ``LockNotOwnedError``.
    error: "Type[Refused]" = Refused
    not_owned_error: "Type[Refused]" = Refused

    def acquire(
        self,
        sleep: Optional[float] = None,
        blocking: Optional[bool] = None,
        blocking_timeout: Optional[Seconds] = None,
        token: None = None,
    ) -> bool:
        """Acquires the lock and says whether it was granted. What is given here is for this call only."""
        if token is not None:
            raise InvalidOption("the option token is not offered: each grant has a fencing token of its own")
        before = _asked.set(self._request(blocking, blocking_timeout))
        try:
            return super().acquire()
        finally:
            _asked.reset(before)

    def _request(self, blocking: Optional[bool], blocking_timeout: Optional[Seconds]) -> LockRequest:
        request = self._lock_request()
        if blocking is None:
            blocking = self.blocking is not False
        if not blocking:
            return request.with_wait(0.0)
        limit = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        return request.with_wait(None if limit is None else seconds("blocking_timeout", limit))

    def release(self) -> None:
        """Releases the lock.

        :raises LockError: the caller has not acquired it.
        :raises LockNotOwnedError: it was lost before.
        """
        is_held = self._holds(self._owned())
        super().release()
        if not is_held:
            raise self.not_owned_error(self.name, "was lost before its release")

    def _owned(self) -> "Acquisition[Any]":
        """What the caller may release."""
        try:
            acquisition = self._to_release()
        except NotLocked as error:
            raise self.error(self.name, "is not the caller's to release") from error
        if acquisition is None:
            raise self.error(self.name, "is not held, or was released before")
        return acquisition

    def locked(self) -> bool:
        """Whether anybody holds the lock now."""
        return any(claim.held for claim in self.claims())

    def owned(self) -> bool:
        """Whether the caller holds the lock now."""
        return self.is_locked

    def extend(self, additional_time: Any = None, replace_ttl: bool = False) -> bool:
        """Asks the store now whether the lock is still held, and renews it if so.

        :raises InvalidOption: more time was asked for than the ``timeout`` of the lock.
        """
        if additional_time is not None:
            raise InvalidOption(
                f"the lock {self.name!r} cannot be extended: make it without a timeout, and it is renewed "
                "until its release"
            )
        return super().extend()

    def reacquire(self) -> bool:
        """Is not offered: a lock is renewed by itself."""
        return self.extend(self.timeout)

    # The core calls these, for a call, for `with` and for `async with`.

    def _acquire(self, frame: None, taken: "List[Any]") -> bool:
        return self._take(_asked.get(), taken) is not None

    def _enter(self, frame: FrameType, taken: "List[Any]") -> None:
        acquisition = self._take(None, taken)
        if acquisition is None:
            raise self.error(self.name)
        self._holdings.enter(frame, acquisition, taken)

    def _exit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self._holdings.find(frame, leaving)
        if not leaving:
            self.release()
            return
        acquisition: "Acquisition[Any]" = leaving[0]
        self._holdings.exit(acquisition)
        wrong = self._wrong(acquisition, exception)
        self._give_back(acquisition)
        if wrong is not None:
            raise wrong

    def _wrong(self, acquisition: "Acquisition[Any]", exception: Any) -> Optional[Refused]:
        """What the end of a block raises, in front of the release. An error of the block is not replaced."""
        if exception and exception[0] is not None:
            return None
        if acquisition not in self._holdings.all():
            return self.error(self.name, "was released before the end of its block")
        if not self._holds(acquisition):
            return self.not_owned_error(self.name, "was lost before its release")
        return None

    def _begin(self, request: LockRequest) -> LockRequest:
        try:
            return super()._begin(request)
        except NotLocked as error:
            # The caller holds it itself.
            raise self.error(self.name, error._why) from None

    async def _aenter(self, frame: FrameType, taken: "List[Any]") -> None:
        acquisition = await take(self, taken)
        if acquisition is None:
            raise self.error(self.name)
        self._holdings.enter(frame, acquisition, taken)

    async def _aexit(self, frame: FrameType, leaving: "List[Any]", exception: Any) -> None:
        self._holdings.find(frame, leaving)
        if not leaving:
            leaving.append(self._owned())
        acquisition: "Acquisition[Any]" = leaving[0]
        self._holdings.exit(acquisition)
        wrong = self._wrong(acquisition, exception)
        await give_back(self, acquisition)
        if wrong is not None:
            raise wrong
