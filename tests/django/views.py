"""Views that only Django has: typed parameters, `async def`, class-based ones, files, transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.utils.decorators import method_decorator
from django.views import View

from chio_django import get_chio_receipt, require_capability


def hello(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    typed = get_chio_receipt(request)
    assert request.chio_decision is not None  # type: ignore[attr-defined]
    return JsonResponse({
        "receipt": request.chio_receipt,  # type: ignore[attr-defined]
        "evaluation": request.chio_evaluation,  # type: ignore[attr-defined]
        "typed": typed.id if typed is not None else None,
        "passthrough": getattr(request.chio_passthrough, "error", None),  # type: ignore[attr-defined]
    })  # fmt: skip


async def ahello(request: HttpRequest) -> HttpResponse:
    return hello(request)


def bare(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse(str(kwargs))


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d;" % number

    return StreamingHttpResponse(pieces())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


def in_transaction(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"atomic": connection.in_atomic_block})


@require_capability("payments", "transfer")
def transfer(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return JsonResponse({"moved": True, "receipt_id": request.chio_receipt["id"]})  # type: ignore[attr-defined]


@require_capability("payments", "transfer")
async def atransfer(request: HttpRequest) -> HttpResponse:
    return transfer(request)


@require_capability
def any_capability(request: HttpRequest) -> HttpResponse:
    return HttpResponse("any")


@require_capability("accounts", "read", operations=["read"], arguments=lambda kwargs: {"account": kwargs["account"]})
def account(request: HttpRequest, account: int) -> HttpResponse:
    return HttpResponse("account")


class Accounts(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("list")

    @require_capability("accounts", "open")
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("opened")

    @method_decorator(require_capability("accounts", "close"))
    def delete(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("closed")


@method_decorator(require_capability("vault", "open"), name="dispatch")
class Vault(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("open")


@require_capability("vault", "open")
class AsyncVault(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("open")


class AsyncAccounts(View):
    @require_capability("accounts", "open")
    async def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("opened")
