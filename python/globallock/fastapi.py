"""Locks for FastAPI and Starlette: requests that hold a lock, and a leader among the processes of an app.

::

    lockman = GlobalLockManager("redis://127.0.0.1:6379")

    @asynccontextmanager
    async def lifespan(app):
        async with leader(lockman, "cron", run=every_minute):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders/{order_id}/ship")
    async def ship(order_id: int, lock=Depends(locked("order/{order_id}", lockman=lockman))): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, AsyncIterator, Awaitable, Callable, Optional, Union

from .addresses import Seconds, seconds, suggestion
from .early import refuse_name, refuse_options
from .exceptions import (
    GlobalLockClassNotFoundException,
    GlobalLockError,
    HeldTooLong,
    InvalidAddress,
    InvalidName,
    InvalidOption,
    LockLost,
    StoreUnavailable,
)
from .frameworks import Lockman, fields, imported, managed
from .path_fields import converted, formatted

if TYPE_CHECKING:
    from .aio import AsyncLock
    from .base import GlobalLockManager

__all__ = ["Leader", "holding", "leader", "locked"]

_exceptions: Any = imported("starlette.exceptions", "globallock.fastapi", "fastapi")
_requests: Any = imported("starlette.requests", "globallock.fastapi", "fastapi")

_logger = logging.getLogger("globallock.base")

#: The name of a lock: with fields of the path's parameters, or made of the request.
RequestName = Union[str, "Callable[[Any], str]"]

#: FastAPI from here on ends a dependency after the response has been sent, also one that streams.
OLDEST = (0, 118)
#: What no later attempt mends.
MISTAKES = (GlobalLockClassNotFoundException, InvalidAddress, InvalidName, InvalidOption)
#: How WebSocket closes a connection that may be tried again later.
TRY_AGAIN_LATER = 1013


def locked(
    name: RequestName,
    *,
    lockman: Optional[Lockman] = None,
    blocking_timeout: Optional[Seconds] = None,
    answer_within: Seconds = 2,
    retry_after: Seconds = 1,
    status_code: int = 409,
    **options: Any,
) -> "Callable[..., AsyncIterator[AsyncLock]]":
    """Makes a dependency: the request holds a lock until its response has been sent.

    ::

        @app.post("/orders/{order_id}/ship")
        async def ship(order_id: int, lock=Depends(locked("order/{order_id}"))):
            await carrier.ship(order_id, token=lock.fencing_token)

        @app.put("/catalogue", dependencies=[Depends(locked("catalogue", kind="write", blocking_timeout=2))])
        async def replace(): ...

    The lock is released after the last byte of a streamed response, and when the client has gone, the
    function raises, or the request is cancelled.

    :param name: the name of the lock, with fields of the path's parameters; or a function of the request. A
        field has the value that FastAPI gives to the function: ``/orders/07`` is ``order/7`` where the
        function declares ``order_id: int``. A text is what the client has written, and so is
        ``request.path_params``.
    :param lockman: a manager, or what makes one. Default: ``app.state.lockman``.
    :param blocking_timeout: how long to wait before the lock is busy. Default: not at all.
    :param answer_within: how long the store may take to answer where ``blocking_timeout`` is not given; after
        that the answer is ``503``.
    :param retry_after: when a client that was refused may come again: in seconds, or a ``timedelta``.
    :param status_code: the status of the answer while another request has the lock: ``409`` by default. With
        ``503``, the answer while the store is away, proxies and clients may try again by themselves.
    :param options: those of ``lock()``.
    """
    given = (name, lockman, blocking_timeout, answer_within, retry_after, status_code, options)
    terms = _Terms("locked", *given)
    _refuse_old()

    async def dependency(connection: Any) -> "AsyncIterator[AsyncLock]":
        async with terms.holding(connection) as lock:
            yield lock

    # FastAPI finds by it what to call the dependency with.
    parameter = inspect.Parameter(
        "connection", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=_requests.HTTPConnection
    )
    dependency.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    return dependency


def holding(
    connection: Any,
    name: RequestName,
    *,
    lockman: Optional[Lockman] = None,
    blocking_timeout: Optional[Seconds] = None,
    answer_within: Seconds = 2,
    retry_after: Seconds = 1,
    status_code: int = 409,
    **options: Any,
) -> "contextlib.AbstractAsyncContextManager[AsyncLock]":
    """Holds a lock for a block, and answers as :func:`locked`: for Starlette, and for parts of a request.

    ::

        async def ship(request):
            async with holding(request, "order/{order_id}", lockman=lockman) as lock:
                ...
            return JSONResponse({})

    A name that is made otherwise than of the path is given as a function: ``lambda request: …``. In a text,
    braces are fields, so what a client has written does not belong there.

    Takes what :func:`locked` takes.
    """
    given = (name, lockman, blocking_timeout, answer_within, retry_after, status_code, options)
    return _Terms("holding", *given).holding(connection)


_OWN = ("answer_within", "lockman", "retry_after", "status_code")


class _Terms:
    """How requests hold a lock, and what is answered otherwise."""

    def __init__(
        self,
        door: str,
        name: RequestName,
        lockman: Optional[Lockman],
        blocking_timeout: Optional[Seconds],
        answer_within: Seconds,
        retry_after: Seconds,
        status_code: int,
        options: "dict[str, Any]",
    ) -> None:
        # What is wrong is told here, and not by the first request.
        self._fields: "list[str]" = []
        if not callable(name):
            if door == "locked":
                # The name of a block may be made of what the client has written, which is a bad request then.
                refuse_name(name)
            self._fields = fields(name)
        if "blocking" in options:
            raise InvalidOption("there is no option 'blocking' here: give a blocking_timeout to wait")
        if "cancel_on_loss" in options:
            raise InvalidOption(
                f"{door}() has no option 'cancel_on_loss': for that, write "
                "`async with lockman.aio.hold(name, cancel_on_loss=True)` in the function"
            )
        refuse_options(door, options, _OWN, lockman)
        if not isinstance(status_code, int) or not 400 <= status_code <= 599:
            raise InvalidOption(f"the option status_code is {status_code}: give one from 400 to 599")
        self._name, self._lockman, self._status_code = name, lockman, status_code
        self._answer_within = seconds("answer_within", answer_within)
        # Whole seconds, and none too early.
        self._retry_after = str(math.ceil(seconds("retry_after", retry_after)))
        if blocking_timeout is not None:
            limit = seconds("blocking_timeout", blocking_timeout)
            self._options: "dict[str, Any]" = {**options, "blocking_timeout": limit}
        else:
            self._options = {**options, "blocking": False}

    @contextlib.asynccontextmanager
    async def holding(self, connection: Any) -> "AsyncIterator[AsyncLock]":
        """Holds the lock for a block of a request."""
        lock = self._manager(connection).aio.lock(self._named(connection), **self._options)
        try:
            # `blocking_timeout` is for a store that does not answer, too.
            limit = self._answer_within if "blocking" in self._options else None
            granted = await asyncio.wait_for(lock.acquire(), limit)
        except InvalidName:
            raise self._refusal(connection, 400, "the path cannot be the name of a lock") from None
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            _logger.error("a request is refused, because the store of locks does not answer: %s", error)
            raise self._refusal(connection, 503, "the store of locks does not answer") from error
        if not granted:
            why = "another request has the lock: try again later"
            raise self._refusal(connection, self._status_code, why)
        try:
            yield lock
        finally:
            # If it is cancelled here, it goes on in the background.
            await lock.release()

    def _manager(self, connection: Any) -> GlobalLockManager:
        lockman = self._lockman
        if lockman is None:
            lockman = getattr(connection.app.state, "lockman", None)
        if lockman is None:
            raise InvalidOption("no manager of locks is set: give lockman=…, or set app.state.lockman")
        return managed(lockman)

    def _named(self, connection: Any) -> str:
        if callable(self._name):
            return self._name(connection)
        known = connection.path_params
        for field in self._fields:
            if field not in known:
                path = connection.url.path
                raise InvalidOption(
                    f"the name {self._name!r} has the field {field!r}, which is no parameter of {path}"
                    f"{suggestion(field, known)}"
                )
        values = converted(connection, self._fields)
        try:
            return formatted(self._name, values)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidOption(f"the name {self._name!r} cannot be made of the path: {error}") from error

    def _refusal(self, connection: Any, status_code: int, why: str) -> Exception:
        if connection.scope["type"] == "websocket":
            closed: Exception = _exceptions.WebSocketException(TRY_AGAIN_LATER, why)
            return closed
        headers = None if status_code == 400 else {"Retry-After": self._retry_after}
        refused: Exception = _exceptions.HTTPException(status_code, why, headers=headers)
        return refused


def _refuse_old() -> None:
    fastapi: Any = imported("fastapi", "globallock.fastapi", "fastapi")
    version = tuple(int(part) for part in fastapi.__version__.split(".")[:2])
    if version < OLDEST:
        raise InvalidOption(
            f"locked() needs FastAPI {OLDEST[0]}.{OLDEST[1]} or newer, and this is {fastapi.__version__}, "
            "which would release the lock before a response is sent: use `async with holding(request, …)`"
        )


class Leader:
    """What :func:`leader` gives: whether this process leads."""

    def __init__(self) -> None:
        self._running = 0
        self._is_ending = False

    @property
    def is_leader(self) -> bool:
        """Whether the work runs in this process now."""
        return self._running > 0


@contextlib.asynccontextmanager
async def leader(
    lockman: GlobalLockManager,
    name: str,
    *,
    run: "Callable[[], Awaitable[object]]",
    pause: Seconds = 1,
    **options: Any,
) -> "AsyncIterator[Leader]":
    """Runs a coroutine function in one of all processes that do this with the same name.

    ::

        @asynccontextmanager
        async def lifespan(app):
            async with leader(lockman, "cron", run=every_minute):
                yield

    The others wait in the queue of the lock. The next one begins as soon as the first ends, or when the lease
    of one that was killed has expired (``lock_ttl``, 10 s by default).

    | the work | then |
    |---|---|
    | runs when the block ends | is cancelled, awaited, and the next process begins |
    | raises | that is logged; after ``pause`` this process queues again, behind the others |
    | returns | nothing begins it again while this block lasts: it stays the leader |
    | loses the lock | is cancelled, and this process queues again |

    While the store does not answer, nobody begins, and that is logged. A wrong name, option, or ``run`` is
    refused where the block begins. What shows only later, such as a ``run`` that returns nothing to await, is
    logged and not tried again, and raised when the block ends.

    :param run: what does the work, called without arguments in a task of its own: a coroutine function, or a
        lambda that calls one.
    :param pause: how long to wait after a failure, in seconds or as a ``timedelta``.
    :param options: those of ``lock()``.
    """
    wait = seconds("pause", pause)
    _refuse_work(run)
    refuse_name(name)
    refuse_options("leader", options, ("pause", "run"), lockman)
    found = Leader()
    queued = asyncio.ensure_future(_lead(found, lockman, name, run, wait, options))
    try:
        yield found
    finally:
        # A cancellation alone could be lost, where it meets work that has just failed.
        found._is_ending = True
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
    if not queued.cancelled():
        # It ends by itself only for a mistake, which the log has told already.
        queued.result()


def _refuse_work(run: Any) -> None:
    """Refuses what is surely no coroutine function. Of a lambda, nobody knows what it returns."""
    bare = inspect.unwrap(run.func if isinstance(run, functools.partial) else run)
    called = bare if inspect.isroutine(bare) or not callable(bare) else type(bare).__call__
    if inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(called):
        return
    is_lambda = getattr(bare, "__name__", "") == "<lambda>"
    is_plain = inspect.isfunction(called) or inspect.ismethod(called)
    if isinstance(bare, type) or not callable(bare) or (is_plain and not is_lambda):
        shown = getattr(bare, "__qualname__", f"a {type(bare).__name__}")
        raise TypeError(f"run is {shown}, which is no coroutine function: give a coroutine function")


async def _lead(
    found: Leader,
    lockman: GlobalLockManager,
    name: str,
    run: "Callable[[], Awaitable[object]]",
    pause: float,
    options: "dict[str, Any]",
) -> None:
    async def work() -> Optional[TypeError]:
        found._running += 1
        try:
            _logger.info("this process leads %r", name)
            awaited = run()
            if not inspect.isawaitable(awaited):
                return TypeError(f"run has returned a {type(awaited).__name__}: give a coroutine function")
            await awaited
            if found._is_ending or lock.asked_to_end or not lock.is_locked:
                # It was cancelled, and has chosen to return.
                return None
            _logger.info("the work of the leader of %r has returned", name)
            # Another process would do it once more, so the lock is kept.
            await asyncio.Event().wait()
        except Exception:
            # Here, so that an error of a lock that the work uses is not taken for one of this lock.
            _logger.exception("the work of the leader of %r has failed", name)
        finally:
            found._running -= 1
        return None

    while not found._is_ending:
        try:
            lock = lockman.aio.lock(name, **options)
            mistake: Optional[Exception] = await lock.run(work)
        except (LockLost, HeldTooLong) as error:
            _logger.warning("this process does not lead %r any more: %s", name, error)
            continue
        except MISTAKES as error:
            mistake = error
        except GlobalLockError as error:
            _logger.error("nobody can be found to lead %r: %s", name, error)
            mistake = None
        if mistake is not None:
            _logger.error("this process never leads %r: %s", name, mistake)
            raise mistake
        if not found._is_ending:
            await asyncio.sleep(pause)
