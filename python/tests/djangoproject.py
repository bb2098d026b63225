"""The tests' Django project in this process, and as commands of its own."""

import os
import subprocess
import sys
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

# Before anything reads the settings. The servers are known later. The programs of other tests do not inherit
# it, because those of Celery would be Django's too.
with pytest.MonkeyPatch.context() as environment:
    environment.setenv("DJANGO_SETTINGS_MODULE", "djangoapp.settings")
    assert settings.INSTALLED_APPS

__all__ = ["locks", "manage", "project"]


def caches(url):
    return {"default": {**settings.CACHES["default"], "LOCATION": f"{url}/5"}}


@pytest.fixture(scope="module")
def project(redis_server):
    """The project with its tables, and with its locks in a real Redis."""
    with override_settings(CACHES=caches(redis_server.url)):
        django.setup()
        setup_test_environment()
        call_command("migrate", run_syncdb=True, verbosity=0)
        yield settings
        teardown_test_environment()


@pytest.fixture
def locks(project):
    """A manager of other processes, as it were."""
    from globallock.django import get_default_global_lock_manager

    with get_default_global_lock_manager() as lockman:
        yield lockman


@pytest.fixture
def manage(redis_server, tmp_path, locks):
    """Starts `manage.py` with arguments; ends what is left of it after the test."""
    started = []
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "djangoapp.settings",
        "DJANGOAPP_REDIS": f"{redis_server.url}/5",
        "DJANGOAPP_DATABASE": str(tmp_path / "database"),
        "DJANGOAPP_LOG": str(tmp_path / "log"),
    }

    def start(*arguments, **more):
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        command = [sys.executable, "-m", "django", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parent, env={**environment, **more}, text=True,
            start_new_session=True, **pipes,
        )  # fmt: skip
        started.append(process)
        return process

    start.log = tmp_path / "log"
    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
