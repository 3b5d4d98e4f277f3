from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    user = models.CharField(max_length=100)

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return f"{self.item} for {self.user}"
