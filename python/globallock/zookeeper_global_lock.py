"""Locks in ZooKeeper, from the options of kazoo's client."""

from __future__ import annotations

import re
from typing import Any, Optional

from .addresses import Options, address, is_text, lock_name, split_prefix
from .base import normalize_key_prefix_for_path
from .config import from_source, refuse_gap
from .exceptions import InvalidName, InvalidOption
from .native import Engine, NativeGlobalLock

__all__ = ["ZookeeperGlobalLock"]

#: Options of kazoo that tune its retries, its logs or its threads.
_TUNING = frozenset(
    {"command_retry", "connection_retry", "handler", "logger", "max_retries", "randomize_hosts", "retry",
     "retry_backoff", "retry_delay", "retry_jitter", "retry_max_delay"}
)  # fmt: skip


class ZookeeperGlobalLock(NativeGlobalLock):
    """A lock in ZooKeeper, in one queue with kazoo's locks."""

    @classmethod
    def make_engine(cls, config: Any) -> Engine:
        """Makes the connection from ``global_lock_engine_options``: the options of ``KazooClient``."""
        with from_source(config):
            refuse_gap(cls.__name__, config)
            options = Options(cls.__name__, config.global_lock_engine_options)
            options.ignore(_TUNING)
            hosts = _hosts(options)
            hosts, _, chroot = hosts.partition("/")
            # Without `lock_ttl` it is the lease.
            session = options.seconds("timeout", least=0.1)
            auth, user, password = _login(options)
            acl = _acl(options)
            secure = bool(options.take("use_ssl"))
            ca, cert, key = (options.text(name) for name in ("ca", "certfile", "keyfile"))
            options.refuse("verify_certs", (True,), "certificates are always checked here")
            options.refuse("check_hostname", (True, False), "")
            options.refuse("read_only", (False,), "a lock has to be written")
            options.finish()
            directory, rest = split_prefix(_normalized(config))
            given = {"ca": ca, "cert": cert, "key": key} if secure else {}
            path = f"/{chroot}" if chroot else ""
            given.update(prefix=directory.rstrip("/"), auth=auth, acl=acl)
            url = address("zookeepers" if secure else "zookeeper", hosts, path, user, password, **given)
            lease = config.get("lock_ttl")
            return Engine(url, session if lease is None else lease, config.get("label"), rest)

    @classmethod
    def check_options(cls, config: Any) -> None:
        """Refuses options that this engine does not know, when its manager is made."""
        cls.make_engine(config)

    @property
    def _prefixed_name(self) -> str:
        """The core's name of this lock.

        kazoo drops slashes that are doubled or at the end, and writes a percent sign as it is. So do we, or
        refuse it, or a process of the earlier releases and one of ours would have two locks of one name.
        """
        engine, name = self._engine, lock_name(self.name)
        if "%" in name:
            raise InvalidName(
                f"invalid lock name {name[:64]!r}: it contains a percent sign, which earlier releases write "
                "to ZooKeeper otherwise, so that they would have another lock of this name: choose another "
                "name, or configure the whole fleet by an address (zookeeper://…)"
            )
        parts = [part for part in (engine.prefix + name).split("/") if part]
        return lock_name("/".join(parts)[len(engine.prefix) :], engine.prefix)

    @property
    def lock_key(self) -> str:
        """The node below which the lock has its claims, as kazoo is given it."""
        return _normalized(self.config) + self.name


def _normalized(config: Any) -> str:
    prefix = "/" + normalize_key_prefix_for_path(str(config.global_lock_key_prefix))
    return re.sub("//+", "/", prefix)


def _hosts(options: Options) -> str:
    given = options.take("hosts") or "127.0.0.1:2181"
    hosts = _listed(given) or [given]
    if not all(is_text(host) for host in hosts):
        raise options.wrong("hosts", "text, or list of texts")
    return ",".join(hosts)


def _login(options: Options) -> "tuple[Optional[str], Optional[str], Optional[str]]":
    """The scheme of authentication, the user, and the password."""
    auth_data, sasl = options.take("auth_data") or (), options.take("sasl_options")
    if auth_data and not _listed(auth_data):
        raise options.wrong("auth_data", "list of pairs")
    auth_data = _listed(auth_data)
    if sasl is not None:
        login = Options("ZookeeperGlobalLock: sasl_options", sasl)
        login.refuse("mechanism", ("DIGEST-MD5",), "give DIGEST-MD5")
        login.refuse("service", ("zookeeper",), "servers are called zookeeper")
        if auth_data:
            raise InvalidOption("ZookeeperGlobalLock: give one of the options auth_data and sasl_options")
        user, password = login.text("username"), login.text("password")
        login.finish()
        return "sasl", user, password
    if not auth_data:
        return None, None, None
    first = _listed(auth_data[0])
    if len(auth_data) > 1 or len(first) != 2 or first[0] != "digest":
        raise InvalidOption("ZookeeperGlobalLock: the option auth_data must be one user, of scheme digest")
    if not is_text(first[1]):
        raise options.wrong("auth_data", "list of a pair of texts")
    user, _, password = first[1].partition(":")
    return "digest", user, password


def _acl(options: Options) -> Optional[str]:
    """Writes kazoo's ACLs as an address takes them."""
    default_acl = options.take("default_acl")
    if not default_acl:
        return None
    rules = []
    is_rule = all(hasattr(rule, "perms") and hasattr(rule, "id") for rule in _listed(default_acl))
    if not is_rule or not _listed(default_acl):
        raise options.wrong("default_acl", "list of kazoo's ACLs")
    for rule in default_acl:
        if rule.perms != 31:
            raise InvalidOption("ZookeeperGlobalLock: the option default_acl must give all permissions")
        known = {("world", "anyone"): "open", ("auth", ""): "creator"}
        rules.append(known.get((rule.id.scheme, rule.id.id), f"{rule.id.scheme}:{rule.id.id}"))
    return ",".join(rules)


def _listed(value: Any) -> "list[Any]":
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []
