"""The locks of this package as the locks of a cache of django-redis."""

import os
from pathlib import Path

from globallock import DJANGO_REDIS_GLOBAL_LOCK_CLASS, GlobalLockManager


def lock(cache, key, version=None, thread_local=True, **options):
    """What ``cache.lock()`` of django-redis makes: a lock at the key that the cache has for this name."""
    from django.core.cache import caches

    [alias] = [alias for alias in caches if caches[alias] is cache]
    lockman = GlobalLockManager(
        global_lock_engine_class=DJANGO_REDIS_GLOBAL_LOCK_CLASS,
        global_lock_engine_options={"redis-cache-name": alias},
        global_lock_key_prefix="",
    )
    name = str(cache.client.make_key(key, version=version))
    return Face(lockman.lock(name, thread_local=thread_local, **options), lockman)


class Face:
    """A lock whose ``acquire()`` takes ``blocking``."""

    def __init__(self, made, lockman):
        self.made, self.lockman = made, lockman

    def acquire(self, blocking=True):
        self.made.blocking = blocking
        return self.made.acquire()

    def release(self):
        self.made.release()


def pytest_configure(config):
    for settings in Path("tests/settings").glob("*.py"):
        port = os.environ["PEERS_REDIS_PORT"]
        settings.write_text(settings.read_text().replace(":6379", f":{port}"))
    from django_redis.cache import RedisCache

    RedisCache.lock = lock
