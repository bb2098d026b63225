"""Cache backends whose ``lock()`` is a globallock lock, in the very Redis database of the cache.

| ``BACKEND`` | the cache of |
|---|---|
| ``globallock.django.cache.RedisCache`` | Django |
| ``globallock.django.cache.DjangoRedisCache`` | django-redis |
| ``globallock.django.cache.DjangoValkeyCache`` | django-valkey |

Each is made when it is first asked for, and needs its package only then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Optional, Type

from ..addresses import Seconds, milliseconds
from ..base import GlobalLockManager
from ..exceptions import InvalidOption
from ..redis_global_lock import GAP, pool_address
from .cache_locks import CacheLock, Refused

__all__ = ["DjangoRedisCache", "DjangoValkeyCache", "LockMixin", "RedisCache"]

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options import CacheOptions

    # What `__getattr__` makes.
    DjangoRedisCache: Any
    DjangoValkeyCache: Any
    RedisCache: Any

#: The managers of all caches, by kind of lock and address: Django makes a backend for each thread, and one
#: connection is enough for all of them.
_managers: "Dict[Any, GlobalLockManager]" = {}


class LockMixin:
    """Gives a cache backend ``lock()``; it comes before the backend among the bases.

    ::

        class Cache(LockMixin, django_redis.cache.RedisCache): ...
    """

    #: The package whose errors the locks raise besides this one's: ``redis`` or ``valkey``.
    lock_errors = "redis"

    def lock(
        self,
        key: str,
        version: Optional[int] = None,
        timeout: Optional[Seconds] = None,
        sleep: Seconds = 0.1,
        blocking: bool = True,
        blocking_timeout: Optional[Seconds] = None,
        client: None = None,
        thread_local: bool = True,
        **options: Unpack[CacheOptions],
    ) -> CacheLock:
        """Makes a lock at a key of this cache; sends nothing to the store yet.

        ::

            with cache.lock("rebuild-index", blocking_timeout=5):
                ...  # redis.exceptions.LockError is raised if it was not granted

        redis-py's locks at the same key exclude it and are excluded by it. Times are in seconds, or a
        ``timedelta``.

        :param version: of the key, as in ``set()``.
        :param timeout: the longest that the lock is held. Default: no limit; it is renewed, and ends with its
            process.
        :param sleep: accepted, and without effect, because waiters do not poll.
        :param blocking: whether to wait. Default: yes.
        :param blocking_timeout: the longest wait. Default: no limit.
        :param thread_local: with ``False``, any thread may release what another one has acquired.
        :param options: others of the manager's ``lock()``, such as ``lock_ttl`` or ``hold_at_least``.
        """
        if client is not None or options.pop("lock_class", None) is not None:
            raise InvalidOption("cache.lock() has neither the option client nor lock_class: the lock is ours")
        name = str(_make_key(self, key, version))
        given: Any = options
        return _manager(self).lock(  # type: ignore[return-value]
            name,
            # redis-py takes 0 for no limit, too.
            timeout=timeout or None,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            **given,
        )


def _make_key(cache: Any, key: str, version: Optional[int]) -> Any:
    if hasattr(cache, "client"):
        return cache.client.make_key(key, version=version)
    return cache.make_and_validate_key(key, version=version)


def _pool(cache: Any) -> Any:
    """The connections of a cache that write, be it Django's own or another package's."""
    try:
        if hasattr(cache, "client"):
            return cache.client.get_client(write=True).connection_pool
        # Django's own has no public access to its connections.
        return cache._cache.get_client(None, write=True).connection_pool
    except (AttributeError, NotImplementedError, TypeError) as error:
        backend = f"{type(cache).__module__}.{type(cache).__qualname__}"
        text = f"cache.lock(): the cache {backend} has no single Redis server behind it"
        raise InvalidOption(text) from error


def _manager(cache: Any) -> GlobalLockManager:
    """The manager of the database of a cache, with names that are keys as they are."""
    url = pool_address("cache.lock()", _pool(cache), "", milliseconds(GAP))
    kind = _lock_class(cache.lock_errors)
    manager = _managers.get((kind, url))
    if manager is None:
        config = {"global_lock_engine_class": kind, "global_lock_engine_options": {"url": url}}
        # In one step, so that all threads use the same one.
        manager = _managers.setdefault((kind, url), GlobalLockManager(config))
    return manager


#: The backends: what each is made of, what `lock()` raises, and the package to install.
_BACKENDS = {
    "RedisCache": ("django.core.cache.backends.redis.RedisCache", "redis", "redis"),
    "DjangoRedisCache": ("django_redis.cache.RedisCache", "redis", "django-redis"),
    "DjangoValkeyCache": ("django_valkey.cache.ValkeyCache", "valkey", "django-valkey"),
}
#: The kinds of locks and errors, which can be pickled because they are found here.
_KINDS = {
    f"{package.title()}{kind}": (package, kind)
    for package in ("redis", "valkey")
    for kind in ("Lock", "LockError", "LockNotOwnedError")
}


def __getattr__(name: str) -> Any:
    if name in _BACKENDS:
        made: Any = _backend(name)
    elif name in _KINDS:
        made = _kind(*_KINDS[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Another thread may have made it meanwhile; there is one of each.
    return globals().setdefault(name, made)


def _backend(name: str) -> Any:
    path, errors, package = _BACKENDS[name]
    module, _, kind = path.rpartition(".")
    try:
        # Django's own backend needs redis-py at its first use only.
        importlib.import_module(errors)
        base = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        text = f"{__name__}.{name} needs the package {package}: pip install {package}"
        raise ImportError(text) from error
    text = f"The cache of {package if path.startswith('django_') else 'Django'}, with ``lock()``."
    members: "Dict[str, Any]" = {"lock_errors": errors, "__module__": __name__, "__doc__": text}
    if hasattr(base, "get_lock"):
        members["get_lock"] = LockMixin.lock
    return type(name, (LockMixin, base), members)


def _lock_class(package: str) -> Any:
    return _found(f"{package.title()}Lock")


def _found(name: str) -> Any:
    return globals()[name] if name in globals() else __getattr__(name)


def _kind(package: str, kind: str) -> Any:
    name = f"{package.title()}{kind}"
    members: "Dict[str, Any]" = {"__module__": __name__}
    if kind == "Lock":
        members["error"] = _found(f"{name}Error")
        members["not_owned_error"] = _found(f"{name}NotOwnedError")
        return type(name, (CacheLock,), members)
    theirs = getattr(importlib.import_module(f"{package}.exceptions"), kind)
    ours: "Type[Exception]" = Refused if kind == "LockError" else _found(f"{package.title()}LockError")
    return type(name, (ours, theirs), members)
