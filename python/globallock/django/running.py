"""Runs a management command under a lock, for ``manage.py globallock run``."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional

from django.core.management import ManagementUtility
from django.core.management.base import CommandError

from ..exceptions import GlobalLockError
from .decorators import LOST
from .words import lasted, printable, who

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..base import GlobalLockManager
    from ..native import NativeGlobalLock
    from ..options import LockOptions

__all__ = ["busy_text", "run_under"]

#: Where `globallock run` tells its command of the locks that are held around it: `token@pid`, with blanks.
HELD = "GLOBALLOCK_HELD"
#: The exit status for wrong usage.
USAGE = 64


class CommandFailed(Exception):
    """The command itself has raised an error of this package, which is the cause."""


class LockIsLost(KeyboardInterrupt):
    """Ends a command whose lock was lost, as Ctrl-C would."""


def run_under(
    lockman: GlobalLockManager,
    name: str,
    words: "List[str]",
    program: str,
    tell: "Callable[[str], Any]",
    **options: Unpack[LockOptions],
) -> bool:
    """Runs a management command while the lock is held, and ends as the command does.

    If the lock is lost meanwhile, ``tell`` is called with the reason, and the command is ended as by Ctrl-C
    where it runs in the main thread.

    :param words: the command and its arguments.
    :raises CommandError: the lock was lost while the command ran (status 76), or a run around this one holds
        it (status 64).
    """
    utility = ManagementUtility([program, *words])
    # An unknown command is told before the lock is waited for.
    command = utility.fetch_command(words[0])
    _refuse_to_wait_for_itself(lockman, name)
    with lockman.lock(name, **options) as lock:
        if not lock.is_locked:
            return False
        watcher = _Watcher(lock, tell)
        try:
            with _environment(lock), watcher:
                command.run_from_argv([program, *words])
        except LockIsLost:
            # The signal came when the command had just ended.
            watcher.end()
        except GlobalLockError as error:
            raise CommandFailed from error
    if watcher.reason is not None:
        raise CommandError(_lost(name, watcher.reason), returncode=LOST)
    return True


def busy_text(lockman: GlobalLockManager, name: str, waited: Optional[float]) -> str:
    """Says that a lock was not granted, and who has it."""
    text = f"{printable(name)} " + (f"was not granted within {waited:g} s" if waited else "is taken")
    try:
        holders = [claim for claim in lockman.inspect(name) if claim.held]
    except GlobalLockError:
        return text
    if not holders:
        return text
    return f"{text}: held by {'; '.join(f'{who(each)} for {lasted(each.age)}' for each in holders[:3])}"


def _lost(name: str, reason: str) -> str:
    return f"the lock {printable(name)} was lost while the command ran: {reason}"


def _refuse_to_wait_for_itself(lockman: GlobalLockManager, name: str) -> None:
    """Refuses a run within a run of the same lock, which would wait for ever."""
    around = os.environ.get(HELD, "").split()
    if not around:
        return
    if any(claim.held and f"{claim.fencing_token}@{claim.pid}" in around for claim in lockman.inspect(name)):
        text = f"the lock {printable(name)} is held by the run around this one, which waits for it"
        raise CommandError(f"{text}: use another name, or (runserver) --noreload", returncode=USAGE)


@contextlib.contextmanager
def _environment(lock: NativeGlobalLock) -> "Iterator[None]":
    """Tells the command, and what it starts, of its lock, in the variables of ``globallock run``."""
    held = f"{os.environ.get(HELD, '')} {lock.fencing_token}@{os.getpid()}".strip()
    told: "Dict[str, str]" = {
        HELD: held,
        "GLOBALLOCK_NAME": lock.name,
        "GLOBALLOCK_FENCING_TOKEN": str(lock.fencing_token),
    }
    before = {key: os.environ.get(key) for key in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


class _Watcher:
    """Tells of a loss while the command runs, and ends the command.

    A system call of the main thread is interrupted by a signal only, so SIGINT is sent, and becomes
    :class:`LockIsLost` there. Where the project has a handler of its own for Ctrl-C, or the command runs in
    another thread, the loss is told only.
    """

    def __init__(self, lock: NativeGlobalLock, tell: "Callable[[str], Any]") -> None:
        self.reason: Optional[str] = None
        self._lock, self._tell = lock, tell
        #: Held while it is decided whether the command still runs, so that no signal comes after its end.
        self._deciding = threading.Lock()
        self._runs = True
        self._before: Any = None
        self._thread = threading.get_ident()
        #: How many signals were sent, and whether the main thread has had the first. Further ones would
        #: interrupt how the command cleans up.
        self._sent, self._is_heard = 0, False
        self._ended = threading.Event()

    def __enter__(self) -> "_Watcher":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._lock.on_lost(self._is_lost)
        return self

    def __exit__(self, kind: Any, exception: Any, _: Any) -> bool:
        self.end()
        if self.reason is None and not self._lock.is_locked:
            # It was lost a moment ago, and the other thread has not heard of it yet.
            self._note(self._lock.wait_lost(1) or "it is not held any more")
        # An error of the command itself is more than its status, and is told in its place.
        return self.reason is not None and (kind is None or issubclass(kind, (LockIsLost, SystemExit)))

    def end(self) -> None:
        """Sends no signal any more. May be called again."""
        while self._runs:
            try:
                with self._deciding:
                    self._runs = False
            except LockIsLost:
                # The signal came in this very moment.
                continue
        self._ended.set()
        if self._before is None:
            return
        until = time.monotonic() + 1
        while self._sent > 0 and not self._is_heard and time.monotonic() < until:
            # It is on its way, and would be Ctrl-C to the handler from before.
            time.sleep(0.001)
        signal.signal(signal.SIGINT, self._before)
        self._before = None

    def _is_lost(self, reason: str) -> None:
        with self._deciding:
            if not self._runs:
                return
            self._note(reason)
        # In a thread of its own, because the one that calls here serves all locks.
        threading.Thread(target=self._signal, name="globallock-run", daemon=True).start()

    def _signal(self) -> None:
        while self._before is not None and not self._is_heard:
            with self._deciding:
                if not self._runs:
                    return
                self._sent += 1
                # To that thread: a system call of it goes on if another one of the process has the signal.
                signal.pthread_kill(self._thread, signal.SIGINT)
            # A signal just before a system call does not end it.
            self._ended.wait(0.1)

    def _note(self, reason: str) -> None:
        self.reason = reason
        self._tell(_lost(self._lock.name, reason))

    def _interrupt(self, number: int, frame: Optional[FrameType]) -> None:
        if self._sent > 0 and not self._is_heard:
            self._is_heard = True
            if self._runs:
                raise LockIsLost
        elif self._sent > 1:
            # One more was on its way when the first was heard.
            self._sent = 0
        else:
            signal.default_int_handler(number, frame)
