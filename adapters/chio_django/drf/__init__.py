"""Chio for Django REST framework: what a view requires as permissions, and in its OpenAPI document.

For example::

    from chio_django.drf import RequireCapability

    class Transfers(APIView):
        permission_classes = [RequireCapability("payments", "transfer")]

`chio_django.drf.schema.ChioAutoSchema` states the policy in documents that drf-spectacular generates.
"""

try:
    import rest_framework  # noqa: F401
except ImportError:
    raise ImportError(
        "chio_django.drf needs Django REST framework: pip install djangorestframework", name="rest_framework"
    ) from None

from chio_django.drf.permissions import (
    Budget,
    ChioCapability,
    ChioDenied,
    Observe,
    Policy,
    RequireApproval,
    RequireCapability,
)

__all__ = [
    "Budget",
    "ChioCapability",
    "ChioDenied",
    "Observe",
    "Policy",
    "RequireApproval",
    "RequireCapability",
]
