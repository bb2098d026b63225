"""A command under a lock."""

import sys

from django.core.management.base import BaseCommand
from globallock.django import locked


@locked("the daily one", exit_status=75)
class Command(BaseCommand):
    def handle(self, *arguments, **options):
        print("inside", self.global_lock.is_locked, flush=True)
        sys.stdin.readline()
