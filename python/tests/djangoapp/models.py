"""The models of the tests' Django project."""

import uuid

from django.db import models
from globallock.django import locked_instance


class Order(models.Model):
    id = models.AutoField(primary_key=True)
    state = models.CharField(max_length=20, default="new")

    @locked_instance(refresh=True)
    def ship(self):
        self.state += ", shipped"
        self.save()
        return self.state

    @locked_instance(on_busy=lambda order: f"{order.pk} is busy")
    async def bill(self):
        return f"{self.pk} is billed"


class UrgentOrder(Order):
    class Meta:
        proxy = True


class Place(models.Model):
    id = models.AutoField(primary_key=True)


class Restaurant(Place):
    pass


class Ticket(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Page(models.Model):
    path = models.CharField(primary_key=True, max_length=50)
