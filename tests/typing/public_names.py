"""What a type checker concludes about the public names: `make check` reads this file, and nothing here is run.

A user's editor shows these types, and a user's strict checker depends on them.
"""

from __future__ import annotations

from typing import assert_type

import httpx
from django.http import HttpRequest
from fastapi import FastAPI
from flask import Flask

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core import (
    AnyResponse,
    Chain,
    ChioClient,
    ChioSettings,
    Decision,
    Denial,
    GuardRequest,
    Next,
    Response,
    SyncChioClient,
)
from chio_core.canonical import canonical_json, sha256_hex
from chio_core.capabilities import is_subset, scope_allows, verify_capability
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.guards import IpBlock, RateLimit
from chio_core.models import CallerIdentity, CapabilityToken, ChioPassthrough, ChioScope, HttpReceipt, Verdict
from chio_core.outbound import ChioTransport, GovernOutbound, Timing
from chio_core.receipts import verify_receipt
from chio_core.signing import SigningKey, verify_signature
from chio_core.testing import ChioFixture
from chio_django import get_chio_receipt as django_receipt
from chio_fastapi import (
    CallerDep,
    Capability,
    ChioClientDep,
    ChioPassthroughDep,
    ChioReceipt,
    OptionalChioReceipt,
    RequireCapability,
    add_chio,
)
from chio_flask import Chio

app = FastAPI()


@app.get("/governed")
async def handler(
    receipt: ChioReceipt,
    perhaps: OptionalChioReceipt,
    capability: Capability,
    caller: CallerDep,
    client: ChioClientDep,
    passthrough: ChioPassthroughDep,
) -> None:
    assert_type(receipt, HttpReceipt)
    assert_type(receipt.id, str)
    assert_type(receipt.verdict, Verdict)
    assert_type(perhaps, HttpReceipt | None)
    assert_type(capability, HttpReceipt | None)
    assert_type(caller, CallerIdentity)
    assert_type(client, ChioClient)
    assert_type(passthrough, ChioPassthrough | None)


async def look(request: GuardRequest) -> Denial | None:
    assert_type(request.client_host, str | None)
    assert_type(await request.body(), bytes)
    return None


async def wrap(request: GuardRequest, next: Next) -> AnyResponse:
    answer = await next(request)
    assert_type(answer, AnyResponse)
    return answer.with_status(200).with_header("X-A", "1")


def governed(settings: ChioSettings, flask_app: Flask) -> None:
    add_chio(app, guards=[look, wrap, IpBlock(["192.0.2.1"]), RateLimit("5/minute")], fail_open=False)
    assert_type(ChioASGIMiddleware(app, ChioASGIConfig(exclude_paths=frozenset({"/healthz"}))).client, ChioClient)
    assert_type(Chain(look, wrap) | look, Chain)
    assert_type(Chio(flask_app), Chio)
    assert_type(Response("no").with_status(401).with_header("X-A", "1"), Response)
    assert_type(RequireCapability("payments", "transfer") == RequireCapability("payments", "transfer"), bool)
    assert_type(settings.exclude_paths, frozenset[str])


async def asked(client: ChioClient, sync_client: SyncChioClient, question: EvaluateCall) -> None:
    decision = await client.evaluate(question)
    assert_type(decision, Decision)
    assert_type(decision.receipt, HttpReceipt | None)
    assert_type(sync_client.evaluate(question), Decision)
    async with httpx.AsyncClient(transport=ChioTransport(GovernOutbound(client), Timing())) as outgoing:
        assert_type(await outgoing.get("http://a.test"), httpx.Response)


def read(request: HttpRequest, text: str, scope: ChioScope, key: SigningKey) -> None:
    assert_type(django_receipt(request), HttpReceipt | None)
    assert_type(verify_receipt({}, trusted_keys={key.public_hex}), HttpReceipt)
    assert_type(verify_capability(text, trusted_issuers={key.public_hex}), CapabilityToken)
    assert_type(scope_allows(scope, "payments", "transfer"), bool)
    assert_type(is_subset(scope, scope), bool)
    assert_type(verify_signature(key.public_hex, b"", key.sign(b"")), bool)
    assert_type(sha256_hex(canonical_json({})), str)


def in_a_test(chio: ChioFixture) -> None:
    assert_type(chio.receipts, list[HttpReceipt])
    assert_type(chio.capability("payments", "transfer"), str)
    with chio.down():
        assert_type(chio.headers(), dict[str, str])
