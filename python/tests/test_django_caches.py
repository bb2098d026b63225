"""Locks in the Redis of every kind of cache that Django can have, against real servers."""

import json

import pytest
from conftest import ends, run, server

PASSWORD = "p@ss:/%"
LOCKS = """
import json, sys, time
from django.conf import settings
settings.configure(
    CACHES={
        "other": json.loads(sys.argv[1]),
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    },
    DJANGO_REDIS_CONNECTION_FACTORY=sys.argv[2],
    GLOBAL_LOCK_CONFIG={
        "global_lock_engine_class": "globallock.django_redis_global_lock.DjangoRedisGlobalLock",
        "global_lock_engine_options": {"redis-cache-name": "other"},
    },
)
import django
django.setup()
from django.core.cache import caches
from globallock.django import get_default_global_lock_manager
from globallock.django_redis_global_lock import cache_pool
import redis
caches["other"].set("a", 1)
until = time.monotonic() + 30
while caches["other"].get("a") is None and time.monotonic() < until:  # a replica is read, which is behind
    time.sleep(0.01)
client = redis.Redis(connection_pool=cache_pool("other"))
with get_default_global_lock_manager().lock("x", timeout=60) as lock:
    # The same server and the same database: redis-py's lock of the name is excluded there.
    theirs = client.lock("_glocks:x", blocking=False)
    print(caches["other"].get("a"), lock.is_locked, theirs.acquire())
print(theirs.acquire())
theirs.release()
"""
DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"


@pytest.fixture(scope="module")
def tls():
    yield from server("redis-tls")


@pytest.fixture(scope="module")
def socket():
    yield from server("redis-socket")


@pytest.fixture(scope="module")
def sentinels():
    yield from server("redis-sentinel")


def holds(cache, factory="django_redis.pool.ConnectionFactory"):
    assert ends(run(LOCKS, json.dumps(cache), factory)).split() == ["1", "True", "False", "True"]


@pytest.mark.parametrize("backend", [DJANGO_REDIS, DJANGO])
def test_a_cache_with_a_user_over_tls(backend, tls):
    files = {name: tls.fields[name] for name in ("ca", "cert", "key")}
    options = "ssl_ca_certs={ca}&ssl_certfile={cert}&ssl_keyfile={key}".format(**files)
    where = f"rediss://alice:p%40ss%3A%2F%25@localhost:{tls.port}/2?{options}"
    holds({"BACKEND": backend, "LOCATION": where})


@pytest.mark.parametrize("backend", [DJANGO_REDIS, DJANGO])
def test_a_cache_with_a_user_on_a_unix_socket(backend, socket):
    where = f"unix://alice:p%40ss%3A%2F%25@{socket.fields['socket']}?db=3"
    holds({"BACKEND": backend, "LOCATION": where})


def test_a_cache_with_its_user_outside_the_address(socket):
    options = {"PASSWORD": PASSWORD, "CONNECTION_POOL_KWARGS": {"username": "alice"}}
    holds({"BACKEND": DJANGO_REDIS, "LOCATION": f"redis://127.0.0.1:{socket.port}/1", "OPTIONS": options})


def test_a_cache_behind_live_sentinels(sentinels):
    hosts = sentinels.url.split("://")[1].split(",")
    options = {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "SENTINELS": [[host.split(":")[0], int(host.split(":")[1])] for host in hosts],
    }
    cache = {"BACKEND": DJANGO_REDIS, "LOCATION": "redis://main/1", "OPTIONS": options}
    holds(cache, "django_redis.pool.SentinelConnectionFactory")
