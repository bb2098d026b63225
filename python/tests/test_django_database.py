"""Locks in the PostgreSQL database of a Django project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import globallock
import pytest
from conftest import django_database, ends, run, server
from frameworks import needs_framework

needs_framework("psycopg")


def starts(program, server, *arguments):
    """Starts a program of a project that has a server's database."""
    return run(program, json.dumps(django_database(server.url)), *arguments)


SETUP = """
import json, os, sys
from django.conf import settings
DATABASE = json.loads(sys.argv[1])
settings.configure(
    DATABASES={"default": DATABASE, "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["globallock", "django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
)
import django
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings
import globallock
from globallock.django import get_default_global_lock_manager, get_shared_global_lock_manager
"""


@pytest.fixture(scope="module")
def postgres():
    """A server of its own, whose user may make databases and tables."""
    yield from server("postgres-owned")


@pytest.fixture
def bare(postgres):
    """The server without the tables of locks."""
    ends(starts(SETUP + "connection.cursor().execute('DROP SCHEMA IF EXISTS globallock CASCADE')", postgres))
    return postgres


WHERE = SETUP + """
with get_default_global_lock_manager().lock("where", timeout=60) as lock:
    print(type(lock).__name__, lock.fencing_token > 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT key FROM globallock.claims")
        print(cursor.fetchall())
    with transaction.atomic():
        other = get_shared_global_lock_manager().lock("where", blocking=False)
        print(other.acquire())
with get_default_global_lock_manager().lock("where", blocking=False) as lock:
    print(lock.is_locked)
"""


def test_without_a_redis_cache_locks_live_in_the_database_and_make_their_tables(bare):
    assert ends(starts(WHERE, bare)).splitlines() == [
        "DjangoDatabaseGlobalLock True",
        "[('_glocks:where',)]",
        "False",
        "True",
    ]


ROLLBACK = SETUP + """
lockman = get_default_global_lock_manager()
try:
    with transaction.atomic():
        lock = lockman.lock("kept")
        assert lock.acquire()
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
print(len(lockman.inspect("kept")), lock.is_locked)
lock.release()
print(len(lockman.inspect("kept")))
"""


def test_a_transaction_that_is_rolled_back_leaves_the_lock_alone(bare):
    assert ends(starts(ROLLBACK, bare)).splitlines() == ["1 True", "0"]


COUNT = """
with connection.cursor() as cursor:
    cursor.execute("SELECT to_regclass('globallock.claims')")
    print(cursor.fetchall())
"""


def test_migrate_makes_the_tables(bare):
    migrates = SETUP + COUNT + "call_command('migrate', verbosity=0)\n" + COUNT
    assert ends(starts(migrates, bare)).splitlines() == ["[(None,)]", "[('globallock.claims',)]"]
    elsewhere = SETUP + "call_command('migrate', database='other', verbosity=0)\nprint('done')"
    assert ends(starts(elsewhere, bare)).splitlines() == ["done"]


TESTS = SETUP + """
from django.test.utils import setup_databases, teardown_databases
name = DATABASE["NAME"]
connection.settings_dict["TEST"] = {**connection.settings_dict.get("TEST", {}), "NAME": "test_" + name}
made = setup_databases(0, False, aliases=["default"])
with get_default_global_lock_manager().lock("in tests"):
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), count(*) FROM globallock.claims GROUP BY 1")
        print(cursor.fetchall() == [("test_" + name, 1)])
get_default_global_lock_manager().close()
"""


def test_djangos_tests_lock_in_their_own_database(bare):
    assert ends(starts(TESTS, bare)).splitlines()[-1] == "True"


ERRORS = SETUP + """
for config in json.loads(sys.argv[2]):
    with override_settings(GLOBAL_LOCK_CONFIG=config):
        try:
            get_default_global_lock_manager().lock("a", blocking_timeout=0.3).acquire()
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
"""


def test_what_cannot_be_is_refused_with_the_setting_to_change(bare):
    wrong = [
        ({"database": "othr"}, "InvalidOption", "did you mean 'other'?"),
        ({"database": "nothing"}, "InvalidOption", "known are 'default', 'other'"),
        ({"database": "other"}, "InvalidOption", "is SQLite, and locks live in PostgreSQL only"),
        ({"database": "default", "shema": "x"}, "InvalidOption", "did you mean 'schema'?"),
        ({"database": "default", "durability": "some"}, "InvalidAddress", "wal, async and unlogged"),
    ]
    configs = json.dumps([{"global_lock_engine_options": options} for options, _, _ in wrong])
    told = [json.loads(line) for line in ends(starts(ERRORS, bare, configs)).splitlines()]
    assert len(told) == len(wrong)
    for (options, kind, words), (raised, text) in zip(wrong, told):
        assert raised == kind and words in text, (options, raised, text)
        assert "app-password" not in text


MIGRATION = '''
import os, time
from django.db import migrations

def once(apps, schema_editor):
    with open(os.environ["SHOP_LOG"], "a") as log:
        log.write("migrated\\n")
    # Long enough for the others to find it under way.
    time.sleep(0.5)

class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.RunPython(once)]
'''


def test_five_processes_that_migrate_at_once_migrate_once(bare, tmp_path):
    app = tmp_path / "shop"
    (app / "migrations").mkdir(parents=True)
    for file in (app / "__init__.py", app / "migrations" / "__init__.py"):
        file.write_text("")
    (app / "migrations" / "0001_initial.py").write_text(MIGRATION)
    database = django_database(bare.url)
    (tmp_path / "shop_settings.py").write_text(
        f"DATABASES = {{'default': {database!r}}}\nINSTALLED_APPS = ['globallock', 'shop']\nUSE_TZ = True\n"
        "SECRET_KEY = 'of the tests'\n"
    )
    log = tmp_path / "log"
    environment = {
        **os.environ, "DJANGO_SETTINGS_MODULE": "shop_settings", "SHOP_LOG": str(log),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, "-m", "django", "globallock", "run", "--", "migrate", "--no-color"]
    processes = [
        subprocess.Popen(
            command, cwd=Path(tmp_path), env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(5)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs
    assert log.read_text() == "migrated\n"
    assert sum("No migrations to apply" in output for output in outputs) == 4, outputs


def test_the_address_of_a_database_is_one_of_any_manager(bare):
    with globallock.GlobalLockManager(f"{bare.url}?setup=yes").hold("plain", timeout=60) as lock:
        assert lock.is_locked and lock.fencing_token > 0
