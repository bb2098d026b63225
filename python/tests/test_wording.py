"""Every time, number and flag that a user gives wrongly is refused in the user's words."""

import asyncio
import datetime
import fractions
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from globallock import GlobalLockManager, InvalidOption

#: The core's words, which are none of Python's options.
CORES = re.compile(
    r"max_hold|max hold|\blease\b|\binvalid \w+:|\bwait\b(?! without)|\d(ns|µs|ms)\b|\binterval\b"
)
SECRET = "s3cretQQ"


class Float:
    """A number such as numpy's."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value

    def __repr__(self):
        return SECRET


YEAR = 365 * 24 * 3600
WRONG = {
    "text": SECRET, "digits": "5", "bytes": b"5", "list": [], "dict": {}, "object": object(), "true": True,
    "false": False, "complex": 1j, "nan": float("nan"), "infinite": float("inf"), "negative": -1,
    "a little negative": -1e-9, "more than a year": YEAR + 1, "huge": 10**400, "1e300": 1e300,
    "negative timedelta": timedelta(-1), "long timedelta": timedelta(366), "Decimal NaN": Decimal("NaN"),
    "negative Decimal": Decimal("-1"), "infinite Decimal": Decimal("Infinity"), "numpy-like": Float(-1.0),
    "time": datetime.time(1), "date": datetime.datetime(2026, 1, 1),
}  # fmt: skip
#: What is wrong where there is a shortest time.
SHORT = {
    "zero": 0, "zero timedelta": timedelta(0), "numpy-like zero": Float(0.0), "short": 1e-4,
    "short Decimal": Decimal("0.0001"), "short fraction": fractions.Fraction(1, 10_000),
}  # fmt: skip


@pytest.fixture(params=["memory", "file", "redis"])
def lockman(request, tmp_path):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = "memory:wording" if request.param == "memory" else f"file://{tmp_path}/locks"
    with GlobalLockManager(url) as lockman:
        yield lockman


def told(option, use):
    """What a user is told who gives an option wrongly: its name first, and how to write it."""
    with pytest.raises(InvalidOption) as raised:
        use()
    text = str(raised.value)
    assert re.match(rf"the (option|key) {re.escape(option)} is ", text), text
    assert "give " in text and not CORES.search(text) and SECRET not in text, text
    return text


def acquire(lockman, **options):
    lockman.lock("a", **options).acquire()


def held(lockman, use):
    with lockman.lock("a", with_value=True) as lock:
        assert lock.is_locked
        use(lock)


def on_a_loop(lockman, **options):
    asyncio.run(lockman.aio.lock("a", **options).acquire())


#: Each place where a time is given: the option, its value's use, and whether zero is too short.
TIMES = {
    "timeout": (lambda m, v: acquire(m, timeout=v), True),
    "lock_ttl": (lambda m, v: acquire(m, lock_ttl=v), True),
    "lock_ttl not renewed": (lambda m, v: acquire(m, lock_ttl=v, auto_renew=False), True),
    "blocking_timeout": (lambda m, v: acquire(m, blocking_timeout=v), False),
    "blocking_timeout of lock_all": (lambda m, v: m.lock_all(["a", "b"], v).acquire(), False),
    "blocking_timeout on a loop": (lambda m, v: on_a_loop(m, blocking_timeout=v), False),
    "timeout on a loop": (lambda m, v: on_a_loop(m, timeout=v), True),
    "grace": (lambda m, v: acquire(m, timeout=5, grace=v), False),
    "hold_at_least": (lambda m, v: acquire(m, hold_at_least=v), True),
    "sleep": (lambda m, v: acquire(m, sleep=v), False),
    "renew_interval": (lambda m, v: acquire(m, renew_interval=v), False),
    "timeout of a reader": (lambda m, v: m.rwlock("a", timeout=v).read().acquire(), True),
    "timeout of a semaphore": (lambda m, v: m.semaphore("a", 3, timeout=v).acquire(), True),
    "every of once": (lambda m, v: m.once("a", v).run(print), True),
    "every of watch": (lambda m, v: m.watch("", v), True),
    "keep": (lambda m, v: held(m, lambda lock: lock.set_value(b"x", v)), True),
    "timeout of wait_lost()": (lambda m, v: held(m, lambda lock: lock.wait_lost(v)), False),
}
#: A wait that is over, and one without an end, are none of them wrong.
WAITS = {"negative", "a little negative", "more than a year", "huge", "1e300", "infinite"} | {
    "negative timedelta", "long timedelta", "zero",
}  # fmt: skip


@pytest.mark.parametrize("place", TIMES)
def test_a_wrong_time_is_refused_in_the_users_words(lockman, place):
    use, has_shortest = TIMES[place]
    option = place if "wait_lost" in place else place.split()[0]
    for name, value in {**WRONG, **(SHORT if has_shortest else {})}.items():
        if "wait_lost" in place and name in WAITS:
            continue
        text = told(option, lambda value=value: use(lockman, value))
        assert "a number of seconds from" in text and "timedelta" in text, (name, text)
    assert not {"a", "b"}.intersection(lockman.names()), "other tests have names of their own"


@pytest.mark.parametrize("option", ["blocking", "auto_renew", "thread_local"])
def test_what_is_neither_true_nor_false_is_refused(lockman, option):
    for name, value in WRONG.items():
        if name not in ("true", "false"):
            assert "True or False" in told(option, lambda value=value: acquire(lockman, **{option: value}))
    for value in (True, False, 0, 1, None):
        lock = lockman.lock("a", **{option: value})
        assert lock.acquire()
        lock.release()


def test_wrong_permits_are_refused(lockman):
    for value in [*WRONG.values(), 0, 1.0, 4]:
        told("permits", lambda value=value: lockman.semaphore("a", 3, permits=value).acquire())
    for value in [*WRONG.values(), 0, 2.0, 536_870_912]:
        if value != YEAR + 1:
            told("capacity", lambda value=value: lockman.semaphore("a", value).acquire())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grace": 5}, "the option grace needs a timeout"),
        ({"timeout": 1, "hold_at_least": 2}, r"hold_at_least is 2 s, .* held for 1 s at most \(timeout\)"),
        ({"timeout": 1, "grace": 1, "hold_at_least": 3}, r"for 2 s at most \(timeout and grace\)"),
        ({"lock_ttl": 1, "auto_renew": False, "hold_at_least": 3}, r"\(lock_ttl, because of auto_renew"),
        ({"timeout": YEAR, "grace": 60}, "timeout and grace are 31536060 s together, .* more than a year"),
    ],
)
def test_times_that_do_not_go_together_are_refused(lockman, options, words):
    with pytest.raises(InvalidOption, match=words) as raised:
        acquire(lockman, **options)
    assert not CORES.search(str(raised.value))


def test_a_wrong_value_is_refused(lockman):
    for data in ("text", 5, None, [1], bytes(1025), memoryview(bytes(1025))):
        with pytest.raises(InvalidOption, match="^the value (is of type|has 1025 bytes)"):
            held(lockman, lambda lock, data=data: lock.set_value(data, 60))


def test_a_wrong_claim_or_reason_is_refused(lockman):
    for value in (5, None, b"x", [], 1.5):
        with pytest.raises(InvalidOption, match="^the key of a claim is not a text"):
            lockman.evict("a", value)
        with pytest.raises(InvalidOption, match="^the reason is not a text"):
            lockman.evict("a", "key", reason=value)


def test_all_kinds_of_numbers_are_times(lockman):
    for second in (1, 1.0, Decimal(1), fractions.Fraction(1), Float(1.0), timedelta(seconds=1)):
        lock = lockman.lock("a", timeout=second, lock_ttl=second, blocking_timeout=second, grace=second)
        with lock:
            assert lock.is_locked and 0 < lock.remaining <= 2
    with lockman.lock("a", timeout=YEAR, lock_ttl=YEAR, blocking_timeout=YEAR) as lock:
        assert lock.is_locked


def test_a_wait_for_a_loss_may_have_no_end_or_be_over(lockman):
    with lockman.lock("a") as lock:
        assert lock.wait_lost(-1) is None and lock.wait_lost(timedelta(-1)) is None
        assert lockman.evict("a", lockman.inspect("a")[0], reason="test")
        assert "test" in lock.wait_lost(float("inf")) and "test" in lock.wait_lost(10**12)
