"""Views of Django REST framework, and the router that they stand under."""

from __future__ import annotations

from typing import Any

from django.urls import include, path
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from chio_django import get_chio_receipt, require_capability
from chio_django.drf import ChioCapability

Transfer = ChioCapability.of("payments", "transfer")


def seen(request: Request) -> dict[str, Any]:
    """Return the receipt and the mark of a request."""
    mark = request._request.chio_passthrough
    receipt = get_chio_receipt(request)
    return {"receipt": receipt.id if receipt else None, "mark": [mark.mode, mark.error] if mark else None}


class Transfers(APIView):
    permission_classes = (Transfer,)

    def post(self, request: Request) -> Response:
        return Response({"moved": request.data, **seen(request)})


class Combined(APIView):
    permission_classes = (AllowAny & Transfer,)

    def get(self, request: Request) -> Response:
        return Response({"combined": True})


class Either(APIView):
    permission_classes = (AllowAny | Transfer,)

    def get(self, request: Request) -> Response:
        return Response({"either": True})


class Free(APIView):
    def get(self, request: Request) -> Response:
        return Response({"free": True})


@api_view(["POST"])
@permission_classes([ChioCapability])
def by_function(request: Request) -> Response:
    return Response(seen(request))


@api_view(["POST"])
@require_capability("payments", "transfer")
def decorated(request: Request) -> Response:
    return Response({"moved": True})


class Pets(ViewSet):
    def list(self, request: Request) -> Response:
        return Response([])

    @action(detail=True, methods=["post"], permission_classes=[ChioCapability.of("pets", "feed")])
    def feed(self, request: Request, pk: Any = None) -> Response:
        return Response({"fed": pk})


router = SimpleRouter()
router.register("pets", Pets, basename="pet")

urlpatterns = [
    path("transfers", Transfers.as_view()),
    path("combined", Combined.as_view()),
    path("either", Either.as_view()),
    path("free", Free.as_view()),
    path("by-function", by_function),
    path("decorated", decorated),
    path("", include(router.urls)),
]
