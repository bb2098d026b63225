"""django-pglock's advisory lock in the workloads. Arguments: an address, then those of `workload.py`."""

import sys
from urllib.parse import unquote, urlparse

import django
import workload
from django.conf import settings

database = urlparse(sys.argv[1])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": database.hostname,
            "PORT": database.port,
            "USER": unquote(database.username),
            "PASSWORD": unquote(database.password),
            "NAME": database.path.lstrip("/") or unquote(database.username),
        }
    },
    INSTALLED_APPS=["pgactivity", "pglock"],
    USE_TZ=True,
)
django.setup()

import pglock  # noqa: E402 - it needs the settings


def connect(name):
    return pglock.advisory(name)


workload.main(connect)
