"""Locks from the settings of a Django project."""

import textwrap

import pytest
from conftest import ends, run

ADDRESS = """
import sys, json
from django.conf import settings
settings.configure(
    CACHES={"default": json.loads(sys.argv[1])},
    DJANGO_REDIS_CONNECTION_FACTORY=sys.argv[2],
)
import django
django.setup()
from globallock import InvalidOption
from globallock.django_redis_global_lock import cache_pool
from globallock.redis_global_lock import pool_address
try:
    print(pool_address("DjangoRedisGlobalLock", cache_pool("default"), "_glocks:"))
except InvalidOption as error:
    print("refused:", error)
"""
PLAIN = "django_redis.pool.ConnectionFactory"
DJANGO_REDIS = "django_redis.cache.RedisCache"
PREFIX = "prefix=_glocks%3A"
INSTEAD = (
    "set GLOBAL_LOCK_CONFIG to an address, such as 'redis://127.0.0.1:6379', or to a cache in one Redis: "
    "{'global_lock_engine_options': {'redis-cache-name': 'NAME'}}"
)


@pytest.mark.parametrize(
    ("cache", "wanted"),
    [
        ({"LOCATION": "redis://h:1/2"}, f"redis://h:1/2?{PREFIX}"),
        ({"LOCATION": ["redis://h:1/2", "redis://replica:1/2"]}, f"redis://h:1/2?{PREFIX}"),
        ({"LOCATION": "redis://u:p%40ss@h:1/2"}, f"redis://u:p%40ss@h:1/2?{PREFIX}"),
        (
            {
                "LOCATION": "redis://h:1/2",
                "OPTIONS": {"PASSWORD": "a/b", "SOCKET_TIMEOUT": 5},
                "KEY_PREFIX": "kp",
            },
            f"redis://:a%2Fb@h:1/2?{PREFIX}&timeout=5000ms",
        ),
        (
            {"LOCATION": "rediss://h:1/2?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem"},
            f"rediss://h:1/2?{PREFIX}&ca=%2Fca.pem",
        ),
        (
            {"LOCATION": "rediss://h:1/2", "OPTIONS": {"CONNECTION_POOL_KWARGS": {"ssl_cert_reqs": "none"}}},
            "refused: DjangoRedisGlobalLock: the option ssl_cert_reqs='none' is not offered: certificates "
            "are always checked here",
        ),
        ({"LOCATION": "unix:///run/redis.sock?db=3"}, f"redis+unix:///run/redis.sock?db=3&{PREFIX}"),
        (
            {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://h:1/4"},
            f"redis://h:1/4?{PREFIX}",
        ),
        (
            {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "refused: the cache 'default' (django.core.cache.backends.locmem.LocMemCache) has no single "
            f"Redis server behind it; {INSTEAD}",
        ),
        (
            {"LOCATION": ["redis://h:1/2"], "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"}},
            "refused: the cache 'default' (django_redis.cache.RedisCache) has no single Redis server "
            f"behind it; {INSTEAD}",
        ),
    ],
)
def test_the_settings_of_a_cache_are_understood(cache, wanted):
    import json

    cache = {"BACKEND": DJANGO_REDIS, **cache}
    assert ends(run(ADDRESS, json.dumps(cache), PLAIN)).strip() == wanted


def test_a_cache_behind_sentinels():
    import json

    cache = {
        "BACKEND": DJANGO_REDIS,
        "LOCATION": "redis://primary/3",
        "OPTIONS": {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "SENTINELS": [["s1", 26379], ["s2", 26380]],
            "PASSWORD": "secret",
        },
    }
    written = ends(run(ADDRESS, json.dumps(cache), "django_redis.pool.SentinelConnectionFactory"))
    assert written.strip() == f"redis+sentinel://:secret@s1:26379,s2:26380/primary/3?{PREFIX}"


@pytest.fixture
def project(tmp_path, redis_server):
    """A Django project with one command."""
    files = {
        "project/__init__.py": "",
        "project/settings.py": f"""
            INSTALLED_APPS = ["app"]
            CACHES = {{"default": {{"BACKEND": "{DJANGO_REDIS}", "LOCATION": "{redis_server.url}/1"}}}}
        """,
        "app/__init__.py": "",
        "app/management/__init__.py": "",
        "app/management/commands/__init__.py": "",
        "app/management/commands/nightly.py": """
            import sys
            from django.core.management.base import BaseCommand
            from globallock.django import locked

            @locked()
            class Command(BaseCommand):
                def handle(self, *arguments, **options):
                    print("inside", flush=True)
                    sys.stdin.readline()
        """,
        "app/management/commands/hourly.py": """
            from django.core.management.base import BaseCommand
            from globallock.django import locked

            @locked(hold_at_least=300)
            class Command(BaseCommand):
                def handle(self, *arguments, **options):
                    print("inside")
        """,
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(text))
    return tmp_path


DEFAULT = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
import django
django.setup()
from globallock.django import get_default_global_lock_manager
from django_redis import get_redis_connection
lockman = get_default_global_lock_manager()
with lockman.lock("x", timeout=60, blocking=True, blocking_timeout=5) as lock:
    print(lock.is_locked, bool(get_redis_connection("default").exists("_glocks:x")))
"""
COMMAND = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *(sys.argv[1:] or ["nightly"])])
"""


def test_the_default_manager_uses_the_default_cache(project):
    assert ends(run(DEFAULT, cwd=project)) == "True True\n"


def test_a_management_command_runs_once_at_a_time(project):
    import subprocess

    first = run(COMMAND, cwd=project)
    assert first.stdout.readline() == "inside\n"
    second = run(COMMAND, cwd=project, stderr=subprocess.PIPE)
    printed, warned = second.communicate(timeout=60)
    assert (printed, warned.strip()) == ("", "app.management.commands.nightly is running already")
    first.communicate("\n", timeout=60)
    third = run(COMMAND, cwd=project)
    assert third.communicate("\n", timeout=60)[0] == "inside\n"


def test_a_management_command_keeps_others_out_after_its_end(project):
    import subprocess

    assert ends(run(COMMAND, "hourly", cwd=project)) == "inside\n"
    second = run(COMMAND, "hourly", cwd=project, stderr=subprocess.PIPE)
    printed, warned = second.communicate(timeout=60)
    assert printed == "" and warned.strip() == (
        "app.management.commands.hourly is running already, or was a short time ago"
    )


CHECK = """
import os, sys, json
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
from django.conf import settings
if len(sys.argv) > 1:
    settings.GLOBAL_LOCK_CONFIG = json.loads(sys.argv[1])
settings.INSTALLED_APPS = ["globallock", "app"]
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "check"])
"""


def test_a_wrong_configuration_is_found_by_the_system_check(project):
    import json
    import subprocess

    assert "no issues" in ends(run(CHECK, cwd=project))
    for config, wanted in (
        ({"global_lock_engine_options": {"redis-cache-name": "nowhere"}}, "nowhere"),
        ({"global_lock_engine_class": "nowhere.Nothing"}, "nowhere.Nothing is NOT found"),
        ({"global_lock_engine_options": {"colour": "red"}}, "'colour' is not known"),
    ):
        checked = run(CHECK, json.dumps(config), cwd=project, stderr=subprocess.PIPE)
        _, report = checked.communicate(timeout=60)
        assert checked.returncode == 1 and wanted in report, report
