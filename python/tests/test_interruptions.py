"""Exceptions that arise anywhere: of signal handlers, other threads, cancellations and kills.

After each, nothing is held that nobody knows of, and the exception has arrived.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import sys
import textwrap
import threading
import time

import globallock
import pytest
from conftest import ends, eventually, run
from globallock import GlobalLockManager
from interpreter import again, end_what_the_interpreter_left

PACKAGE = os.path.dirname(globallock.__file__)

#: Whether this is a CPython between the oldest and the newest, which run a quarter of this each.
FEW = os.environ.get("GLOBALLOCK_STORES") == "few"
#: How many exceptions are injected into each way to use locks, on each store. In all: more than 20,000.
TIMES = {"memory": 325, "file": 100, "redis": 50} if FEW else {"memory": 1300, "file": 400, "redis": 200}
#: How many real ones arise at random moments, of each kind.
REAL = 400


class TimeLimit(Exception):
    """As the exception of a job's time limit: one that a careless `except Exception` would swallow."""


class Injector:
    """Raises at the n-th instruction that this thread executes in the package."""

    def __init__(self, at=None, error=None):
        self.at, self.error, self.count, self.raised = at, error, 0, None
        #: Whether it was raised in a task of the package's own, whose exceptions the event loop tells.
        self.in_helper = False

    def step(self, code, line):
        if code.co_name == "run":
            # Its `with` is one as users have it. At most instructions of a `with` no exception can arise, and
            # at some of these it would be lost, so only real ones are tried there.
            return
        self.count += 1
        if self.count == self.at:
            task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
            self.in_helper = task is not None and "globallock" in str(getattr(task.get_coro(), "cr_code", ""))
            self.raised = f"{code.co_name}:{line}"
            raise self.error

    def _trace(self, frame, event, _):
        """For CPython before 3.12."""
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            # Python ends the trace if this raises.
            self.step(frame.f_code, frame.f_lineno)
        return self._trace

    def _monitor(self, code, offset):
        """From CPython 3.12 on, where a trace misses the first call of each function."""
        if not code.co_filename.startswith(PACKAGE):
            return sys.monitoring.DISABLE
        if threading.current_thread() is threading.main_thread():
            self.step(code, offset)
        return None

    def __enter__(self):
        if hasattr(sys, "monitoring"):
            tool = sys.monitoring.DEBUGGER_ID
            if sys.monitoring.get_tool(tool) is None:
                sys.monitoring.use_tool_id(tool, "interruptions")
            sys.monitoring.register_callback(tool, sys.monitoring.events.INSTRUCTION, self._monitor)
            sys.monitoring.set_events(tool, sys.monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        if hasattr(sys, "monitoring"):
            tool = sys.monitoring.DEBUGGER_ID
            sys.monitoring.register_callback(tool, sys.monitoring.events.INSTRUCTION, None)
        else:
            sys.settrace(None)


@pytest.fixture(scope="module", autouse=True)
def no_monitoring_is_left():
    yield
    if hasattr(sys, "monitoring") and sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is not None:
        sys.monitoring.set_events(sys.monitoring.DEBUGGER_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.DEBUGGER_ID)


def in_block(lockman, lock, name):
    with lock:
        assert lock.is_locked


def by_calls(lockman, lock, name):
    assert lock.acquire()
    lock.release()


def refused(lockman, lock, name):
    tries = lockman.lock(name, blocking=False)
    with lock, tries as second:
        assert not second.is_locked


def twice(lockman, lock, name):
    semaphore = lockman.semaphore(name, 2, blocking=False)
    with semaphore, semaphore, semaphore as third:
        assert not third.is_locked
    assert not semaphore._holdings.all() and not semaphore._holdings._blocks


def several(lockman, lock, name):
    with lockman.lock_all([f"{name}-b", name]) as both:
        assert both.is_locked


def several_refused(lockman, lock, name):
    with lock, lockman.lock_all([f"{name}-b", f"{name}-a", name], blocking_timeout=0) as all_of_them:
        assert not all_of_them.is_locked


def decorated(lockman, lock, name):
    assert lockman.locked(name)(lambda: 7)() == 7


def generated(lockman, lock, name):
    assert list(lockman.locked(name)(lambda: (yield 7))()) == [7]


def held(lockman, lock, name):
    with lockman.hold(name) as held:
        assert held.is_locked


def not_held(lockman, lock, name):
    with lock:
        try:
            with lockman.hold(name, blocking=False):
                raise AssertionError("it runs without the lock")
        except globallock.NotLocked:
            pass


def in_turn(lockman, lock, name):
    with lockman.once(f"{name}-{time.time_ns()}", every=0.001).turn() as turn:
        assert turn.due


def by_run(lockman, lock, name):
    lockman.once(f"{name}-once", every=0.001).run(lambda: 7)


USES = [
    in_block, by_calls, refused, twice, several, several_refused, decorated, generated, held, not_held,
    in_turn, by_run,
]  # fmt: skip


@pytest.fixture(params=TIMES)
def store(request, tmp_path):
    if request.param == "memory":
        return request.param, f"memory:{tmp_path}"
    if request.param == "file":
        return request.param, f"file://{tmp_path}/locks"
    return request.param, request.getfixturevalue("redis_server").url


def nothing_is_left(lockman, lock, name, why):
    eventually(f"nothing is left after {why}", lambda: lockman.names(name) == [])
    assert lockman.registered_locks() == [], why
    holdings = lock._holdings
    assert not holdings.all() and not holdings._blocks, why
    assert not any(holdings.by_callers()), why


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_an_exception_at_any_instruction_leaves_nothing_and_arrives(store, name, use):
    kind, url = store
    name, seed = name.split("[")[0] + name[-8:], random.randrange(2**32)
    lockman, chance = GlobalLockManager(url), random.Random(seed)
    lock = lockman.lock(name)
    for _ in range(2):
        with Injector() as counts:
            use(lockman, lock, name)
    assert counts.count > 100
    arrived, where = 0, set()
    for number in range(TIMES[kind]):
        # Each instruction where there is time for that, and random ones otherwise.
        in_turn = kind == "memory" and not FEW
        at = number % counts.count + 1 if in_turn else chance.randrange(counts.count) + 1
        error = chance.choice((KeyboardInterrupt, TimeLimit))("injected")
        why = f"an exception at instruction {at}, seed {seed}"
        with Injector(at, error) as injector:
            try:
                use(lockman, lock, name)
                came = None
            except (KeyboardInterrupt, TimeLimit) as raised:
                came = raised
        why = f"{why}, in {injector.raised}"
        assert came is (None if injector.raised is None else error), why
        arrived += came is not None
        where.add(injector.raised)
        # While the exception is here, and with it all frames of its traceback.
        nothing_is_left(lockman, lock, name, why)
    assert arrived > TIMES[kind] * 0.8 and len(where) > 20
    use(lockman, lock, name)
    lockman.close()


#: Those in which each instruction of the user's code is safe, too.
SAFE = [in_block, refused, several, decorated, by_run]


def alarmed(seconds):
    """A time limit for what follows, once."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def raise_limit(*_):
    raise TimeLimit("the time is up")


def until_interrupted(use, *arguments):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        use(*arguments)
    pytest.fail("the exception did not arrive")


def test_a_time_limit_at_any_moment_leaves_nothing_and_arrives(store, name):
    _, url = store
    name = name.split("[")[0] + name[-8:]
    lockman, chance = GlobalLockManager(url), random.Random(7)
    lock = lockman.lock(name)
    before = signal.signal(signal.SIGALRM, raise_limit)
    try:
        for number in range(REAL):
            use = SAFE[number % len(SAFE)]
            with pytest.raises(TimeLimit), again(TimeLimit, lambda: alarmed(1e-4)):
                alarmed(chance.uniform(1e-6, 2e-3))
                until_interrupted(use, lockman, lock, name)
            end_what_the_interpreter_left(lockman)
            nothing_is_left(lockman, lock, name, f"a time limit in {use.__name__}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_exception_of_another_thread_leaves_nothing_and_arrives(store, name):
    _, url = store
    name = name.split("[")[0] + name[-8:]
    lockman, chance, ready, ended = GlobalLockManager(url), random.Random(8), [], []
    lock, turns = lockman.lock(name), threading.Semaphore(0)

    def interrupt():
        return ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(TimeLimit)
        )

    def work():
        for number in range(REAL):
            try:
                ready.append(number)
                until_interrupted(SAFE[number % len(SAFE)], lockman, lock, name)
            except TimeLimit:
                pass
            ended.append(number)
            assert turns.acquire(timeout=60)

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(REAL):
        eventually("it works", lambda number=number: len(ready) > number)
        time.sleep(chance.uniform(0, 2e-3))
        with again(TimeLimit, interrupt):
            assert interrupt() == 1
            eventually("it arrives", lambda number=number: len(ended) > number)
        end_what_the_interpreter_left(lockman)
        nothing_is_left(lockman, lock, name, f"an exception in {SAFE[number % len(SAFE)].__name__}")
        turns.release()
    thread.join(60)
    assert not thread.is_alive()


def test_a_signal_handler_may_lock_release_and_close(store, name):
    _, url = store
    name = name.split("[")[0] + name[-8:]
    lockman, handled, chance = GlobalLockManager(url), [], random.Random(9)
    lock, others = lockman.lock(name), GlobalLockManager(url)

    def handler(*_):
        number = len(handled)
        with lockman.lock(f"{name}-handler"):
            tries = lockman.lock(name, blocking=False)
            with tries:
                pass
            with contextlib.suppress(globallock.NotLocked), lockman.lock_all([f"{name}-h1", f"{name}-h2"]):
                others.inspect(name)
        if number % 5 == 0:
            others.lock(f"{name}-others").acquire()
            others.close()
        handled.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(REAL):
            alarmed(chance.uniform(1e-6, 1e-3))
            until = time.monotonic() + 60
            while len(handled) == number:
                assert time.monotonic() < until
                SAFE[number % len(SAFE)](lockman, lock, name)
        nothing_is_left(lockman, lock, name, "handlers")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def aio_block(aio, name):
    async with aio.lock(name):
        await asyncio.sleep(0)


async def aio_shared(aio, name, shared={}):  # noqa: B006 - on purpose
    async with shared.setdefault(name, aio.lock(name)):
        await asyncio.sleep(0)


async def aio_several(aio, name):
    async with aio.lock_all([name, f"{name}-b"]):
        await asyncio.sleep(0)


async def aio_run(aio, name):
    await aio.lock(name, timeout=60, grace=5).run(asyncio.sleep, 0)


async def aio_once(aio, name):
    await aio.once(name, every=0.001).run(asyncio.sleep, 0)


async def aio_held(aio, name):
    async with aio.hold(name, cancel_on_loss=True):
        await asyncio.sleep(0)


async def aio_all_held(aio, name):
    async with aio.lock_all([name, f"{name}-b"], cancel_on_loss=True).hold():
        await asyncio.sleep(0)


async def aio_decorated(aio, name):
    assert await aio.locked(name, cancel_on_loss=True)(asyncio.sleep)(0, 7) == 7


async def aio_generated(aio, name):
    @aio.locked(name)
    async def rows():
        yield 7
        await asyncio.sleep(0)

    assert [row async for row in rows()] == [7]


TASKS = [
    aio_block, aio_shared, aio_several, aio_run, aio_once, aio_held, aio_all_held, aio_decorated,
    aio_generated,
]  # fmt: skip


@pytest.mark.parametrize("use", TASKS, ids=lambda use: use.__name__)
def test_an_exception_at_any_instruction_of_a_task_leaves_nothing_and_arrives(store, name, use):
    kind, url = store
    name, seed = name.split("[")[0] + name[-8:], random.randrange(2**32)
    lockman, chance = GlobalLockManager(url), random.Random(seed)

    async def main(injector):
        # In a task of its own, as those that handle requests.
        with injector:
            await asyncio.wait_for(asyncio.ensure_future(use(lockman.aio, name)), 60)

    for _ in range(2):
        counts = Injector()
        asyncio.run(main(counts))
    assert counts.count > 100
    arrived = 0
    for _ in range(TIMES[kind] // 3):
        at, error = chance.randrange(counts.count) + 1, TimeLimit("injected")
        injector = Injector(at, error)
        try:
            asyncio.run(main(injector))
            came = None
        except TimeLimit as raised:
            came = raised
        why = f"an exception at instruction {at}, seed {seed}, in {injector.raised}"
        assert injector.in_helper or came is (None if injector.raised is None else error), why
        arrived += came is not None
        eventually(f"nothing is left after {why}", lambda: lockman.names(name) == [])
        assert lockman.registered_locks() == [], why
    assert arrived > TIMES[kind] // 3 * 0.7
    asyncio.run(main(Injector()))
    lockman.close()


@pytest.mark.parametrize("use", TASKS, ids=lambda use: use.__name__)
def test_a_task_that_is_cancelled_at_any_await_leaves_nothing(store, name, use):
    kind, url = store
    name, chance, cancelled = name.split("[")[0] + name[-8:], random.Random(10), 0
    lockman = GlobalLockManager(url)

    async def main():
        nonlocal cancelled
        for number in range(TIMES[kind]):
            # One that waits behind another one, every second time.
            tasks = [asyncio.ensure_future(use(lockman.aio, name)) for _ in range(1 + number % 2)]
            for _ in range(chance.randrange(12) if kind == "memory" else chance.randrange(60)):
                await asyncio.sleep(0)
            errors = []
            for task in reversed(tasks):
                task.cancel()
            for ended in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60):
                # Frames of its traceback stay, too.
                errors.append(ended)
                assert isinstance(ended, (type(None), asyncio.CancelledError)), ended
                cancelled += ended is not None
            until = time.monotonic() + 30
            while await lockman.aio.names(name):
                assert time.monotonic() < until, "something is left"
                await asyncio.sleep(0.001)
            assert lockman.registered_locks() == []

    asyncio.run(main())
    assert cancelled > TIMES[kind] / 4


KILLS = """
    from gevent import monkey
    monkey.patch_all()
    import random, sys
    import gevent
    from globallock import GlobalLockManager
    url, name = sys.argv[1:]
    lockman, chance = GlobalLockManager(url), random.Random(11)
    lock, killed = lockman.lock(name), 0
    def block():
        with lock:
            gevent.sleep(0)
    def several():
        with lockman.lock_all([name, name + "-b"]):
            gevent.sleep(0)
    def once():
        lockman.once(name + "-once", every=0.001).run(gevent.sleep, 0)
    for number in range(400):
        greenlets = [gevent.spawn((block, several, once)[number % 3]) for _ in range(1 + number % 2)]
        for _ in range(chance.randrange(25)):
            gevent.sleep(0)
        for greenlet in greenlets:
            killed += not greenlet.dead
            greenlet.kill()
        with gevent.Timeout(30):
            while lockman.names(name):
                gevent.sleep(0.001)
        assert lockman.registered_locks() == [] and not lock._holdings.all() and not lock._holdings._blocks
    assert killed > 100, killed
"""


def test_a_greenlet_that_is_killed_at_any_switch_leaves_nothing(store, name):
    ends(run(textwrap.dedent(KILLS), store[1], name.split("[")[0]))
