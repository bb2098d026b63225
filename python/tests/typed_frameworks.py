"""Code of a user of frameworks, for the checkers of types: as `typed.py`, and nothing runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from datetime import timedelta
from typing import Any, List

from django.core.management.base import BaseCommand
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from globallock import GlobalLockManager, NativeGlobalLock, testing
from globallock.django import (
    get_shared_global_lock_manager,
    instance_name,
    lock_instance,
    locked,
    locked_instance,
    locked_view,
    transaction_lock,
)
from globallock.django.cache import LockMixin
from globallock.metrics import Metrics, opentelemetry, prometheus


@locked(exit_status=75, blocking_timeout=timedelta(seconds=5))
class Report(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None: ...


@locked
class Bare(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None: ...


@locked("polite", on_busy="skip")
class Polite(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None: ...


@locked("invoice/{number}")
def send_invoice(number: int, fast: bool = False) -> str:
    return str(number)


@locked("invoice/{number}", on_busy="skip")
def skip_invoice(number: int) -> str:
    return str(number)


@locked(lambda number: f"invoice/{number}")
def by_function(number: int) -> str:
    return str(number)


def ships(number: int) -> int:
    first = transaction_lock(f"orders/{number}", wait=timedelta(seconds=5))
    return max(first, transaction_lock("a", 0.5, "other"))


@locked()
def unnamed(number: int) -> None: ...


@locked("task", cancel_on_loss=True)
async def task(number: int) -> str:
    return str(number)


@locked_view("checkout/{request.user.pk}", retry_after=timedelta(seconds=5))
def checkout(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@locked_view
def bare_view(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse()


@locked_view("order/{number}", cancel_on_loss=True, on_busy=bare_view)
async def order(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse()


@method_decorator(locked_view("import"), name="dispatch")
class Import(View): ...


class Parcel(models.Model):
    @locked_instance(blocking_timeout=5, refresh=True)
    def send(self, to: str) -> int:
        return 1

    @locked_instance(cancel_on_loss=True)
    async def bill(self) -> int:
        return 1


async def asynchronous(request: HttpRequest, parcel: Parcel) -> None:
    result: str = await task(1)
    response: HttpResponse = await order(request, number=7)
    billed: int = await parcel.bill()
    print(result, response, billed)


def django(request: HttpRequest, parcel: Parcel, cache: LockMixin) -> None:
    commands: List[BaseCommand] = [Report(), Bare(), Polite()]
    texts: List[str] = [send_invoice(7, fast=True), by_function(7), instance_name(Parcel, pk=7)]
    answers: List[HttpResponse] = [checkout(request), bare_view(request, 7)]
    sent: int = parcel.send("home")
    row: NativeGlobalLock = lock_instance(parcel, blocking_timeout=5)
    at_key: NativeGlobalLock = cache.lock("index", timeout=timedelta(minutes=1), lock_ttl=5, version=2)
    lockman: GlobalLockManager = get_shared_global_lock_manager()
    print(commands, texts, answers, sent, row, at_key, lockman, skip_invoice(7), unnamed(7))
    send_invoice("seven")  # type: ignore[arg-type]
    skip_invoice()  # type: ignore[call-arg]
    checkout()  # type: ignore[call-arg]
    parcel.send(7)  # type: ignore[arg-type]
    locked("a", timout=5)  # type: ignore[call-overload]
    locked("a", on_busy="skip", blocking="no")  # type: ignore[call-overload]
    locked(unnamed)  # type: ignore[arg-type]
    locked_view("a", retry_after="5")  # type: ignore[call-overload]
    locked_instance(refesh=True)  # type: ignore[call-overload]
    lock_instance(parcel, blocking_timout=5)  # type: ignore[call-arg]
    cache.lock("a", timout=5)  # type: ignore[call-arg]


def other_frameworks() -> None:
    with prometheus(group={"orders/": "orders"}) as counted, opentelemetry(group=str.upper):
        metrics: Metrics = counted
    with testing.locks() as locks, locks.taken("a", timeout=5), locks.store_away("it is restarted"):
        names: List[str] = [*locks.granted, *locks.held()]
        lockman: GlobalLockManager = locks.lockman
        locks.wait_for_waiter("a", limit=5)
        print(metrics, names, lockman, locks.waiters("a") + 1)
    prometheus(group=5)  # type: ignore[arg-type]
    locks.lose(7)  # type: ignore[arg-type]
