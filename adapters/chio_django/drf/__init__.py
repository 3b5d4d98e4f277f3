"""Chio for Django REST framework: a capability as a permission class, and its OpenAPI face.

    from chio_django.drf import ChioCapability

    class Transfers(APIView):
        permission_classes = [ChioCapability.of("payments", "transfer")]

`chio_django.drf.schema.ChioAutoSchema` states the requirement in documents that drf-spectacular generates.
"""

try:
    import rest_framework  # noqa: F401
except ImportError:
    raise ImportError(
        "chio_django.drf needs Django REST framework: pip install djangorestframework", name="rest_framework"
    ) from None

from chio_django.drf.permissions import ChioCapability, ChioDenied

__all__ = ["ChioCapability", "ChioDenied"]
