"""The setting of a Django project: when it is read, what its errors say, and what the system checks find."""

import json
import os
import socket
import subprocess

import pytest
from conftest import ends, run, server

SECRET = "s3cretQQ"
#: What starts many processes runs on one CPython: for the others the variable is 0.
on_one_cpython = pytest.mark.skipif(
    os.environ.get("GLOBALLOCK_FRAMEWORKS") == "0", reason="another CPython runs it"
)
SETUP = """
import json, sys, traceback
from django.conf import settings
redis = sys.argv[1]
CACHES = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"{redis}/1"},
    "memory": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "files": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/nowhere"},
    "database": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"},
    "memcached": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache", "LOCATION": "h:1"},
    "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    "port": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://:s3cretQQ/x@h:1"},
    "missing": {"BACKEND": "no_such_module.Cache"},
}
settings.configure(CACHES=CACHES, INSTALLED_APPS=["globallock"])
import django
django.setup()
from django.test import override_settings
import globallock
import globallock.django as door
from globallock.django import get_default_global_lock_manager
"""

READ = SETUP + """
def where():
    lockman = get_default_global_lock_manager()
    with lockman.lock("where", blocking=False) as lock:
        return lock.is_locked, lockman.lock_class.__name__, lockman.config.get("timeout")

def held_at(url):
    return bool(globallock.GlobalLockManager(url).inspect("where"))

print(where(), door.GLOBAL_LOCK_CONFIG)
with override_settings(GLOBAL_LOCK_CONFIG="memory:settings"):
    print(where(), door.GLOBAL_LOCK_CONFIG)
    with get_default_global_lock_manager().lock("where"):
        print(held_at("memory:settings"), held_at(f"{redis}/1"))
with override_settings(GLOBAL_LOCK_CONFIG={"url": "memory:settings", "timeout": 7}):
    print(where())
with override_settings(GLOBAL_LOCK_CONFIG={"timeout": 8}):
    print(where())
with override_settings(GLOBAL_LOCK_CONFIG=None):
    print(where())
from globallock.django import GLOBAL_LOCK_CONFIG
from unittest.mock import patch
with patch.object(door, "GLOBAL_LOCK_CONFIG", {"timeout": 9}):
    print(where())
print(where(), GLOBAL_LOCK_CONFIG)
options = {"redis-cache-name": "default"}
with override_settings(GLOBAL_LOCK_CONFIG={"global_lock_engine_options": options}):
    door._get_config()["global_lock_engine_options"]["redis-cache-name"] = "changed"
    print(options, where())
try:
    door.GLOBAL_LOCK_CONFG
except AttributeError as error:
    print(error)
"""


def test_the_setting_is_read_when_it_is_used(redis_server):
    django = "True, 'DjangoRedisGlobalLock', "
    assert ends(run(READ, redis_server.url)).splitlines() == [
        f"({django}None) {{}}",
        "(True, 'UrlGlobalLock', None) memory:settings",
        "True False",
        "(True, 'UrlGlobalLock', 7)",
        f"({django}8)",
        f"({django}None)",
        f"({django}9)",
        f"({django}None) {{}}",
        f"{{'redis-cache-name': 'default'}} ({django}None)",
        "module 'globallock.django' has no attribute 'GLOBAL_LOCK_CONFG'",
    ]


ERRORS = SETUP + """
for config in json.loads(sys.argv[2]):
    with override_settings(GLOBAL_LOCK_CONFIG=config):
        try:
            get_default_global_lock_manager().lock("a", blocking_timeout=0.3).acquire()
        except Exception as error:
            shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            print(json.dumps([type(error).__name__, str(error), shown]))
        else:
            print(json.dumps(["", "", ""]))
"""


def cache(alias):
    return {"global_lock_engine_options": {"redis-cache-name": alias}}


#: A setting, and what its error says after the name of the setting.
WRONG = [
    (["redis://h"], "is of type list: give an address or a dict"),
    (5, "is of type int: give an address or a dict"),
    ("reddis://h", ": the address has the scheme 'reddis': did you mean 'redis'?"),
    ({"url": "redis://h?prefx=a"}, ": redis: has no option 'prefx': did you mean 'prefix'?"),
    (f"redis://{SECRET}@h", ": invalid address redis://…@h: it has a user but no password"),
    ("redis://h:0", ": invalid address redis://h:0: a port is not a number"),
    ({"url": 5}, ": the address is of type int"),
    ({"url": "memory:", "global_lock_engine_options": {"a": 1}}, ": the store is given twice"),
    ({"timout": 5}, ": the configuration has no key 'timout': did you mean 'timeout'?"),
    ({"timeout": SECRET}, ": the option timeout is of type str: give a number of seconds"),
    ({"blocking": "no"}, ": the option blocking is of type str: give True or False"),
    ({"gap": 60}, ": the key gap is 60"),
    ({"host": "h"}, ": the configuration has no key 'host': write it into global_lock_engine_options"),
    ({"global_lock_engine_options": ["a"]}, ": the key global_lock_engine_options is of type list"),
    ({"global_lock_engine_class": "a.B"}, ": global lock class a.B is NOT found"),
    ({"global_lock_engine_options": {"redis_cache_name": "a"}}, "did you mean 'redis-cache-name'?"),
    (cache("memory"), ": the cache 'memory' (django.core.cache.backends.locmem.LocMemCache) has no single"),
    (cache("files"), "the cache 'files' (django.core.cache.backends.filebased.FileBasedCache) has no single"),
    (cache("database"), "the cache 'database' (django.core.cache.backends.db.DatabaseCache) has no single"),
    (cache("dummy"), "the cache 'dummy' (django.core.cache.backends.dummy.DummyCache) has no single"),
    (cache("memcached"), "the cache 'memcached'"),
    (cache("port"), "the cache 'port' (django_redis.cache.RedisCache) does not name its server: ValueError"),
    (cache("missing"), "the cache 'missing' cannot be made: Could not find backend 'no_such_module.Cache'"),
    (cache("defualt"), "the cache 'defualt' cannot be made: The connection 'defualt' doesn't exist; set "),
]


def test_errors_of_the_setting_name_it_and_say_what_to_set(redis_server):
    told = ends(run(ERRORS, redis_server.url, json.dumps([config for config, _ in WRONG]))).splitlines()
    assert len(told) == len(WRONG)
    for (config, words), line in zip(WRONG, told):
        kind, text, shown = json.loads(line)
        assert kind in ("InvalidOption", "InvalidAddress", "GlobalLockClassNotFoundException"), (config, kind)
        assert text.startswith("the setting GLOBAL_LOCK_CONFIG"), text
        assert text.count("the setting GLOBAL_LOCK_CONFIG") == 1 and words in text, text
        assert SECRET not in (text if "'port'" in text else shown)
        if "redis-cache-name" in str(config):
            # The only other cache in a Redis, or the one that was meant.
            assert "redis://127.0.0.1:6379" in text and "{'redis-cache-name': 'default'}" in text, text


CHECK = """
import json, os, sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["globallock"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    **json.loads(sys.argv[1]),
)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[2:]])
"""
URL_CLASS = "globallock.url_global_lock.UrlGlobalLock"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


def check(settings, *arguments):
    """The exit status of a command of Django, and what it reports."""
    process = run(CHECK, json.dumps(settings), *(arguments or ("check",)), stderr=subprocess.PIPE)
    printed, report = process.communicate(timeout=60)
    report = printed + report
    assert SECRET not in report and "Traceback" not in report, report
    return process.returncode, report


def test_the_system_check_finds_a_cache_that_is_not_fit():
    status, report = check({"CACHES": CACHES})
    assert status == 1 and "globallock.E001" in report
    assert "the cache 'default' (" in report and "set GLOBAL_LOCK_CONFIG to an address" in report


FOUND = SETUP + """
from django.core.checks import run_checks
from globallock.apps import check_store
for config in json.loads(sys.argv[2]):
    with override_settings(GLOBAL_LOCK_CONFIG=config, GLOBAL_LOCK_CONFG={}):
        print(json.dumps([[message.id, message.msg] for message in run_checks(tags=["globallock"])]))
        # As older releases of Django call it where no database is asked for.
        assert check_store(databases=None) == []
import os
print(len(os.listdir("/proc/self/task")))
"""


def test_the_system_check_finds_what_is_mistyped_or_of_a_wrong_type_and_starts_nothing(redis_server):
    wrong = [
        ({"timeout": SECRET, "url": "memory:"}, "option timeout is of type str"),
        (f"redis://a:{SECRET}@h?timout=1s", "did you mean 'timeout'?"),
        ({"lock_tll": 5}, "'lock_tll': did you mean 'lock_ttl'?"),
        (cache("memory"), "the cache 'memory' ("),
        (f"redis://:{SECRET}@h?foo=1", "redis: has no option 'foo'; known are: prefix, timeout"),
        (f"redis://:{SECRET}@h:99999/0", "a port is not a number from 1 to 65535"),
        ("redis+sentinel://a:26379,b:0/main", "a port is not a number from 1 to 65535"),
        ("etcd://[::1]:70000", "a port is not a number from 1 to 65535"),
        ({"url": "memory:x?y=1", "timeout": 5}, "memory: has no option 'y'; known are: it has none"),
        ("foo://h", "the scheme 'foo' is not known; known are: memory, file, "),
        ("redis://h", None),
        (f"redis://user:99999{SECRET}%2F@h:1/2?prefix=a&timeout=5s", None),
        (f"redis://:{SECRET}?no=option@h", None),
        ("redis+sentinel://a:26379,[::1]:26379,c/main/2", None),
        ("redis+unix:///run/h:99999.sock?db=3", None),
        ("file:///locks:99999?network=true", None),
        ("memory:x:99999", None),
        ({"global_lock_engine_class": URL_CLASS, "global_lock_engine_options": {"url": "redis://h:1"}}, None),
        ({"blocking_timeout": 5}, None),
    ]
    told = ends(run(FOUND, redis_server.url, json.dumps([config for config, _ in wrong]))).splitlines()
    for (config, words), line in zip(wrong, told):
        assert SECRET not in line
        warned, *errors = json.loads(line)
        assert warned == ["globallock.W001", "The setting GLOBAL_LOCK_CONFG is not read."]
        assert [kind for kind, _ in errors] == ([] if words is None else ["globallock.E001"]), config
        assert words is None or words in errors[0][1], errors
    assert told[-1] == "1", "no thread is there beside which the process would fork"


@pytest.fixture
def silent():
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@on_one_cpython
def test_a_store_is_asked_only_where_that_is_wanted(silent):
    settings = {"GLOBAL_LOCK_CONFIG": f"redis://app:{SECRET}@127.0.0.1:{silent}"}
    assert check(settings) == (0, "System check identified no issues (0 silenced).\n")
    asks = ["check", "--database", "default", "--tag", "globallock-store", "--fail-level", "WARNING"]
    status, report = check(settings, *asks)
    assert status == 1 and "globallock.W002" in report and "does not answer: redis://app@127.0.0.1" in report
    status, report = check(settings, "migrate")
    assert status == 0, "what Django does with its database does not depend on it"


@on_one_cpython
def test_a_store_that_serves_locks_passes_and_keeps_nothing(redis_server, tmp_path):
    import redis

    keys = set(redis.Redis(port=redis_server.port).keys())
    for config in (redis_server.url, f"file://{tmp_path}/locks", "memory:"):
        status, report = check({"GLOBAL_LOCK_CONFIG": config}, "check", "--database", "default")
        assert status == 0 and "no issues" in report, report
    assert set(redis.Redis(port=redis_server.port).keys()) == keys and list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    check({"GLOBAL_LOCK_CONFIG": f"file://{tmp_path}/kept"}, "check", "--database", "default")
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"], "a directory that was there stays"


@pytest.fixture(scope="module")
def socket_server():
    yield from server("redis-socket")


@on_one_cpython
def test_a_store_that_cannot_serve_locks_is_an_error(socket_server, tmp_path):
    denied = f"redis://alice:{SECRET}@127.0.0.1:{socket_server.port}"
    (tmp_path / "file").write_text("no directory")
    for config, words in (
        (denied, "cannot be used: redis://alice@127.0.0.1"),
        (f"file://{tmp_path}/no/parent", "its parent does not exist"),
        (f"file://{tmp_path}/file", "cannot be used: file:"),
    ):
        status, report = check({"GLOBAL_LOCK_CONFIG": config}, "check", "--database", "default")
        assert status == 1 and "globallock.E003" in report and words in report, report
