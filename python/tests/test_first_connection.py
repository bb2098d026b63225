"""A store that is not there yet when it is first asked, as at boot: the first request waits for it."""

import asyncio
import socket
import time

import pytest
from conftest import Late
from globallock import GlobalLockManager, StoreUnavailable


@pytest.fixture(params=["redis", "etcd", "zookeeper"])
def late(request):
    with Late(request.getfixturevalue(f"{request.param}_server").port, refusals=4) as port:
        port.url = f"{request.param}://127.0.0.1:{port.port}"
        yield port


def test_a_wait_begins_before_the_store_is_there(late, name):
    lockman = GlobalLockManager(late.url)
    lock = lockman.lock(name, blocking_timeout=120)
    assert lock.acquire() and late.left == 0
    lock.release()
    lockman.close()


def test_a_try_waits_for_the_store_and_not_for_the_lock(late, name):
    lockman = GlobalLockManager(late.url)
    with lockman.lock(name, blocking=False) as lock:
        assert lock.is_locked and late.left == 0
    lockman.close()


def test_a_task_waits_for_the_store(late, name):
    async def main():
        lockman = GlobalLockManager(late.url)
        async with lockman.aio.lock(name, blocking_timeout=120) as lock:
            assert lock.is_locked and late.left == 0
        lockman.close()

    asyncio.run(main())


#: What onlookers ask: of a manager, and of its aio.
LOOKS = {
    "inspect": lambda locks, name: locks.inspect(name),
    "list": lambda locks, name: locks.list(name),
    "names": lambda locks, name: locks.names(name),
    "evict": lambda locks, name: locks.evict(name, "none"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_an_onlooker_waits_for_the_store(late, name, look):
    lockman = GlobalLockManager(late.url, lock_ttl=120)
    assert not LOOKS[look](lockman, name)
    assert late.left == 0
    lockman.close()


@pytest.mark.parametrize("look", LOOKS)
def test_a_task_that_looks_waits_for_the_store(late, name, look):
    async def main():
        lockman = GlobalLockManager(late.url, lock_ttl=120)
        assert not await LOOKS[look](lockman.aio, name)
        assert late.left == 0
        lockman.close()

    asyncio.run(main())


def test_the_first_change_is_told_once_the_store_is_there(late, name):
    with GlobalLockManager(late.url, lock_ttl=120) as lockman, lockman.watch(name) as changes:
        lock = GlobalLockManager(late.url.replace(str(late.port), str(late.server[1]))).lock(name)
        with lock:
            assert next(changes).name == name and late.left == 0


@pytest.mark.parametrize("look", LOOKS)
def test_an_onlooker_is_told_after_the_lease_that_the_store_does_not_come(name, look):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    lockman = GlobalLockManager(f"redis://127.0.0.1:{port}", lock_ttl=0.5)
    since = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}.*refused"):
        LOOKS[look](lockman, name)
    assert 0.4 < time.monotonic() - since < 15
    lockman.close()


def test_a_store_that_never_comes_is_told_when_the_wait_is_over(name):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    lockman = GlobalLockManager(f"redis://127.0.0.1:{port}")
    since = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}.*refused"):
        lockman.lock(name, blocking_timeout=0.5).acquire()
    assert 0.4 < time.monotonic() - since < 15
    lockman.close()
