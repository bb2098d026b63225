"""A store that is not there yet when it is first asked, as at boot: the first request waits for it."""

import asyncio
import socket
import threading
import time

import pytest
from globallock import GlobalLockManager, StoreUnavailable


class Late:
    """A port that leads to a server, but not yet: the first connections are closed without an answer."""

    def __init__(self, port, refusals):
        self.server = ("127.0.0.1", port)
        self.refusals = self.left = refusals
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.left > 0:
                self.left -= 1
                client.close()
                continue
            server = socket.create_connection(self.server)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    @staticmethod
    def pass_on(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


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


def test_a_store_that_never_comes_is_told_when_the_wait_is_over(name):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    lockman = GlobalLockManager(f"redis://127.0.0.1:{port}")
    since = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}.*refused"):
        lockman.lock(name, blocking_timeout=0.5).acquire()
    assert 0.4 < time.monotonic() - since < 15
    lockman.close()
