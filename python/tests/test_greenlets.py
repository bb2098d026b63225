"""The locks under gevent. Each test is a program of its own, because gevent patches the whole process."""

import textwrap

import pytest
from conftest import ends, eventually, run
from globallock import GlobalLockManager

BEGIN = """
    from gevent import monkey
    monkey.patch_all()
    import sys, threading, time
    import gevent
    from globallock import GlobalLockManager, StoreUnavailable
    url, name = sys.argv[1:]
    lockman = GlobalLockManager(url)
"""

PROGRAMS = {
    "a waiting greenlet lets the others run": """
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.001)
        ticking = gevent.spawn(tick)
        held, other = lockman.lock(name), lockman.lock(name)
        assert held.acquire()
        waits = gevent.spawn(other.acquire)
        while len(lockman.inspect(name)) < 2:
            gevent.sleep(0.001)
        before = len(ticks)
        gevent.sleep(0.1)
        # The waiting greenlet is in this very thread, and so is the one that releases.
        assert len(ticks) > before and not waits.ready()
        held.release()
        assert waits.get() and other.is_locked and other.extend()
        other.release()
        ticking.kill()
    """,
    "many greenlets take turns": """
        inside, done = [], []
        def work(number):
            with lockman.lock(name) as lock:
                assert lock.is_locked and not inside
                inside.append(number)
                gevent.sleep(0)
                inside.pop()
                done.append(lock.fencing_token)
        gevent.joinall([gevent.spawn(work, number) for number in range(50)], raise_error=True)
        assert len(set(done)) == 50
    """,
    "a wait that is killed or times out leaves nothing": """
        with lockman.lock(name, thread_local=False):
            killed = gevent.spawn(lockman.lock(name).acquire)
            while len(lockman.inspect(name)) < 2:
                gevent.sleep(0.001)
            killed.kill()
            try:
                with gevent.Timeout(0.05):
                    lockman.lock(name).acquire()
            except gevent.Timeout:
                print("in time")
            assert not lockman.lock(name, blocking_timeout=0.5).acquire()
            while len(lockman.inspect(name)) > 1:
                gevent.sleep(0.001)
    """,
    "a greenlet that is killed while it polls does not stop the others": """
        from globallock.greenlets import hub
        bridge = hub()._bridge
        for _ in range(300):
            asks = gevent.spawn(lockman.inspect, name)
            gevent.sleep(0)
            asks.kill()
            assert not bridge.polling()
            assert lockman.inspect(name) == []
    """,
    "losses are notified": """
        lock, reasons = lockman.lock(name, timeout=0.2), []
        assert lock.acquire()
        event = lock.lost_event()
        lock.on_lost(reasons.append)
        assert lock.wait_lost(0.01) is None
        assert "max hold time" in lock.wait_lost() and event.wait(5)
        while not reasons:
            gevent.sleep(0.001)
        lock.release()
    """,
    "values and runs": """
        with lockman.lock(name, with_value=True) as lock:
            assert lock.value is None and lock.set_value(b"green", keep=60)
        with lockman.lock(name, with_value=True) as lock:
            assert lock.value.data == b"green"
        once, ran = lockman.once(name + "-once", every=60), []
        def work():
            gevent.sleep(0.01)
            ran.append(1)
        done = [gevent.spawn(once.run, work) for _ in range(6)]
        gevent.joinall(done, raise_error=True)
        assert ran == [1] and sum(bool(greenlet.value) for greenlet in done) == 1
        # A greenlet that is killed in its work records nothing.
        killed = lockman.once(name + "-killed", every=60)
        began = gevent.event.Event()
        runs = gevent.spawn(killed.run, lambda: began.set() or gevent.sleep(60))
        began.wait()
        runs.kill()
        assert killed.run(lambda: 7).value == 7
    """,
    "planned ends": """
        lock, reasons = lockman.lock(name, timeout=0.2, grace=60), []
        assert lock.acquire() and not lock.asked_to_end
        event = lock.asked_to_end_event()
        lock.on_asked_to_end(reasons.append)
        assert event.wait(30) and lock.asked_to_end and lock.is_locked
        while not reasons:
            gevent.sleep(0.001)
        assert "max hold time" in reasons[0]
        lock.release()
    """,
    "threads of gevent's pool may acquire locks too": """
        pool = gevent.get_hub().threadpool
        def take():
            with lockman.lock(name) as lock:
                return lock.is_locked
        assert [pool.spawn(take).get() for _ in range(3)] == [True] * 3
        assert take()
    """,
    "a forked child has its own bridge": """
        import os
        assert lockman.lock(name).acquire()
        lock = lockman.lock(name + "-parents")
        assert lock.acquire()
        child = os.fork()
        if child == 0:
            lock.release()
            with lockman.lock(name + "-childs") as own:
                os._exit(0 if own.is_locked and not lock.is_locked else 1)
        assert os.waitpid(child, 0)[1] == 0 and lock.is_locked
    """,
    "errors are raised": """
        try:
            GlobalLockManager("redis://127.0.0.1:1").lock("x", blocking_timeout=0.3).acquire()
        except StoreUnavailable as error:
            assert "127.0.0.1:1" in str(error)
        else:
            raise AssertionError("nobody listens there")
    """,
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_under_gevent(url, name, what):
    ends(run(textwrap.dedent(BEGIN) + textwrap.dedent(PROGRAMS[what]), url, name.replace(" ", "-")))
    eventually("nothing is left", lambda: GlobalLockManager(url).names(name.replace(" ", "-")) == [])
