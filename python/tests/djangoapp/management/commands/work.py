"""A command that says that it runs, and does what it is told."""

import os
import sys

from django.core.management.base import BaseCommand, CommandError
from globallock import StoreUnavailable


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("what", choices=["print", "wait", "fail", "exit", "raise"])
        parser.add_argument("--noinput", action="store_true")

    def handle(self, *arguments, **options):
        token = os.environ.get("GLOBALLOCK_FENCING_TOKEN")
        print("inside", os.environ.get("GLOBALLOCK_NAME"), options["noinput"], token is not None, flush=True)
        if options["what"] == "wait":
            sys.stdin.readline()
        elif options["what"] == "fail":
            raise CommandError("it fails", returncode=3)
        elif options["what"] == "exit":
            sys.exit(4)
        elif options["what"] == "raise":
            raise StoreUnavailable("another store")
