"""What docs/django.md says: its code runs, and its tables are those of the code."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import re
from pathlib import Path

import frameworks
import pytest

frameworks.needs_framework("django", "redis")

from djangoproject import caches, locks, project

from django.core.cache import caches as made
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "django.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def block(start):
    """The block that contains a text."""
    [found] = [each for each in BLOCKS if start in each]
    return found


def executed(start, **names):
    exec(block(start), names)
    return names


def test_the_settings_of_the_page_make_locks(redis_server, project, monkeypatch):
    import globallock.django
    from globallock import GlobalLockManager

    installed = executed("INSTALLED_APPS +=", INSTALLED_APPS=[])["INSTALLED_APPS"]
    assert installed == ["globallock"]
    config = executed('"redis-cache-name": "locks"')["GLOBAL_LOCK_CONFIG"]
    monkeypatch.setitem(vars(globallock.django), "GLOBAL_LOCK_CONFIG", config)
    with override_settings(CACHES={"locks": caches(redis_server.url)["default"]}):
        with globallock.django.get_default_global_lock_manager() as lockman, lockman.lock("a") as lock:
            assert lock.is_locked and lockman.config.lock_ttl == 10
    config = executed("memory:tests")["GLOBAL_LOCK_CONFIG"]
    with GlobalLockManager(config).lock("a") as lock:
        assert lock.is_locked
    backend = executed("globallock.django.cache.RedisCache")["CACHES"]["default"]
    backend["LOCATION"] = f"{redis_server.url}/1"
    with override_settings(CACHES={"default": backend}):
        built = []

        def rebuild_index():
            built.append(made["default"].lock("rebuild-index").locked())

        executed("cache.lock(", rebuild_index=rebuild_index)
        assert built == [True]


def test_the_shared_manager_and_the_commands_of_the_page(locks):
    built = []
    executed("get_shared_global_lock_manager().lock", rebuild_index=built.append)
    assert len(built) == 1 and isinstance(built[0], int)
    names = executed("@locked(exit_status=75)", send_the_mails=built.append, __name__="page")
    names["Command"]().run_from_argv(["manage.py", "send"])
    assert isinstance(built[1], int)
    with locks.lock("page"), pytest.raises(SystemExit) as ended:
        names["Command"]().run_from_argv(["manage.py", "send"])
    assert ended.value.code == 75
    with locks.lock("invoice/7"):
        assert names["send_invoice"](7) is None


def test_the_views_of_the_page(locks):
    import asyncio

    names = executed("@locked_view")
    request = RequestFactory().get("/")
    request.user = type("User", (), {"pk": 3})
    for name, call in (
        ("checkout/3", lambda: names["checkout"](request)),
        ("order/8", lambda: asyncio.run(names["order"](request, number=8))),
        ("import", lambda: names["Import"].as_view()(request)),
    ):
        with locks.lock(name):
            assert call().status_code == 409
        answer = call()
        assert answer is None or isinstance(answer, HttpResponse) and answer.status_code == 405


def test_the_rows_of_the_page(locks):
    from djangoapp.models import Order

    from django.db import models

    Order.objects.create(pk=7)
    # The class of the page belongs to the app of the tests.
    names = {"Order": Order, "models": models, "__name__": "djangoapp.models"}
    exec(block("class Parcel").replace("blocking_timeout=5", "blocking_timeout=0.2"), names)
    assert Order.objects.get(pk=7).state == "shipped"
    with locks.lock("djangoapp.parcel/1"), pytest.raises(Exception, match="djangoapp.parcel/1"):
        parcel = names["Parcel"](pk=1)
        parcel._state.adding = False
        parcel.send()


def test_the_page_has_every_option_and_every_name():
    import globallock.django
    from globallock.django import cache
    from globallock.management.commands.globallock import Command

    parser = Command().create_parser("manage.py", "globallock")
    [verbs] = [each.choices for each in parser._actions if each.dest == "verb"]
    assert sorted(verbs) == ["break", "inspect", "ls", "run"]
    options = {option for verb in verbs.values() for each in verb._actions for option in each.option_strings}
    own = options - {option for each in parser._actions for option in each.option_strings} - {"-h", "--help"}
    assert own and [option for option in sorted(own) if not re.search(rf"[` ]{option}\b", PAGE)] == []
    names = [*globallock.django.__all__, *(f"globallock.django.cache.{each}" for each in cache._BACKENDS)]
    assert [name for name in names if name not in PAGE] == []
