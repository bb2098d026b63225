"""`cache.lock()` of Django's own cache, of django-redis and of django-valkey, in a real Redis."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import asyncio
import pickle
import threading

import frameworks
import pytest

frameworks.needs_framework("django", "redis")

import djangoproject

import globallock.django.cache as backends
import redis
from django.core.cache import InvalidCacheBackendError, caches
from django.test import override_settings
from globallock import InvalidOption, NotLocked

KINDS = {
    "RedisCache": "redis",
    "DjangoRedisCache": "django_redis",
    "DjangoValkeyCache": "django_valkey",
}


@pytest.fixture(params=sorted(KINDS))
def cache(request, redis_server):
    """A cache of each kind, with a prefix and a version of its own."""
    try:
        frameworks.needs_framework(KINDS[request.param])
    except pytest.skip.Exception:
        pytest.skip(f"{KINDS[request.param]} is not installed")
    where = redis_server.url.replace("redis:", "valkey:" if "Valkey" in request.param else "redis:") + "/7"
    setting = {
        "BACKEND": f"globallock.django.cache.{request.param}",
        "LOCATION": where,
        "KEY_PREFIX": "shop",
        "VERSION": 3,
    }
    with override_settings(CACHES={"default": setting}):
        yield caches["default"]


@pytest.fixture
def client(redis_server):
    """redis-py, in the database of the cache."""
    with redis.Redis(port=redis_server.port, db=7) as client:
        yield client


def errors(cache):
    kind = "Valkey" if cache.lock_errors == "valkey" else "Redis"
    package = __import__(f"{cache.lock_errors}.exceptions").exceptions
    ours = getattr(backends, f"{kind}LockError"), getattr(backends, f"{kind}LockNotOwnedError")
    return ours, (package.LockError, package.LockNotOwnedError)


def test_a_cache_still_caches(cache, name):
    cache.set(name, {"a": 1})
    assert cache.get(name) == {"a": 1}


def test_the_lock_is_at_the_key_of_the_cache_in_its_database(cache, client, name):
    lock = cache.lock(name)
    assert lock.name == f"shop:3:{name}" and not lock.locked() and not lock.owned()
    with lock:
        assert client.exists(f"shop:3:{name}") and lock.locked() and lock.owned() and lock.fencing_token
        # redis-py's lock at that key is excluded, and so is another one of ours.
        assert not client.lock(f"shop:3:{name}", blocking=False).acquire()
        assert not cache.lock(name).acquire(blocking=False)
        with cache.lock(name, version=4, blocking=False) as other:
            assert other.name == f"shop:4:{name}"
    assert not client.exists(f"shop:3:{name}") and not lock.locked()
    theirs = client.lock(f"shop:3:{name}")
    with theirs:
        assert cache.lock(name).locked() and not cache.lock(name).owned()
        assert not cache.lock(name, blocking_timeout=0.1).acquire()


def test_the_interface_of_redis_py(cache, name):
    (_, _), (lock_error, not_owned_error) = errors(cache)
    lock = cache.lock(name, timeout=60, blocking_timeout=0.1)
    assert lock.acquire() is True and lock.owned()
    other = cache.lock(name, blocking_timeout=30)
    assert other.acquire(blocking=False) is False and other.acquire(blocking_timeout=0.1) is False
    assert other.acquire(blocking=True, blocking_timeout=0.1) is False
    with pytest.raises(lock_error), cache.lock(name, blocking=False):
        raise AssertionError("entered without the lock")
    with pytest.raises(lock_error):
        other.release()
    lock.release()
    with pytest.raises(lock_error):
        lock.release()
    # What was given to acquire() was for one call.
    holder = cache.lock(name, thread_local=False)
    assert holder.acquire()
    timer = threading.Timer(0.2, holder.release)
    timer.start()
    assert other.acquire() is True
    timer.join()
    other.release()


def test_a_lost_lock_is_told_at_its_release(cache, client, name):
    (_, _), (lock_error, not_owned_error) = errors(cache)
    lock = cache.lock(name, timeout=0.2)
    assert lock.acquire() and lock.wait_lost(30) is not None and not lock.owned()
    with pytest.raises(not_owned_error):
        lock.release()
    with pytest.raises(not_owned_error), cache.lock(name, timeout=0.2) as lock:
        assert lock.wait_lost(30) is not None
    # The error of the block is not replaced.
    with pytest.raises(KeyError), cache.lock(name, timeout=0.2) as lock:
        assert lock.wait_lost(30) is not None
        raise KeyError
    with pytest.raises(lock_error, match="released before the end"), cache.lock(name) as lock:
        lock.release()
    assert not lock.locked()


def test_another_thread_may_release_it(cache, name):
    lock = cache.lock(name, thread_local=False)
    assert lock.acquire(blocking=True)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.locked()


def test_one_lock_object_for_many_threads(cache, name):
    lock, inside, most = cache.lock(name), [], []

    def work():
        for _ in range(5):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_what_is_not_offered_is_refused(cache, name):
    with pytest.raises(InvalidOption, match="client"):
        cache.lock(name, client=object())
    lock = cache.lock(name, timeout=60)
    with lock:
        for extend in (lambda: lock.extend(10), lambda: lock.extend(10, replace_ttl=True), lock.reacquire):
            with pytest.raises(InvalidOption, match="cannot be extended: make it without a timeout"):
                extend()
        assert lock.extend() is True
    with pytest.raises(InvalidOption, match="token"):
        lock.acquire(token="abc")


def test_in_asyncio(cache, name):
    (_, _), (lock_error, _) = errors(cache)

    async def main():
        async with cache.lock(name) as lock:
            assert lock.owned()
            with pytest.raises(lock_error):
                async with cache.lock(name, blocking=False):
                    raise AssertionError("entered without the lock")
            assert lock.owned()
        assert not lock.locked()

    asyncio.run(main())


def test_a_lost_lock_is_told_at_the_end_of_an_async_with(cache, name):
    (_, _), (lock_error, not_owned_error) = errors(cache)

    async def main():
        with pytest.raises(not_owned_error, match="was lost before its release"):
            async with cache.lock(name, timeout=0.2) as lock:
                assert await asyncio.to_thread(lock.lost_event().wait, 30)
        # The error of the block is not replaced.
        with pytest.raises(KeyError):
            async with cache.lock(name, timeout=0.2) as lock:
                assert await asyncio.to_thread(lock.lost_event().wait, 30)
                raise KeyError
        with pytest.raises(lock_error, match="released before the end"):
            async with cache.lock(name) as lock:
                lock.release()
        # Each owner has its own, though they share an object.
        shared, inside = cache.lock(name), []

        async def work():
            async with shared:
                inside.append(1)
                await asyncio.sleep(0)
                assert inside == [1] and shared.owned()
                inside.pop()

        await asyncio.gather(*(work() for _ in range(4)))
        assert not shared.locked()

    asyncio.run(main())


def test_waiting_for_oneself_is_an_error_of_both_packages(cache, name):
    (_, _), (lock_error, _) = errors(cache)
    lock = cache.lock(name)

    async def twice():
        async with lock:
            async with lock:
                raise AssertionError("entered twice")

    with pytest.raises(lock_error, match="would wait for itself for ever") as raised, lock:
        lock.acquire()
    assert isinstance(raised.value, NotLocked) and raised.value.lock_name == lock.name
    with pytest.raises(lock_error, match="would wait for itself for ever"):
        asyncio.run(twice())
    assert not lock.locked()


def test_the_errors_are_those_of_both_packages_and_can_be_pickled(cache, name):
    ours, theirs = errors(cache)
    for mine, other in zip(ours, theirs):
        copied = pickle.loads(pickle.dumps(mine(name, "was lost")))
        assert isinstance(copied, mine) and issubclass(mine, other) and issubclass(mine, NotLocked)
        assert str(copied) == f"the lock {name!r} was lost" and copied.lock_name == name
    assert issubclass(ours[1], ours[0])
    lock = pickle.loads(pickle.dumps(cache.lock(name)))
    with lock:
        assert cache.lock(name).locked()


def test_all_backends_of_a_process_share_one_connection(cache, client, name):
    def connections():
        return len(client.client_list())

    with cache.lock(name):
        before, found = connections(), []

        def work():
            found.append(caches["default"])
            with caches["default"].lock(f"{name}-2"):
                found.append(connections())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found[0] is not cache and found[1] <= before


def test_a_backend_whose_package_is_missing_says_what_to_install(monkeypatch):
    import sys

    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "django_redis.cache", None)
    monkeypatch.delitem(vars(backends), "DjangoRedisCache", raising=False)
    setting = {"default": {"BACKEND": "globallock.django.cache.DjangoRedisCache", "LOCATION": "redis://h"}}
    with override_settings(CACHES=setting), pytest.raises(InvalidCacheBackendError) as raised:
        caches["default"].get("a")
    assert "pip install django-redis" in str(raised.value)


def test_a_cache_of_several_servers_is_refused_in_words():
    frameworks.needs_framework("django_redis")
    setting = {
        "BACKEND": "globallock.django.cache.DjangoRedisCache",
        "LOCATION": ["redis://h/1"],
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
    }
    with override_settings(CACHES={"default": setting}):
        with pytest.raises(InvalidOption, match="no single Redis server behind it"):
            caches["default"].lock("a")
