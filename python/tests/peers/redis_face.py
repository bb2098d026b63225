"""The locks of this package in the shape of redis-py's ``Lock``, for threads and for asyncio."""

import types

import redis.asyncio.lock
import redis.lock
from globallock import GlobalLockManager
from globallock.aio import AsyncLock as AwaitedLock
from redis.exceptions import LockError, LockNotOwnedError

#: One manager a server, as a program has.
managers = {}


def manager(client):
    given = client.connection_pool.connection_kwargs
    where = given["host"], given["port"], given.get("db", 0)
    if where not in managers:
        host, port, db = where
        options = {"host": host, "port": port, "db": db}
        # Without the gap that lets locks in which poll: no other package's locks are in these tests.
        managers[where] = GlobalLockManager(
            global_lock_engine_options=options, global_lock_key_prefix="", gap=0
        )
    return managers[where]


class Common:
    def __init__(
        self,
        redis,
        name,
        timeout=None,
        sleep=0.1,
        blocking=True,
        blocking_timeout=None,
        thread_local=True,
        raise_on_release_error=True,
    ):
        self.client, self.name, self.timeout = redis, name, timeout
        self.raises, self.blocking = raise_on_release_error, blocking
        self.made = manager(redis).lock(
            name, timeout=timeout, sleep=sleep, blocking=blocking, blocking_timeout=blocking_timeout,
            thread_local=thread_local,
        )  # fmt: skip
        self.acquired = False

    def prepare(self, sleep=None, blocking=None, blocking_timeout=None, token=None):
        recipe = self.recipe()
        if blocking is not None:
            recipe.blocking = blocking
        if blocking_timeout is not None:
            recipe.blocking_timeout = blocking_timeout

    def recipe(self):
        """The lock with the options."""
        return self.made

    @property
    def local(self):
        """The store's own mark of this grant, in place of redis-py's random token."""
        token = self.made.fencing_token
        return types.SimpleNamespace(token=None if token is None else str(token).encode())

    def check(self, what):
        if not self.acquired:
            raise LockError(f"Cannot {what} an unlocked lock", lock_name=self.name)

    def check_timeout(self, what):
        self.check(what)
        if self.timeout is None:
            raise LockError(f"Cannot {what} a lock with no timeout", lock_name=self.name)

    def not_owned(self, what):
        return LockNotOwnedError(f"Cannot {what} a lock that's no longer owned", lock_name=self.name)

    def refused(self):
        return LockError("Unable to acquire lock within the time specified", lock_name=self.name)


class Lock(Common):
    def acquire(self, **options):
        self.prepare(**options)
        granted = self.made.acquire()
        self.acquired = self.acquired or granted
        return granted

    def release(self):
        self.check("release")
        self.acquired = False
        # `release()` of this package warns in the log. redis-py raises, so the face asks first.
        held = self.made.extend()
        self.made.release()
        if not held:
            raise self.not_owned("release")

    def locked(self):
        return any(claim.held for claim in manager(self.client).inspect(self.name))

    def owned(self):
        return self.made.extend()

    def reacquire(self):
        self.check_timeout("reacquire")
        if not self.made.extend():
            raise self.not_owned("reacquire")
        return True

    def extend(self, additional_time, replace_ttl=False):
        self.check_timeout("extend")
        if not self.made.extend():
            raise self.not_owned("extend")
        # The time to live is the lease, which is renewed without this. There is nothing to add to.
        return True

    def __enter__(self):
        if self.acquire():
            return self
        raise self.refused()

    def __exit__(self, *exception):
        try:
            self.release()
        except LockError:
            if self.raises:
                raise


class AsyncLock(Common):
    def __init__(self, redis, name, **options):
        super().__init__(redis, name, **options)
        self.made = AwaitedLock(self.made)

    def recipe(self):
        return self.made.sync

    async def acquire(self, **options):
        self.prepare(**options)
        granted = await self.made.acquire()
        self.acquired = self.acquired or granted
        return granted

    def release(self):
        # As redis-py does: it is checked when called, not when awaited.
        self.check("release")
        return self.do_release()

    async def do_release(self):
        self.acquired = False
        held = await self.made.extend()
        await self.made.release()
        if not held:
            raise self.not_owned("release")

    async def locked(self):
        return any(claim.held for claim in await manager(self.client).aio.inspect(self.name))

    async def owned(self):
        return await self.made.extend()

    def reacquire(self):
        self.check_timeout("reacquire")
        return self.still("reacquire")

    def extend(self, additional_time, replace_ttl=False):
        self.check_timeout("extend")
        return self.still("extend")

    async def still(self, what):
        if not await self.made.extend():
            raise self.not_owned(what)
        return True

    async def __aenter__(self):
        if await self.acquire():
            return self
        raise self.refused()

    async def __aexit__(self, *exception):
        try:
            await self.release()
        except LockError:
            if self.raises:
                raise


# The tests import these when they are collected, which is later.
redis.lock.Lock = Lock
redis.asyncio.lock.Lock = AsyncLock
