"""The locks as a model of Django, without a table: for permissions and the admin."""

from __future__ import annotations

from django.db import models

__all__ = ["Lock"]


class Lock(models.Model):
    """The name of a lock. Its state is in the store, so there is no table and no migration.

    ``migrate`` makes the permissions ``globallock.view_lock`` and ``globallock.break_lock`` all the same.
    """

    name: "models.CharField[str, str]" = models.CharField(primary_key=True, max_length=512)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = [("break_lock", "Can break lock")]

    def __str__(self) -> str:
        return str(self.name)
