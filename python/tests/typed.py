"""Code of a user, for the checkers of types: `scripts/python.sh lint` checks it, and nothing runs it.

A comment that ignores an error says which one has to be found: a checker refuses comments without an error.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from datetime import timedelta
from typing import AsyncIterator, Iterator, List, Optional

from globallock import (
    AllLocks,
    AsyncAllLocks,
    AsyncLock,
    AsyncWatch,
    Claim,
    GlobalLockManager,
    Loss,
    NativeGlobalLock,
    Ran,
    ReadWriteLock,
    Reason,
    Summary,
    Value,
    Watch,
)

lockman = GlobalLockManager("memory:typed", timeout=60)


def threads() -> None:
    lock: NativeGlobalLock = lockman.lock("a", timeout=timedelta(minutes=1), blocking_timeout=5)
    with lockman.hold("a", hold_at_least=1, lock_ttl=timedelta(seconds=9)) as held:
        token: Optional[int] = held.fencing_token
        reason: Optional[Reason] = held.wait_lost(timedelta(seconds=1))
        loss: Optional[Loss] = None if reason is None else reason.loss
        value: Optional[Value] = held.value
        print(token, loss, value, held.set_value(b"", keep=timedelta(days=1)))
    several: AllLocks = lockman.lock_all(["a", "b"], blocking_timeout=timedelta(seconds=5), timeout=60)
    with several.hold() as both:
        print(both.is_locked, both.locks[0].name)
    rwlock: ReadWriteLock = lockman.rwlock("a", timeout=60)
    with rwlock.read(blocking=False) as reader, lockman.semaphore("b", 3, timeout=60).hold() as permit:
        print(reader.name, permit.name, lock)
    summaries: List[Summary] = lockman.list()
    claims: List[Claim] = lockman.inspect("a")
    watch: Watch = lockman.watch(every=timedelta(seconds=1))
    print(summaries, [lockman.evict("a", claim) for claim in claims], next(watch).holders)
    ran: Ran[int] = lockman.once("a", every=timedelta(hours=1), timeout=60).run(len, "text")
    print(ran.value)


@lockman.locked("order/{number}", blocking_timeout=timedelta(seconds=5))
def ship(number: int, fast: bool = False) -> str:
    return str(number)


@lockman.locked(on_busy="skip")
def skipped(number: int) -> str:
    return str(number)


@lockman.locked("rows")
def rows() -> Iterator[int]:
    yield 1


@lockman.aio.locked("task", cancel_on_loss=True)
async def task(number: int) -> str:
    return str(number)


@lockman.locked("rows")
async def async_rows() -> AsyncIterator[int]:
    yield 1


async def tasks() -> None:
    lock: AsyncLock = lockman.aio.lock("a", timeout=60, cancel_on_loss=True)
    async with lock, lockman.aio.hold("b") as held, lockman.aio.rwlock("c").read() as reader:
        print(held.fencing_token, await held.lost(), reader.is_locked)
    both: AsyncAllLocks = lockman.aio.lock_all(["a"], timeout=60, cancel_on_loss=True)
    watch: AsyncWatch = lockman.aio.watch()
    result: str = await task(5)
    print(both, result, [summary.name async for summary in watch], [row async for row in async_rows()])


shipped: str = ship(7, fast=True)
row: int = next(rows())

lockman.lock("a", auto_renew=False, thread_local=False, sleep=timedelta(seconds=1))
lockman.lock("a", timout=5)  # type: ignore[call-arg]
lockman.lock("a", auto_renew="no")  # type: ignore[arg-type]
lockman.hold("a", sleep=timedelta(seconds=1))
lockman.hold("a", timout=5)  # type: ignore[call-arg]
lockman.rwlock("a", blocking="no")  # type: ignore[arg-type]
lockman.semaphore("a", 3, cancel_on_loss=True)  # type: ignore[call-arg]
lockman.aio.lock_all(["a"], grace="5")  # type: ignore[arg-type]
lockman.once("a", every=60, with_value=True)  # type: ignore[call-arg]
ship("seven")  # type: ignore[arg-type]
ship(7, slow=True)  # type: ignore[call-arg]
skipped()  # type: ignore[call-arg]
