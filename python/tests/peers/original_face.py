"""What the tests of the original package expect around them: settings, in modules and in fixtures."""

import os
import sys
import types

import django.conf
import globallock
import pytest

django.conf.settings.configure()


def port(kind):
    return int(os.environ[f"PEERS_{kind.upper()}_PORT"])


CONFIGURATIONS = {
    kind: {"global_lock_engine_class": engine, "global_lock_engine_options": options}
    for kind, engine, options in (
        ("redis", globallock.REDIS_GLOBAL_LOCK_CLASS, {"host": "127.0.0.1", "port": port("redis")}),
        ("etcd", globallock.ETCD_GLOBAL_LOCK_CLASS, {"host": "127.0.0.1", "port": port("etcd")}),
        ("zookeeper", globallock.ZOOKEEPER_GLOBAL_LOCK_CLASS, {"hosts": f"127.0.0.1:{port('zookeeper')}"}),
    )
}

for kind, config in CONFIGURATIONS.items():
    name = f"test_{kind}_global_lock_local_settings"
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].config = config


# The source distributions lack the conftest.py that has these.


@pytest.fixture
def redis_config():
    return CONFIGURATIONS["redis"]


@pytest.fixture
def etcd_config():
    return CONFIGURATIONS["etcd"]


@pytest.fixture
def zookeeper_config():
    return CONFIGURATIONS["zookeeper"]


def pytest_configure(config):
    for marker in ("integration", "zookeeper_required", "etcd_required", "redis_required"):
        config.addinivalue_line("markers", f"{marker}: of the original package")
