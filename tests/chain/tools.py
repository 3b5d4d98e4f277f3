"""A request and a decision without a framework, and members that leave a trace."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from chio_core import AnyResponse, Chain, Denial, Downstream, GuardRequest, Next
from chio_core.guards.chain import DecisionMember, Guard
from chio_core.guards.run import ChainRun
from chio_core.models.receipt import GuardEvidence


class Request:
    """As much of a request as the chain looks at."""

    url_path = "/"
    url_scheme = "http"
    url_full = "http://localhost/"
    client_host: str | None = "127.0.0.1"

    def __init__(self, method: str = "GET", **headers: str) -> None:
        self.method = method
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.query_params: dict[str, str] = {}
        self.state = SimpleNamespace()
        self.scope: dict[str, Any] = {}

    def url_replace_scheme(self, scheme: str) -> str:
        return f"{scheme}://localhost/"

    async def body(self) -> bytes:
        return b""


class Decide(DecisionMember):
    """A decision that is known beforehand."""

    def __init__(self, trace: list[str] | None = None, denial: Denial | None = None) -> None:
        self.trace = trace if trace is not None else []
        self.denial = denial

    async def __call__(self, request: GuardRequest) -> Denial | None:
        self.trace.append("decide")
        return self.denial


def wrapper(name: str, trace: list[str] | None = None) -> Guard:
    """Return a middleware of this name that says when it is entered and left."""
    said = trace if trace is not None else []

    async def middleware(request: GuardRequest, next: Next) -> AnyResponse:
        said.append(f"{name}>")
        answer = await next(request)
        said.append(f"<{name}")
        return answer

    middleware.__name__ = name
    return middleware


def ran(
    chain: Chain,
    trace: list[str] | None = None,
    *,
    request: GuardRequest | None = None,
    evidence: list[GuardEvidence] | None = None,
) -> AnyResponse:
    """ChainRun a chain round a handler that answers 200."""

    async def handler(request: GuardRequest) -> Downstream:
        if trace is not None:
            trace.append("h")
        return Downstream()

    run = ChainRun(chain.freeze(), handler, evidence if evidence is not None else [])
    return asyncio.run(_await(run, request or Request()))


async def _await(run: ChainRun, request: GuardRequest) -> AnyResponse:
    return await run(request)
