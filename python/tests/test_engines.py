"""The engines of the earlier releases, and their clients' options."""

import globallock
import pytest
import redis
from globallock import (
    ETCD_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
    GlobalLockManager,
    InvalidOption,
)
from globallock.addresses import address
from globallock.config import Config
from globallock.etcd_global_lock import EtcdGlobalLock
from globallock.redis_global_lock import gap_of, redis_address
from globallock.zookeeper_global_lock import ZookeeperGlobalLock


def test_etcd_as_the_old_readme_has_it(etcd_server, name):
    config = {
        "global_lock_engine_class": ETCD_GLOBAL_LOCK_CLASS,
        "global_lock_engine_options": {"host": "localhost", "port": etcd_server.port},
    }
    with GlobalLockManager(config).lock(name, timeout=60, blocking=True, blocking_timeout=5) as lock:
        assert lock.is_locked and lock.lock_key == f"_glocks/{name}"
        assert len(GlobalLockManager(etcd_server.url).inspect(name)) == 1


def test_zookeeper_as_the_old_readme_has_it(zookeeper_server, name):
    config = {
        "global_lock_engine_class": ZOOKEEPER_GLOBAL_LOCK_CLASS,
        "global_lock_engine_options": {"hosts": f"localhost:{zookeeper_server.port}"},
    }
    with GlobalLockManager(config).lock(name, blocking=True, blocking_timeout=5) as lock:
        assert lock.is_locked and lock.lock_key == f"/_glocks/{name}"
        assert len(GlobalLockManager(zookeeper_server.url).inspect(name)) == 1


def test_a_prefix_that_does_not_end_with_a_slash(etcd_server, zookeeper_server, name):
    for engine, options in (
        (ETCD_GLOBAL_LOCK_CLASS, {"port": etcd_server.port}),
        (ZOOKEEPER_GLOBAL_LOCK_CLASS, {"hosts": f"127.0.0.1:{zookeeper_server.port}"}),
    ):
        config = {"global_lock_engine_class": engine, "global_lock_engine_options": options}
        lockman = GlobalLockManager({**config, "global_lock_key_prefix": "team:app-"})
        with lockman.lock(name) as lock:
            assert lock.is_locked and lock.lock_key.endswith(f"team/app-{name}")
            assert lockman.names() == [name]


def test_the_options_of_redis_py():
    def written(**options):
        return redis_address("RedisGlobalLock", options, "_glocks:")

    assert written() == "redis://localhost:6379/0?prefix=_glocks%3A"
    assert written(host="::1", port=1, db=2, password="p@ss/word", max_connections=5) == (
        "redis://:p%40ss%2Fword@[::1]:1/2?prefix=_glocks%3A"
    )
    assert written(unix_socket_path="/run/r s.sock", db=3) == (
        "redis+unix:///run/r%20s.sock?db=3&prefix=_glocks%3A"
    )
    assert written(ssl=True, ssl_ca_certs="/ca.pem", ssl_cert_reqs="required", socket_timeout=0.5) == (
        "rediss://localhost:6379/0?prefix=_glocks%3A&timeout=500ms&ca=%2Fca.pem"
    )
    assert written(connection_class=redis.SSLConnection).startswith("rediss://")
    own = type("Own", (redis.Connection,), {})
    for options in (
        {"ssl_cert_reqs": "none"},
        {"ssl_check_hostname": False},
        {"colour": 1},
        {"connection_class": own},
        {"connection_pool": object()},
    ):
        with pytest.raises(globallock.InvalidOption, match=next(iter(options))):
            written(**options)


def test_the_options_of_python_etcd3_and_kazoo_are_refused_by_name():
    for engine, options in (
        (EtcdGlobalLock, {"grpc_options": [("a", 1)]}),
        (ZookeeperGlobalLock, {"client_id": (1, b"x")}),
        (ZookeeperGlobalLock, {"read_only": True}),
        (ZookeeperGlobalLock, {"verify_certs": False}),
        (ZookeeperGlobalLock, {"auth_data": [("ip", "127.0.0.1")]}),
        (ZookeeperGlobalLock, {"sasl_options": {"mechanism": "GSSAPI"}}),
    ):
        with pytest.raises(globallock.InvalidOption, match=next(iter(options))):
            engine.make_engine(globallock.Config({"global_lock_engine_options": options}))


def test_kazoos_users_and_acls(zookeeper_server, name):
    from collections import namedtuple

    acl, identity = namedtuple("ACL", "perms id"), namedtuple("Id", "scheme id")
    options = {
        "hosts": f"127.0.0.1:{zookeeper_server.port}",
        "auth_data": [("digest", "app:secret")],
        "default_acl": [acl(31, identity("auth", ""))],
        "timeout": 5.0,
        "randomize_hosts": True,
    }
    config = {"global_lock_engine_class": ZOOKEEPER_GLOBAL_LOCK_CLASS, "global_lock_key_prefix": "private:"}
    with GlobalLockManager({**config, "global_lock_engine_options": options}).lock(name) as lock:
        assert lock.is_locked
        anonymous = GlobalLockManager(f"{zookeeper_server.url}?prefix=/private")
        with pytest.raises(globallock.StoreDenied):
            anonymous.lock(name, blocking=False).acquire()


def test_an_address_escapes_what_could_be_misread():
    assert address("redis", "h:1", "/0", "a:b", "c/d@e", x="1&2") == "redis://a%3Ab:c%2Fd%40e@h:1/0?x=1%262"


@pytest.mark.parametrize(
    ("given", "written"), [({}, "gap=150ms"), ({"gap": 0.5}, "gap=500ms"), ({"gap": 0}, None)]
)
def test_managers_from_the_configuration_of_earlier_releases_leave_gaps(redis_server, name, given, written):
    config = {"global_lock_engine_options": {"port": redis_server.port}, **given}
    lockman, client = GlobalLockManager(config), redis.Redis(port=redis_server.port)
    before = client.pubsub_channels("globallock:wake:*")
    with lockman.lock(name):
        made = set(client.pubsub_channels("globallock:wake:*")).difference(before)
        assert [channel.startswith(b"globallock:wake:gaps:") for channel in made] == [written is not None]
    assert gap_of(Config(config)) == (written and written.split("=")[1])
    assert redis_address("a", {}, "p", gap="150ms").endswith("?prefix=p&gap=150ms")


def test_a_gap_that_is_no_time_is_refused(redis_config):
    for gap in ("soon", -1, 11):
        with pytest.raises(InvalidOption, match="gap.*give a number of seconds"):
            GlobalLockManager({**redis_config, "gap": gap})
