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


def of_lock(caplog, name):
    """What was logged of a lock: level, event and record, in order."""
    return [(record.levelno, record.event, record) for record in caplog.records
            if record.name == "globallock" and getattr(record, "lock", None) == name]  # fmt: skip


@pytest.mark.parametrize("kind", ["redis", "memory"])
def test_each_step_of_a_lock_is_a_debug_line_with_fields(kind, redis_server, name, caplog):
    caplog.set_level(logging.DEBUG, logger="globallock")
    with GlobalLockManager(redis_server.url if kind == "redis" else f"memory:{name}") as lockman:
        first, second = lockman.lock(name), lockman.lock(name)
        with first:
            token = first.fencing_token
            waiter = threading.Thread(target=lambda: second.acquire() and second.release())
            waiter.start()
            eventually("it waits", lambda: any(event == "waiting" for _, event, _ in of_lock(caplog, name)))
            assert not lockman.lock(name, blocking=False).acquire()
        waiter.join(30)
    steps = of_lock(caplog, name)
    assert {level for level, _, _ in steps} == {logging.DEBUG}
    events = [event for _, event, _ in steps]
    assert events == ["granted", "waiting", "not_granted", "released", "granted", "released"]
    granted, waiting, refused, released, later, _ = (record for _, _, record in steps)
    assert granted.fencing_token == released.fencing_token == token < later.fencing_token
    assert waiting.place == 1 and waiting.fencing_token is None
    assert all(0 <= record.waited < 30 for record in (granted, refused, later))
    assert refused.waited <= released.held < 30
    assert waiting.getMessage() == f'waiting: "{name}", behind 1'
    assert re.fullmatch(r'granted: ".*", after \d+\.\d{3} s', granted.getMessage())
    assert re.fullmatch(r'released: ".*", held for \d+\.\d{3} s', released.getMessage())


@pytest.fixture
def server_with_password():
    started = Server("redis")
    redis.Redis(port=started.port).config_set("requirepass", "secret")
    yield started
    started.stop()


def test_a_loss_and_an_outage_have_fields(server_with_password, name, caplog):
    caplog.set_level(logging.INFO, logger="globallock")
    with Late(server_with_password.port, refusals=0) as proxy:
        lockman = GlobalLockManager(f"redis://:secret@127.0.0.1:{proxy.port}")
        with lockman.lock(name, lock_ttl=1.5) as lock:
            token = lock.fencing_token
            proxy.refuse(10**9)
            assert lock.wait_lost(30)
            proxy.left = 0
            with lockman.lock(f"{name}-after"):
                eventually("the store is back", lambda: lines(caplog, logging.INFO, "answers again"))
        lockman.close()
    found = {record.event: record for record in caplog.records if record.name == "globallock"}
    lost, failed = found["lost"], found["renewal_failed"]
    assert (lost.levelno, lost.lock, lost.fencing_token) == (logging.ERROR, name, token)
    assert lost.reason == "expired" and 1 < lost.held < 30
    assert (failed.levelno, failed.lock) == (logging.WARNING, name) and failed.reason
    assert found["store_away"].levelno == logging.WARNING and found["store_away"].reason
    assert found["store_back"].store == f"redis://127.0.0.1:{proxy.port}"
    assert not [record for record in caplog.records if "secret" in str(record.__dict__)]


def test_events_that_wait_too_long_are_left_out_and_a_warning_says_how_many(name):
    entered, go_on, heard = threading.Event(), threading.Event(), []

    class Slow(logging.Handler):
        def emit(self, record):
            # Loggers below this one come here, too.
            if record.name == "globallock":
                heard.append(record)
                entered.set()
                assert go_on.wait(60)

    def logged():
        return sum(record.event in ("granted", "released") for record in list(heard))

    def left_out():
        return sum(record.args[0] for record in list(heard) if record.event == "left_out")

    logger, handler = logging.getLogger("globallock"), Slow()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with GlobalLockManager(f"memory:{name}") as lockman:
            lock = lockman.lock(name)
            with lock:
                assert entered.wait(30)
            for _ in range(5000):
                with lock:
                    assert lock.is_locked
            go_on.set()
            eventually("each is logged or counted", lambda: logged() + left_out() == 2 * 5001)
            lockman.close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        go_on.set()
    [warning] = [record for record in heard if record.event == "left_out"]
    assert warning.levelno == logging.WARNING


def test_a_change_of_the_level_is_noticed_at_the_next_acquire(name, caplog):
    logger = logging.getLogger("globallock")
    with GlobalLockManager(f"memory:{name}") as lockman:
        quiet, loud = (logging.INFO, []), (logging.DEBUG, ["granted", "released"])
        for level, expected in (quiet, loud, quiet):
            caplog.clear()
            logger.setLevel(level)
            try:
                with lockman.lock(name):
                    pass
                # Asks the thread that logs to be done.
                lockman.close()
            finally:
                logger.setLevel(logging.NOTSET)
            assert [event for _, event, _ in of_lock(caplog, name)] == expected
