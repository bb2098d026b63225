"""Models whose rows refuse writes of a holder that has lost its lock meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models, transaction

from ..exceptions import StaleToken
from ..fenced import fenced, fencing_token

if TYPE_CHECKING:
    from typing import Tuple

__all__ = ["FencedModel", "fenced"]


class FencedModel(models.Model):
    """A model whose rows keep the highest fencing token that has written them, and refuse lower ones.

    ::

        class Order(FencedModel):
            state = models.CharField(max_length=20)

        with lock_instance(order) as lock, fenced(lock):
            order.state = "shipped"
            order.save()

    ``save()`` and ``delete()`` compare the token in the statement that writes, in every database. Without a
    token they raise ``NotLocked``. What a queryset writes (``update()``, ``bulk_update()``) is not compared.

    :raises StaleToken: a later holder has written the row. Nothing was written.
    """

    #: The highest token so far.
    fence: "models.BigIntegerField[int, int]" = models.BigIntegerField(default=0, editable=False)

    class Meta:
        abstract = True

    def save(self, *args: Any, **options: Any) -> None:
        """Saves the row with the token of the block of ``fenced()`` around."""
        token = fencing_token()
        before, self.fence = self.fence, token
        fields = options.get("update_fields")
        if fields is not None:
            options["update_fields"] = {*fields, "fence"}
        try:
            super().save(*args, **options)
        except BaseException:
            self.fence = before
            raise

    def delete(self, *args: Any, **options: Any) -> "Tuple[int, dict[str, int]]":
        """Deletes the row, unless a later holder has written it."""
        token = fencing_token()
        manager = type(self)._base_manager.using(options.get("using") or self._state.db)
        with transaction.atomic(using=manager.db):
            # Locks the row until it is gone.
            if not manager.filter(pk=self.pk, fence__lte=token).update(fence=token):
                self._refuse(manager, token)
            return super().delete(*args, **options)

    def _do_update(self, base_qs: Any, *arguments: Any, **named: Any) -> Any:
        # The only place in which Django makes the statement of an update.
        rows = base_qs.filter(fence__lte=self.fence)
        updated = super()._do_update(rows, *arguments, **named)
        if not updated:
            self._refuse(base_qs, self.fence)
        return updated

    def _refuse(self, rows: Any, token: int) -> None:
        """Raises if the row is there. A row that is not there is inserted, or is gone."""
        seen = rows.filter(pk=self.pk).values_list("fence", flat=True).first()
        if seen is not None and seen > token:
            raise StaleToken(
                f"the fencing token {token} is lower than {seen}, by which this {self._meta.label} was "
                "written: the lock was lost, and somebody else has held it since"
            )
