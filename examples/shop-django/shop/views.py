from typing import Any

from django.contrib.auth import authenticate, login, logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from rest_framework.authentication import TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.response import Response
from rest_framework.views import APIView

from chio_core.models import CallerIdentity
from chio_django import Policy, drf, get_chio_receipt, issue_capability, require_capability
from shop.models import Order

MINUTES = 15


def grants_of(user: Any) -> list[str]:
    """Return what a user may do here: order, and refund with the permission to delete orders."""
    return ["shop/order", *(["shop/refund"] if user.has_perm("shop.delete_order") else [])]


def home(request: HttpRequest) -> HttpResponse:
    receipt = get_chio_receipt(request)
    return render(request, "home.html", {"orders": Order.objects.all(), "receipt": receipt and receipt.id})


@Policy(side_effects=False)
def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.POST["name"], password=request.POST["password"])
    if user is None:
        return HttpResponse("wrong name or password", status=401)
    login(request, user)
    request.session["chio_capability"] = issue_capability(request, *grants_of(user), ttl=60 * MINUTES).to_header()
    return redirect("home")


@Policy(side_effects=False)
def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("home")


@require_capability("shop", "order")
def order(request: HttpRequest) -> HttpResponse:
    Order.objects.create(item=request.POST["item"], user=request.user.get_username())
    return redirect("home")


@require_capability("shop", "refund")
def refund(request: HttpRequest) -> HttpResponse:
    Order.objects.all().delete()
    return redirect("home")


class BearerAuthentication(TokenAuthentication):
    """Chio knows the caller by the same credential: `Authorization: Bearer …`."""

    keyword = "Bearer"


class ApiToken(APIView):
    authentication_classes = ()
    permission_classes = (drf.Policy(side_effects=False),)

    def post(self, request: Any) -> Response:
        user = authenticate(request, username=request.data["name"], password=request.data["password"])
        if user is None:
            return Response({"error": "wrong name or password"}, status=401)
        token, _ = Token.objects.get_or_create(user=user)
        holder = CallerIdentity.bearer(token.key)
        capability = issue_capability(request, *grants_of(user), ttl=60 * MINUTES, holder=holder)
        return Response({"token": token.key, "capability": capability.to_header()})


class ApiRefund(APIView):
    authentication_classes = (BearerAuthentication,)
    permission_classes = (drf.RequireCapability("shop", "refund"),)

    def post(self, request: Any) -> Response:
        Order.objects.all().delete()
        return Response({"refunded": True})
