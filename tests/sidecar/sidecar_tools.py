"""Sending requests to a sidecar without a network, with known keys and a clock that a test sets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chio_core.canonical import parse_json
from chio_core.capabilities import issue_capability, sign_link
from chio_core.models.capability import CapabilityToken
from chio_core.signing import SigningKey
from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.policy.rules import Rule, rule_of
from chio_sidecar.trust.client import open_carrier
from tests.support import exchange, http_scope

KERNEL = SigningKey(b"\x21" * 32)
AUTHORITY = SigningKey(b"\x31" * 32)
STRANGER = SigningKey(b"\x41" * 32)
HOLDER = SigningKey(b"\x22" * 32)

NOW = 1_776_272_775

HOST = "127.0.0.1:9090"
SERVER, TOOL = "http-sidecar-client", "hello_write"
TESTS = Path(__file__).resolve().parents[1]

T = TypeVar("T")


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def sidecar(folder: Path, **options: Any) -> AsyncIterator[SidecarApp]:
    """A sidecar that trusts `AUTHORITY`, signs with `KERNEL`, and is closed when the block ends."""
    defaults: dict[str, Any] = {
        "store_path": folder / "receipts.sqlite3",
        "signing_key": KERNEL,
        "trusted_issuers": {AUTHORITY.public_hex},
        "clock": Clock(),
    }
    app = create_app(SidecarConfig(**with_carrier(defaults | options)))
    try:
        yield app
    finally:
        await app.state.close()


def with_carrier(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a sidecar, with the carrier to its trust service; `control_transport` replaces the network."""
    more = {name: value for name, value in options.items() if name != "control_transport"}
    if "control_url" in more:
        reach = partial(open_carrier, more["control_url"], options.get("control_transport"))
        more = {"control_carrier": reach, **more}
    return more


class Response:
    """The response to a request."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body: bytes = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def document(self) -> Any:
        return parse_json(self.body)


async def send(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    headers: Iterable[tuple[str, str]] = (),
    query: str = "",
    complete: bool = True,
) -> Response:
    """Send one request; each piece of the body is one message; without `complete` the last one is missing."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if complete:
        messages[-1]["more_body"] = False
    pairs = [(name.lower(), value) for name, value in headers]
    if not any(name == "host" for name, _ in pairs):
        pairs.insert(0, ("host", HOST))
    reply = await exchange(app, http_scope(method, path, query=query.encode(), headers=pairs), messages)
    return Response(reply.messages)


def evaluate_body(**changes: Any) -> dict[str, Any]:
    """The body of an evaluate request: an anonymous GET. A member that is set to `...` is left out."""
    document = {
        "request_id": "req-1",
        "method": "GET",
        "route_pattern": "/client/idea",
        "path": "/pets/7",
        "caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False},
        "timestamp": NOW - 5,
    } | changes
    return {name: value for name, value in document.items() if value is not ...}


async def evaluate(app: Any, token: Any = None, **changes: Any) -> Response:
    """Send an evaluate request; the token is a model, an object or a text."""
    headers = [] if token is None else [("X-Chio-Capability", token_text(token))]
    body = json.dumps(evaluate_body(**changes)).encode()
    return await send(app, "POST", "/chio/evaluate", body, headers=headers)


async def decision(app: Any, token: Any = None, **changes: Any) -> dict[str, Any]:
    """Return an evaluate response that must be a decision; a deny names the rule whose guard and reason it has."""
    response = await evaluate(app, token, **changes)
    assert response.status == 200, response.body
    document: dict[str, Any] = response.document
    named, verdict = rule_of(document["receipt"]), document["verdict"]
    if verdict["verdict"] == "allow":
        assert named is None
    else:
        rule = Rule.by_id(str(named))
        assert verdict["guard"] == rule.guard
        assert re.fullmatch(re.sub(r"\\{\w+\\}", "(?s:.*)", re.escape(rule.text)), verdict["reason"])
    return document


def token_text(token: Any) -> str:
    if isinstance(token, CapabilityToken):
        token = token.to_wire()
    return token if isinstance(token, str) else json.dumps(token, separators=(",", ":"))


def grant(server: str = SERVER, tool: str = TOOL, **more: Any) -> dict[str, Any]:
    return {"server_id": server, "tool_name": tool, "operations": ["invoke"], **more}


def capability(
    key: SigningKey = AUTHORITY,
    *,
    grants: list[dict[str, Any]] | None = None,
    issued: int = NOW - 60,
    ttl: int = 3600,
    name: str = "cap-1",
    parents: Iterable[str] = (),
    links: Iterable[Any] = (),
) -> CapabilityToken:
    """A token; `parents` names the capabilities that it was derived from."""
    chain = [*links, *(_links(parents))]
    return issue_capability(
        key,
        subject=HOLDER.public_hex,
        scope={"grants": [grant()] if grants is None else grants},
        ttl_seconds=ttl,
        now=issued,
        capability_id=name,
        delegation_chain=chain,
    )


def _links(parents: Iterable[str]) -> list[Any]:
    # Each holder delegates to itself, which connects the links.
    return [
        sign_link(HOLDER, capability_id=parent, delegatee=HOLDER.public_hex, timestamp=NOW - 100) for parent in parents
    ]


def vectors(*path: str) -> Any:
    """Load a JSON file from `tests/vectors`."""
    return json.loads(TESTS.joinpath("vectors", *path).read_text(encoding="utf-8"))
