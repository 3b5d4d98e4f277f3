"""Chio for Django: one line in `MIDDLEWARE` governs a project, under WSGI and ASGI."""

from chio_core.evaluation.amounts import from_body, from_path, from_query
from chio_django.context import get_chio_receipt
from chio_django.decorators import (
    Budget,
    Observe,
    Policy,
    PolicyMixin,
    RequireApproval,
    RequireCapability,
    include,
    require_capability,
)
from chio_django.issue import aissue_capability, issue_capability
from chio_django.listing import document_for
from chio_django.middleware import ChioDjangoMiddleware, metrics
from chio_django.view import DjangoGuardRequest, session_user

__all__ = [
    "Budget",
    "ChioDjangoMiddleware",
    "DjangoGuardRequest",
    "Observe",
    "Policy",
    "PolicyMixin",
    "RequireApproval",
    "RequireCapability",
    "aissue_capability",
    "document_for",
    "from_body",
    "from_path",
    "from_query",
    "get_chio_receipt",
    "include",
    "issue_capability",
    "metrics",
    "require_capability",
    "session_user",
]
