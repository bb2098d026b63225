"""``manage.py globallock``: lists, inspects and breaks locks, and runs a command under one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import Any, Iterator, List, Optional

from django.core.management.base import BaseCommand, CommandError, CommandParser

from globallock.addresses import YEAR
from globallock.django import get_default_global_lock_manager
from globallock.django.running import USAGE, CommandFailed, busy_text, run_under
from globallock.django.words import lasted, printable, table, who
from globallock.engine import Claim
from globallock.exceptions import (
    Evicted,
    GlobalLockClassNotFoundException,
    GlobalLockError,
    InvalidAddress,
    InvalidName,
    InvalidOption,
    StoreDenied,
    StoreUnavailable,
    StoreUnfit,
)

VERBS = ("ls", "inspect", "break", "run")

#: The exit statuses of the command `globallock`, by error.
TAKEN, LOST = 75, 76
STATUSES = (
    ((InvalidAddress, InvalidName, InvalidOption, GlobalLockClassNotFoundException), USAGE),
    ((StoreUnavailable, StoreUnfit), 69),
    ((StoreDenied,), 77),
    ((Evicted,), LOST),
    ((GlobalLockError,), 70),
)

EPILOG = """\
Exit status of run: that of the command; 75 if the lock was not granted (--exit-busy), 76 if it was lost while
the command ran; of all: 64 wrong usage, name or setting, 69 the store cannot be reached, 77 it refused the
user.
"""


class Command(BaseCommand):
    """Lists, inspects and breaks locks, and runs a command under one."""

    help = "Lists, inspects and breaks the locks of this project, and runs a command under one."
    # A lock can be looked at and broken while something else of the project is broken.
    requires_system_checks: Any = []

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        """Makes the parser, which leaves what follows ``--`` of ``run`` to the command."""
        parser = super().create_parser(prog_name, subcommand, epilog=EPILOG, **options)
        parse = parser.parse_args

        def parse_args(args: "Optional[List[str]]" = None, namespace: Any = None) -> Any:
            own = list(sys.argv[1:] if args is None else args)
            words: "List[str]" = []
            if "--" in own and next((word for word in own if word in VERBS), None) == "run":
                cut = own.index("--")
                own, words = own[:cut], own[cut + 1 :]
            try:
                parsed = parse(own, namespace)
            except SystemExit as ended:
                # Another status than Django's, which may be that of a command that was run.
                raise SystemExit(USAGE if ended.code == 2 else ended.code) from None
            parsed.words = words
            return parsed

        parser.parse_args = parse_args  # type: ignore[assignment,method-assign]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the verbs and their options."""
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="{ls,inspect,break,run}")
        ls = verbs.add_parser("ls", help="list the locks that are held or waited for")
        ls.add_argument("prefix", nargs="?", default="", help="only names that begin so")
        ls.add_argument("--json", action="store_true", help="print JSON")

        inspect = verbs.add_parser("inspect", help="show the holders and the waiters of a lock, in order")
        inspect.add_argument("name")
        inspect.add_argument("--json", action="store_true", help="print JSON")

        breaking = verbs.add_parser("break", help="take a lock from its holder, or a waiter out of its queue")
        breaking.add_argument("name")
        which = breaking.add_mutually_exclusive_group()
        key = "which holder or waiter: its key, which inspect shows"
        which.add_argument("--claim", metavar="KEY", help=key)
        which.add_argument("--token", type=int, metavar="N", help="which holder, by its fencing token")
        breaking.add_argument("--reason", default="", help="why; its owner is told")
        breaking.add_argument("--yes", action="store_true", help="do not ask")

        usage = "%(prog)s [NAME] [OPTION]... -- COMMAND [ARGUMENT]..."
        what = "run a management command under a lock: run [NAME] -- migrate"
        run = verbs.add_parser("run", usage=usage, help=what)
        run.add_argument("name", nargs="?", default=None, help="default: the name of the command")
        wait = "the longest wait; 0: none; default: no limit"
        run.add_argument("--wait", type=float, metavar="SECONDS", help=wait)
        timeout = "the longest that the lock is held; then the command is ended; default: no limit"
        run.add_argument("--timeout", type=float, metavar="SECONDS", help=timeout)
        on_busy = "whether it is an error that the lock is taken; default: fail"
        run.add_argument("--on-busy", choices=("fail", "skip"), default="fail", help=on_busy)
        status = f"the exit status where it is; default: {TAKEN}"
        run.add_argument("--exit-busy", type=int, default=TAKEN, metavar="N", help=status)

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Does what the verb says."""
        verb = {"ls": self._list, "inspect": self._inspect, "break": self._break, "run": self._run}
        try:
            with _statuses(), get_default_global_lock_manager() as lockman:
                verb[options["verb"]](lockman, options)
        except CommandFailed as failed:
            # The error of the command that was run, as without the lock.
            raise (failed.__cause__ or failed) from None

    def _list(self, lockman: Any, options: "dict[str, Any]") -> None:
        found = lockman.list(options["prefix"])
        if options["json"]:
            self._print_json([dataclasses.asdict(each) for each in found])
            return
        rows = [
            (
                printable(each.name), each.kind or "-", str(each.holders), str(each.waiters),
                lasted(each.oldest), str(each.fencing_token or "-"),
            )
            for each in found
        ]  # fmt: skip
        for line in table(("NAME", "MODE", "HOLDERS", "WAITERS", "OLDEST", "TOKEN"), rows) if rows else ():
            self.stdout.write(line)

    def _inspect(self, lockman: Any, options: "dict[str, Any]") -> None:
        claims = lockman.inspect(options["name"])
        if options["json"]:
            self._print_json([dataclasses.asdict(each) for each in claims])
            return
        if not claims:
            self.stdout.write(f"{printable(options['name'])} is free")
        for line in _queue(claims):
            self.stdout.write(line)

    def _break(self, lockman: Any, options: "dict[str, Any]") -> None:
        name, claims = options["name"], lockman.inspect(options["name"])
        claim = self._chosen(name, claims, options)
        waiters = sum(not each.held for each in claims if each.key != claim.key)
        does = "holds" if claim.held else "waits for"
        text = f"{who(claim)} {does} {printable(name)} since {lasted(claim.age)}; waiters besides: {waiters}."
        if not options["yes"]:
            self.stdout.write(text)
            self._confirm()
        # Exactly this claim: whoever has come after it is not hit.
        if not lockman.evict(name, claim, options["reason"] or "broken by manage.py globallock break"):
            raise CommandError("it has gone meanwhile, and nothing was broken", returncode=1)
        self.stdout.write(f"broken: {who(claim)} {'held' if claim.held else 'waited for'} {printable(name)}")

    def _chosen(self, name: str, claims: "List[Claim]", options: "dict[str, Any]") -> Claim:
        """Which claim is to be broken; without an option, the only holder."""
        if options["claim"] is not None:
            found = [each for each in claims if each.key == options["claim"]]
        else:
            found = [each for each in claims if each.held]
            if options["token"] is not None:
                found = [each for each in found if each.fencing_token == options["token"]]
        if len(found) == 1:
            return found[0]
        if not found:
            is_chosen = options["claim"] is not None or options["token"] is not None
            what = "has no such holder or waiter any more" if is_chosen else "is not held"
            raise CommandError(f"{printable(name)} {what}", returncode=1)
        text = f"{printable(name)} has several holders: choose one by --claim KEY"
        raise CommandError("\n".join([text, *_queue(found)]), returncode=USAGE)

    def _confirm(self) -> None:
        text = "Its owner may go on with its work until it has heard of it. Break it? [y/N] "
        self.stdout.write(text, ending="")
        self.stdout.flush()
        try:
            answer = input()
        except EOFError:
            raise CommandError("nobody is there to confirm it: give --yes", returncode=USAGE) from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was broken", returncode=1)

    def _run(self, lockman: Any, options: "dict[str, Any]") -> None:
        words, wait = options.get("words") or [], options["wait"]
        if not words:
            text = "run needs a command after two dashes: globallock run [NAME] -- migrate --noinput"
            raise CommandError(text, returncode=USAGE)
        if not 0 <= options["exit_busy"] <= 255:
            raise CommandError("--exit-busy is not a whole number from 0 to 255", returncode=USAGE)
        if wait is not None and not 0 <= wait <= YEAR:
            text = f"--wait is {wait:g}: give a number of seconds from 0 to {YEAR:.0f} (a year)"
            raise CommandError(text, returncode=USAGE)
        name = words[0] if options["name"] is None else options["name"]
        limits: "dict[str, Any]" = {"blocking": wait is None or wait > 0}
        if wait is not None:
            limits["blocking_timeout"] = wait
        limits["timeout"] = options["timeout"]
        if run_under(lockman, name, words, sys.argv[0], self._tell, **limits):
            return
        text = busy_text(lockman, name, wait)
        if options["on_busy"] == "fail":
            raise CommandError(text, returncode=options["exit_busy"])
        self.stderr.write(f"{text}; {printable(words[0])} was skipped")

    def _tell(self, text: str) -> None:
        self.stderr.write(text)
        self.stderr.flush()

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, indent=2))


def _queue(claims: "List[Claim]") -> "List[str]":
    """The holders and the waiters in order."""
    rows, place = [], 0
    for claim in claims:
        place += not claim.held
        rows.append(
            (
                "holds" if claim.held else f"waits {place}", printable(claim.host), str(claim.pid or "-"),
                printable(claim.label), lasted(claim.age), lasted(claim.expires_in),
                str(claim.fencing_token or "-"), printable(claim.key),
            )
        )  # fmt: skip
    head = ("STATE", "HOST", "PID", "LABEL", "FOR", "EXPIRES IN", "TOKEN", "KEY")
    return table(head, rows) if rows else []


@contextlib.contextmanager
def _statuses() -> "Iterator[None]":
    """Gives the package's errors the exit statuses of the command `globallock`."""
    try:
        yield
    except (GlobalLockError, GlobalLockClassNotFoundException) as error:
        status = next((status for kinds, status in STATUSES if isinstance(error, kinds)), 70)
        raise CommandError(str(error), returncode=status) from error
