"""What the core notices by itself is logged by the logger `globallock`."""

import logging
import re
import subprocess
import threading

import pytest
import redis
from conftest import Late, Server, ends, eventually, run
from globallock import GlobalLockManager

#: Tells of every server that may evict locks.
UNSAFE = "maxmemory-policy to noeviction, not allkeys-lru"

#: Connects to a store, and logs by a handler that prints. The process ends at once.
BRIEF = """
import logging, os, sys
from globallock import GlobalLockManager

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
lockman = GlobalLockManager(sys.argv[1])
with lockman.lock("brief"):
    pass
"""

#: Does the same in a forked child too, after its parent has logged.
FORKS = BRIEF + """
lockman.close()
sys.stdout.flush()
print("forks", flush=True)
child = os.fork()
with lockman.lock("brief"):
    pass
lockman.close()
sys.stdout.flush()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("ends")
else:
    os._exit(0)
"""

#: Prints the names of its threads, which takes and leaves a lock of each manager.
THREADS = """
import sys, glob
from globallock import GlobalLockManager

managers = [GlobalLockManager(url) for url in sys.argv[1:]]
for lockman in managers:
    with lockman.lock("threads"):
        pass
    lockman.close()
print([open(comm).read().strip() for comm in glob.glob("/proc/self/task/*/comm")].count("globallock-log"))
"""


@pytest.fixture(scope="module")
def unsafe_server():
    """A Redis that evicts keys when its memory is full."""
    started = Server("redis")
    client = redis.Redis(port=started.port)
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    yield started
    started.stop()


def lines(caplog, level, *words):
    return [
        record for record in caplog.records
        if (record.levelno, record.name) == (level, "globallock")
        and all(word in record.getMessage() for word in words)
    ]


def test_an_unsafe_setting_is_a_warning(unsafe_server, name, caplog):
    with GlobalLockManager(unsafe_server.url) as lockman, lockman.lock(name):
        eventually("it is logged", lambda: lines(caplog, logging.WARNING, UNSAFE))
    [record] = lines(caplog, logging.WARNING, UNSAFE)
    assert f"127.0.0.1:{unsafe_server.port}" in record.getMessage()


def test_an_old_server_is_a_warning(etcd_server, name, caplog):
    version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    if "3.4.23" not in version:
        pytest.skip("this etcd is newer")
    with GlobalLockManager(etcd_server.url) as lockman, lockman.lock(name):
        eventually("it is logged", lambda: lines(caplog, logging.WARNING, "3.4.23", "mends faults"))


def test_a_store_that_goes_and_comes_back(redis_server, name, caplog):
    caplog.set_level(logging.DEBUG, logger="globallock")
    with Late(redis_server.port, refusals=0) as proxy:
        lockman = GlobalLockManager(f"redis://127.0.0.1:{proxy.port}")
        with lockman.lock(name, lock_ttl=60) as lock:
            with lockman.lock(f"{name}-brief", lock_ttl=3) as brief:
                proxy.refuse(10**9)
                eventually("the store is away", lambda: lines(caplog, logging.WARNING, "does not answer"))
                eventually("a renewal fails", lambda: lines(caplog, logging.WARNING, "a renewal failed"))
                proxy.left = 0
                eventually("the store is back", lambda: lines(caplog, logging.INFO, "answers again"))
                assert lines(caplog, logging.DEBUG, "the connection is lost")
            assert lock.is_locked and not brief.is_locked
        lockman.close()


def test_a_loss_is_an_error_and_is_told_once(redis_server, name, caplog):
    lockman = GlobalLockManager(redis_server.url)
    with lockman.lock(name, lock_ttl=0.6) as lock:
        redis.Redis(port=redis_server.port).delete(lock.lock_key)
        assert lock.wait_lost(30)
    lockman.close()
    [record] = lines(caplog, logging.ERROR, name)
    assert "the store has no such claim any more" in record.getMessage()
    assert [other.getMessage() for other in caplog.records if name in other.getMessage()] == [
        record.getMessage()
    ]


def test_a_program_that_ends_at_once_has_logged(unsafe_server):
    printed = ends(run(BRIEF, unsafe_server.url))
    assert re.fullmatch(f"WARNING globallock .*{UNSAFE}\n", printed)


def test_a_forked_child_logs(unsafe_server):
    printed = ends(run(FORKS, unsafe_server.url))
    before, after = printed.split("forks\n")
    assert before.count(UNSAFE) == 1
    assert after.count(UNSAFE) == 2 and after.endswith("ends\n")


def test_one_thread_of_a_process_logs_and_only_if_there_is_something_to_log(unsafe_server, redis_server):
    assert ends(run(THREADS, redis_server.url)) == "0\n"
    assert ends(run(THREADS, unsafe_server.url, redis_server.url, unsafe_server.url)) == "1\n"


def test_a_handler_that_does_not_return_delays_no_lock(unsafe_server, name):
    entered, go_on = threading.Event(), threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record):
            entered.set()
            assert go_on.wait(60)

    handler = Stuck()
    logging.getLogger("globallock").addHandler(handler)
    try:
        lockman = GlobalLockManager(unsafe_server.url)
        with lockman.lock(name, lock_ttl=0.6) as lock:
            assert entered.wait(30)
            assert lock.wait_lost(1) is None and lock.is_locked, "it is renewed"
            with lockman.lock(f"{name}-other") as other:
                assert other.is_locked
        lockman.close()
    finally:
        logging.getLogger("globallock").removeHandler(handler)
        go_on.set()
