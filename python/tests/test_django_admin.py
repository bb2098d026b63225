"""The admin's pages of locks, by Django's test client and a real Redis."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import html
import re
import time
import warnings
from io import StringIO

import frameworks
import pytest

frameworks.needs_framework("django")

from djangoproject import caches, locks, project

from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings

LIST = "/admin/globallock/lock/"


def logged():
    from django.contrib.admin.models import LogEntry

    return LogEntry.objects


@pytest.fixture
def visitor(project):
    """Makes a client of somebody with these permissions."""
    from django.contrib.auth.models import Permission, User

    def make(*permissions):
        user = User.objects.create_user(f"{'-'.join(permissions)} {time.time_ns()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        assert user.user_permissions.count() == len(permissions)
        client = Client()
        client.force_login(user)
        return client

    return make


def pages(lock_name, client):
    """The page of a lock, and the addresses in it that break a claim."""
    answer = client.get(f"{LIST}lock/", {"name": lock_name})
    assert answer.status_code == 200
    text = answer.content.decode()
    return text, [html.unescape(each) for each in re.findall(r'href="([^"]*/break/[^"]*)"', text)]


def test_who_may_see_and_who_may_break(visitor, locks, name):
    nobody, viewer, breaker = visitor(), visitor("view_lock"), visitor("view_lock", "break_lock")
    with locks.lock(name) as lock:
        claim = locks.inspect(name)[0]
        where = f"{LIST}break/?name={name}&claim={claim.key}"
        assert nobody.get(LIST).status_code == nobody.get(f"{LIST}lock/?name={name}").status_code == 403
        assert nobody.post(where).status_code == viewer.post(where).status_code == 403
        assert viewer.get(where).status_code == 403
        assert Client().get(LIST).status_code == 302
        text, breaks = pages(name, viewer)
        assert "holds" in text and breaks == []
        assert len(pages(name, breaker)[1]) == 1
        assert visitor("break_lock").get(LIST).status_code == 200
        assert lock.is_locked
    assert "Locks" in viewer.get("/admin/").content.decode()
    assert LIST not in nobody.get("/admin/").content.decode()


def test_the_list_and_the_queue_of_a_lock(visitor, locks, name):
    viewer = visitor("view_lock")
    with locks.lock(name) as lock, locks.rwlock(f"{name}-2").read():
        text = viewer.get(LIST, {"q": name}).content.decode()
        rows = [re.sub(r"<[^>]*>|\s+", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
        rows = [row for row in rows if row and row[0].startswith(name)]
        assert [row[:4] for row in rows] == [[name, "mutex", "1", "0"], [f"{name}-2", "read", "1", "0"]]
        assert rows[0][-1] == str(lock.fencing_token)
        assert name not in viewer.get(LIST, {"q": "other"}).content.decode()
        text, _ = pages(name, viewer)
        assert f"pid {locks.inspect(name)[0].pid} on " in text and str(lock.fencing_token) in text
    assert "It is free" in pages(name, viewer)[0]


def test_a_break_is_confirmed_hits_the_seen_claim_and_is_logged(visitor, locks, name):
    breaker = visitor("break_lock")
    lock, queue = locks.lock(name), locks.lock(name)
    assert lock.acquire()
    token = lock.fencing_token
    _, [where] = pages(name, breaker)
    asked = breaker.get(where).content.decode()
    assert "has held" in asked and lock.is_locked
    answer = breaker.post(where, {"reason": "it hangs"}, follow=True)
    assert f"token {token}" in answer.content.decode() and "Broken: " in answer.content.decode()
    reason = lock.wait_lost(30)
    assert "in the admin: it hangs" in reason and "break_lock" in reason
    entry = logged().latest("id")
    assert entry.object_id == name and entry.change_message.endswith("it hangs")
    # The log links to the lock.
    assert breaker.get(entry.get_admin_url(), follow=True).status_code == 200
    # The next holder is not hit by what was meant for the first, also if the form is sent again.
    with queue:
        count = logged().count()
        answer = breaker.post(where, follow=True).content.decode()
        assert "nothing was broken" in answer and queue.is_locked and logged().count() == count
        assert "nothing was broken" in breaker.get(where, follow=True).content.decode()


def test_a_break_needs_the_token_of_the_form(visitor, locks, name):
    breaker = visitor("break_lock")
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = breaker.cookies
    with locks.lock(name) as lock:
        _, [where] = pages(name, strict)
        assert strict.post(where).status_code == 403 and lock.is_locked
        [form] = re.findall(r'<form[^>]*/break/.*?</form>', strict.get(where).content.decode(), re.S)
        [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert strict.post(where, {"csrfmiddlewaretoken": token}).status_code == 302
        assert lock.wait_lost(30) is not None


HOSTILE = [
    "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "..", "../../auth/user/1/",
    "a/b?c=d&e#f", "line\r\nbreak", "\x1b[2J", "‮desrever", "{{ opts }}{% now %}", "%s%00", " ", "ü 🔒",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_shown_escaped_and_can_be_broken(visitor, locks, hostile):
    breaker = visitor("break_lock")
    with locks.lock(hostile) as lock:
        listed = breaker.get(LIST).content.decode()
        where = [html.unescape(each) for each in re.findall(rf'href="({LIST}lock/\?[^"]*)"', listed)]
        assert len(where) == 1
        text, breaks = breaker.get(where[0]).content.decode(), pages(hostile, breaker)[1]
        asked = breaker.get(breaks[0]).content.decode()
        for page in (listed, text, asked):
            assert "<script>alert" not in page and "<img src=x" not in page
            assert "\x1b" not in page and "‮" not in page
        done = breaker.post(breaks[0], follow=True)
        assert "Broken: " in done.content.decode()
        assert lock.wait_lost(30) is not None
        entry = logged().latest("id")
        assert entry.object_id == hostile
        front = breaker.get("/admin/").content.decode()
        assert "<script>alert" not in front


def test_a_store_that_is_away_is_told_on_the_page(visitor, monkeypatch):
    import globallock.django

    monkeypatch.setitem(vars(globallock.django), "GLOBAL_LOCK_CONFIG", {"lock_ttl": 0.3})
    breaker = visitor("break_lock")
    with override_settings(CACHES=caches("redis://127.0.0.1:1")):
        for page in (LIST, f"{LIST}lock/?name=x", f"{LIST}break/?name=x&claim=y"):
            answer = breaker.get(page)
            assert answer.status_code == 503 and "errornote" in answer.content.decode()


def test_there_is_no_table_and_no_migration_and_no_warning(project):
    # The permissions were made by `migrate`, and are made once.
    from django.contrib.auth.models import Permission

    call_command("migrate", run_syncdb=True, verbosity=0)
    names = Permission.objects.filter(content_type__app_label="globallock").values_list("codename", flat=True)
    assert sorted(names) == ["break_lock", "view_lock"]
    assert not [table for table in connection.introspection.table_names() if "lock" in table]
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    with warnings.catch_warnings(), override_settings(DEFAULT_AUTO_FIELD="django.db.models.AutoField"):
        warnings.simplefilter("error")
        told = StringIO()
        call_command("check", "globallock", stdout=told, stderr=told)
    assert "no issues" in told.getvalue()
