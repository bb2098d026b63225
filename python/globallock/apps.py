"""The Django app: with it in ``INSTALLED_APPS``, ``manage.py check`` checks the configuration of locks."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Iterable, Iterator, List, Optional, Tuple
from urllib.parse import unquote

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import pre_migrate

from .addresses import Options, likeliest, refuse_unknown_parts
from .base import GlobalLockManager
from .config import from_source
from .django_database_global_lock import DjangoDatabaseGlobalLock
from .exceptions import GlobalLockClassNotFoundException, GlobalLockError, StoreUnavailable
from .settings import SETTING
from .url_global_lock import UrlGlobalLock

__all__ = ["GlobalLockAppConfig", "check_configuration", "check_store"]

#: For how many seconds the store may be silent before it is reported.
_PATIENCE = 3.0

#: The tags of the two checks, for ``manage.py check --tag``, and the beginning of what they find.
_TAG = "globallock"
_STORE_TAG = "globallock-store"


class GlobalLockAppConfig(AppConfig):
    """Registers the checks."""

    name = "globallock"
    verbose_name = "Global locks"

    def ready(self) -> None:
        """Registers the checks, once the settings are read."""
        checks.register(check_configuration, _TAG)
        # Checks with Django's tag for databases run only where they are asked for, as with `--database`.
        checks.register(check_store, _STORE_TAG, checks.Tags.database)
        pre_migrate.connect(_make_tables, sender=self, dispatch_uid="globallock.apps")


def check_configuration(app_configs: Any = None, **_: Any) -> "list[checks.CheckMessage]":
    """Says whether locks can be made from the settings, without a request to the store."""
    return [*_mistyped_settings(), *_made()[1]]


def check_store(
    app_configs: Any = None, databases: Optional[Iterable[str]] = None, **_: Any
) -> "list[checks.CheckMessage]":
    """Asks the store about one lock, and says whether it answers. Acquires nothing.

    Django runs it with ``manage.py check --database default``, and before ``migrate``. So a store that is not
    there is a warning, which ends neither.
    """
    lockman = _made()[0]
    # What is wrong with the configuration is told by the other check.
    if not databases or lockman is None or not hasattr(lockman.lock_class, "make_engine"):
        return []
    config = {**lockman.config, "lock_ttl": _PATIENCE}
    try:
        with _leaving_no_directory(config), GlobalLockManager(config) as asking:
            asking.inspect("globallock-check")
    except StoreUnavailable as error:
        text = f"The store of the locks does not answer: {error}"
        hint = "Start it, or check its address. With --fail-level WARNING this is an error."
        return [checks.Warning(text, hint=hint, id=f"{_TAG}.W002")]
    except GlobalLockError as error:
        text = f"The store of the locks cannot be used: {error}"
        hint = f"Change the store, or the setting {SETTING}."
        return [checks.Error(text, hint=hint, id=f"{_TAG}.E003")]
    return []


def _make_tables(using: str = "default", **_: Any) -> None:
    """Makes the tables of the locks in a database that is migrated, if locks live there.

    Whoever migrates may make tables, which those that lock need not have the right to.
    """
    lockman = _made()[0]
    if lockman is None or lockman.lock_class is not DjangoDatabaseGlobalLock:
        return
    if lockman.config.global_lock_engine_options.get("database", "default") == using:
        # Not in the transaction of a migration: the first look at them makes them.
        with lockman:
            lockman.inspect("globallock-check")


@contextlib.contextmanager
def _leaving_no_directory(config: Any) -> "Iterator[None]":
    """Removes the directory of an address, if there was none before: to look for locks in it makes it."""
    scheme, _, rest = str(config["global_lock_engine_options"].get("url", "")).partition(":")
    directory = unquote(rest.partition("?")[0]).rstrip("/") if scheme.lower() == "file" else ""
    is_new = directory != "" and not os.path.exists(directory)
    try:
        yield
    finally:
        if is_new:
            # Somebody may have put a lock into it meanwhile: then it stays.
            with contextlib.suppress(OSError):
                os.rmdir(directory)


#: A manager, or what is wrong with the settings.
_Made = Tuple[Optional[GlobalLockManager], List[checks.CheckMessage]]


def _made() -> _Made:
    """Makes a manager from the settings."""
    from .django import _get_config

    hint = f"Check {SETTING} and the cache that it names ('default' if it names none)."
    try:
        lockman = GlobalLockManager(_get_config())
        make_engine = getattr(lockman.lock_class, "make_engine", None)
        if lockman.lock_class is UrlGlobalLock:
            # Its engine would start the core, which reads the address: beside its threads, processes fork
            # worse.
            with from_source(lockman.config):
                options = Options(UrlGlobalLock.__name__, lockman.config.global_lock_engine_options)
                refuse_unknown_parts(options.text("url") or "")
        elif make_engine is not None:
            make_engine(lockman.config)
        return lockman, []
    except (GlobalLockClassNotFoundException, GlobalLockError) as error:
        return None, [checks.Error(str(error), hint=hint, id=f"{_TAG}.E001")]
    except Exception as error:  # noqa: BLE001 - whatever an engine of another package raises
        # Its text may contain a password.
        return None, [checks.Error(f"{type(error).__name__} is raised.", hint=hint, id=f"{_TAG}.E002")]


def _mistyped_settings() -> "list[checks.CheckMessage]":
    """Warns of settings that nobody reads, because they are named almost as ours."""
    from django.conf import settings

    names = [name for name in dir(settings) if name != SETTING and likeliest(name, [SETTING], 0.85)]
    hint = f"The setting that is read is {SETTING}."
    return [
        checks.Warning(f"The setting {name} is not read.", hint=hint, id=f"{_TAG}.W001") for name in names
    ]
