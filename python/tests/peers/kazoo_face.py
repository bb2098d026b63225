"""The locks of this package in the shape of kazoo's recipes, on the server of the harness."""

import os
import types

import kazoo.client
import kazoo.testing.harness
from globallock import Evicted, GlobalLockManager
from kazoo.exceptions import CancelledError, LockTimeout

PORT = int(os.environ["PEERS_ZOOKEEPER_PORT"])


class Face:
    """A lock with a session of its own, as it is the identifier by which its claims are known."""

    def __init__(self, client, path, identifier=None, **options):
        chroot = client.chroot or ""
        self.lockman = GlobalLockManager(
            f"zookeeper://127.0.0.1:{PORT}{chroot}?prefix=/", label=identifier or None
        )
        # One kind of lock goes from thread to thread in these tests.
        self.made = self.make(path.lstrip("/"), thread_local=False, **options)
        self.is_acquired = self.cancelled = False

    def acquire(self, blocking=True, timeout=None, ephemeral=True):
        if self.is_acquired and (not blocking or timeout is not None):
            return False
        self.cancelled = False
        self.made.blocking, self.made.blocking_timeout = blocking, timeout
        try:
            granted = self.made.acquire()
        except Evicted:
            raise CancelledError() from None
        if not granted and blocking:
            raise LockTimeout("not within the time")
        self.is_acquired = self.is_acquired or granted
        return granted

    def release(self):
        was, self.is_acquired = self.is_acquired, False
        self.made.release()
        return was

    def cancel(self):
        self.cancelled = True
        mine = self.lockman.config.get("label")
        for claim in self.claims():
            if not claim.held and claim.label == mine:
                self.lockman.evict(self.made.name, claim, "cancelled")

    def claims(self):
        return self.lockman.inspect(self.made.name)

    def contenders(self):
        return [claim.label for claim in self.claims()]

    def lease_holders(self):
        return [claim.label for claim in self.claims() if claim.held]

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *exception):
        self.release()


class Lock(Face):
    def make(self, name, **options):
        return self.lockman.lock(name, **options)


class ReadLock(Face):
    def make(self, name, **options):
        return self.lockman.rwlock(name).read(**options)


class WriteLock(Face):
    def make(self, name, **options):
        return self.lockman.rwlock(name).write(**options)


class Semaphore(Face):
    def make(self, name, max_leases=1, **options):
        return self.lockman.semaphore(name, max_leases, **options)

    def acquire(self, *args, **options):
        # Unlike kazoo's lock, its semaphore does not wait for itself.
        return self.is_acquired or super().acquire(*args, **options)


for recipe in (Lock, ReadLock, WriteLock, Semaphore):
    setattr(kazoo.client, recipe.__name__, recipe)

server = types.SimpleNamespace(
    running=True, address=f"127.0.0.1:{PORT}", secure_address="", run=lambda: None, clean=lambda: None
)


class Cluster(list):
    """Stands for the servers that kazoo's tests would start: there is one, which runs."""

    def start(self):
        pass

    terminate = start

    def get_logs(self):
        return []


kazoo.testing.harness.get_global_cluster = lambda: Cluster([server])
