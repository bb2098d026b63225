"""Threads, signals, forks, and the end of the interpreter."""

import ctypes
import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
import redis
from conftest import ends, eventually, in_fork, run
from globallock import GlobalLockManager

HOLDS = """
import sys
from globallock import GlobalLockManager
lock = GlobalLockManager(sys.argv[1]).lock(sys.argv[2])
assert lock.acquire()
print("held", flush=True)
"""


def test_the_end_of_the_interpreter_releases_held_locks(url, name):
    assert ends(run(HOLDS, url, name)) == "held\n"
    # A busy server may still be at work on the release.
    assert GlobalLockManager(url).lock(name, blocking_timeout=15).acquire()


def test_a_forked_child_works_at_once_and_leaves_its_parents_locks_alone(url, name):
    lockman = GlobalLockManager(url)
    lock = lockman.lock(name)
    assert lock.acquire()

    def child():
        lock.release()
        taken = lockman.lock(name, blocking=False).acquire()
        with lockman.lock(f"{name}-other") as other:
            return lock.is_locked, taken, other.is_locked

    for _ in range(3):
        assert in_fork(child) == "(False, False, True)"
    assert lock.is_locked and lock.extend()
    assert not GlobalLockManager(url).lock(name, blocking=False).acquire()


def test_the_end_of_a_forked_child_releases_none_of_its_parents_locks(redis_server, name):
    program = HOLDS + """
import os
if os.fork() == 0:
    sys.exit(0)
os.wait()
print(lock.is_locked, lock.extend(), flush=True)
"""
    assert ends(run(program, redis_server.url, name)) == "held\nTrue True\n"


def test_a_grandchild_works_too(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    assert lockman.lock(f"{name}-a").acquire()

    def child():
        assert lockman.lock(f"{name}-b").acquire()
        return in_fork(lambda: lockman.lock(f"{name}-c").acquire())

    assert in_fork(child) == "'True'"


def test_forks_while_other_threads_acquire_locks(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            with lockman.lock(f"{name}-{number}") as lock:
                assert lock.is_locked

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            child = lockman.lock(f"{name}-{number}-child")
            assert in_fork(child.acquire) == "True"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def take(url, name):
    with GlobalLockManager(url).lock(name, blocking_timeout=30) as lock:
        return lock.is_locked


def test_children_that_live_on_keep_nothing_locked_that_was_locked_at_their_fork(tmp_path):
    program = """
import os, sys, threading
from globallock import GlobalLockManager
lockman = GlobalLockManager(sys.argv[1])
stop = threading.Event()
def use(name):
    while not stop.is_set():
        with lockman.lock(name):
            pass
threads = [threading.Thread(target=use, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
end, open_end = os.pipe()
for _ in range(150):
    if os.fork() == 0:
        os.close(open_end)
        os.read(end, 1)
        os._exit(0)
stop.set()
for thread in threads:
    thread.join()
print(GlobalLockManager(sys.argv[1]).lock("c", blocking_timeout=60).acquire(), flush=True)
os.close(open_end)
"""
    assert ends(run(program, f"file://{tmp_path}/locks")) == "True\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_a_pool_acquire_locks(redis_server, name, method):
    assert take(redis_server.url, name)
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert pool.starmap(take, [(redis_server.url, name)] * 6) == [True] * 6


WAITS = """
import signal, sys, time
from globallock import GlobalLockManager
# The parent may ignore it (nohup, a background job), and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
lock = GlobalLockManager(sys.argv[1]).lock(sys.argv[2])
print("waits", flush=True)
try:
    lock.acquire()
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
"""


def test_ctrl_c_ends_a_wait_and_leaves_nothing(url, name):
    lockman = GlobalLockManager(url)
    with lockman.lock(name):
        process = run(WAITS, url, name)
        eventually("the program waits", lambda: len(lockman.inspect(name)) == 2)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        waits, interrupted = ends(process).split()
        # It takes 50 ms on an idle machine.
        assert waits == "waits" and float(interrupted) - sent < 5
        eventually("the waiter has left the queue", lambda: len(lockman.inspect(name)) == 1)


def test_a_signal_handler_may_acquire_locks(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    taken = []
    before = signal.signal(signal.SIGALRM, lambda *_: taken.append(lockman.lock(f"{name}-handler").acquire()))
    try:
        with lockman.lock(name):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert not lockman.lock(name, blocking_timeout=0.5).acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert taken == [True]


def test_locks_are_renewed_while_another_store_answers_every_call_at_once(redis_server, name):
    lease, busy = 0.5, GlobalLockManager("memory:busy")
    with GlobalLockManager(redis_server.url).lock(name, lock_ttl=lease) as lock:
        until = time.monotonic() + 3 * lease
        while time.monotonic() < until:
            busy.inspect(name)
        assert lock.is_locked and lock.extend()


def test_locks_are_renewed_while_python_is_busy(redis_server, name):
    lease = 0.5
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name, lock_ttl=lease) as lock:
        # A call of C code that keeps Python's global lock.
        ctypes.PyDLL(None).usleep(int(3 * lease * 1e6))
        assert lock.is_locked and lock.extend()
        assert redis.Redis(port=redis_server.port).exists(lock.lock_key)


def test_locks_are_renewed_between_blocking_calls(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name, lock_ttl=0.3) as lock, lockman.lock(f"{name}-taken"):
        for number in range(12):
            # While a call waits, its thread renews. After it, the background thread must renew.
            assert not lockman.lock(f"{name}-taken", blocking_timeout=0.06 + number * 0.01).acquire()
            time.sleep(0.3)
            assert lock.is_locked, number


def test_a_wait_lets_other_threads_run(redis_server, name):
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name):
        waiter = threading.Thread(target=lockman.lock(name, blocking_timeout=1).acquire)
        waiter.start()
        counted = 0
        while waiter.is_alive():
            counted += 1
        assert counted > 1000


def test_an_import_starts_no_thread():
    program = "import globallock, threading, os; print(len(os.listdir('/proc/self/task')))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "1\n"
