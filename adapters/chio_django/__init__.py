"""Chio for Django: one line in `MIDDLEWARE` governs a project, under WSGI and ASGI."""

from chio_django.context import get_chio_receipt
from chio_django.decorators import require_capability
from chio_django.metrics import metrics
from chio_django.middleware import ChioDjangoMiddleware
from chio_django.view import DjangoGuardRequest

__all__ = ["ChioDjangoMiddleware", "DjangoGuardRequest", "get_chio_receipt", "metrics", "require_capability"]
