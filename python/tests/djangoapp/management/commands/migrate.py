"""Django's command, which notes when it begins and ends, and whether it runs beside another."""

import os

from django.core.management.commands.migrate import Command as Migrate


class Command(Migrate):
    def handle(self, *arguments, **options):
        log = os.environ.get("DJANGOAPP_LOG")
        if log is None:
            return super().handle(*arguments, **options)
        # Fails if another process is inside.
        os.close(os.open(f"{log}.inside", os.O_CREAT | os.O_EXCL))
        self.note(log, "begins")
        super().handle(*arguments, **options)
        self.note(log, "ends")
        os.unlink(f"{log}.inside")

    def note(self, log, what):
        with open(log, "a") as lines:
            lines.write(f"{os.getpid()} {what}\n")
