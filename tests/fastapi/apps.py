"""Tokens for requirements, and a client whose sidecar knows about tokens."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from chio_core import ChioClient
from chio_core.models.receipt import HttpReceipt
from chio_core.signing import SigningKey
from chio_fastapi import RequireCapability, add_chio
from tests import tokens
from tests.support import Judge, StubClient, allow_with_capability

AUTHORITY = SigningKey(bytes(range(1, 33)))

TRANSFER = RequireCapability("payments", "transfer")
Transfer = Annotated[HttpReceipt, Depends(TRANSFER)]

with_and_without = pytest.mark.parametrize("middleware", [True, False], ids=["middleware", "dependency alone"])
"""Requirements hold with the middleware and without it."""


def token(*grants: tuple[str, str], identifier: str = "cap-1", **members: Any) -> str:
    """Return a token that grants `invoke` for each (server, tool)."""
    objects = [{"server_id": server, "tool_name": tool, **members} for server, tool in grants]
    return tokens.token(*objects, key=AUTHORITY, capability_id=identifier)


def with_token(*grants: tuple[str, str], **members: Any) -> list[tuple[str, str]]:
    """Return the request headers of a caller who holds such a token."""
    return [("x-chio-capability", token(*grants, **members))]


def stub(judge: Judge | None = None, **options: Any) -> StubClient:
    """Return a client of a sidecar with the default policy: safe methods pass, others need a token."""
    return StubClient(judge if judge is not None else Judge(allow_with_capability), **options)


def govern(app: FastAPI, client: ChioClient, middleware: bool) -> None:
    """Govern an application by middleware, or let its dependencies evaluate by themselves with this client."""
    if middleware:
        add_chio(app, client=client)
    else:
        app.state.chio_client = client
