"""OutboundClient: the dependency that gives a route a governed client."""

import asyncio
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from chio_core.errors import ConfigurationError
from chio_core.models.request import CallerIdentity
from chio_core.outbound import Cache, GovernOutbound, OutboundDenied, attenuate, receipt_of
from chio_core.testing import ScriptedSidecar, behaviours
from chio_fastapi import OutboundClient, add_chio
from tests.outbound.test_attenuate import scope
from tests.outbound.tools import KEY, A, Upstream, grant, token

WIDE = token(grant("payments", "charge"), grant("payments", "refund"))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Service:
    """An application with one route, `POST /pay`, that calls an upstream."""

    def __init__(
        self, outbound: OutboundClient, sidecar: ScriptedSidecar, *, governed: bool = True, **options: Any
    ) -> None:
        self.app = FastAPI()
        if governed:
            add_chio(self.app, client=sidecar.client(), **options)
        else:
            self.app.state.chio_client = sidecar.client()

        @self.app.post("/pay")
        async def pay(client: Annotated[httpx.AsyncClient, Depends(outbound)], to: str = "x") -> dict[str, Any]:
            response = await client.post(f"{A}/{to}", json={"amount": 5})
            receipt = receipt_of(response)
            return {"upstream": response.json(), "receipt": receipt.id if receipt else None}

    async def post(self, path: str = "/pay", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post(path, headers=headers)


async def test_the_incoming_capability_caller_and_trace_are_those_of_the_outgoing_call() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    service = Service(OutboundClient("payments", "charge", transport=lambda: upstream.transport), sidecar)
    headers = {"authorization": "Bearer alice", "x-chio-capability": WIDE, "traceparent": TRACE}
    response = await service.post(**headers)
    assert response.status_code == 200
    incoming, outgoing = sidecar.asked
    assert (incoming.path, outgoing.path) == ("/pay", "/https/a.example.com/x")
    assert outgoing.capability_text == WIDE
    assert (outgoing.document["tool_server"], outgoing.document["tool_name"]) == ("payments", "charge")
    assert outgoing.document["caller"]["subject"] == CallerIdentity.bearer("alice").subject
    assert outgoing.headers["traceparent"] == TRACE
    assert response.json()["receipt"] != response.headers["x-chio-receipt"]
    sent = upstream.last.headers
    assert sent["traceparent"] == TRACE
    assert "x-chio-capability" not in sent
    assert "authorization" not in sent


async def test_a_refused_send_is_the_response_of_the_route() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    service = Service(OutboundClient("ledger", "write", transport=lambda: upstream.transport), sidecar)
    response = await service.post(**{"x-chio-capability": WIDE})
    assert response.status_code == 403
    assert response.json()["error"] == "chio_access_denied"
    assert "ledger/write" in response.json()["message"]
    assert response.json()["receipt_id"] != response.headers["x-chio-receipt"]
    assert response.headers.get_list("x-chio-receipt") == [response.headers["x-chio-receipt"]]
    assert (await service.post()).status_code == 401
    assert upstream.hits == 0


async def test_the_capability_can_be_narrowed_for_the_call() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    outbound = OutboundClient(
        "payments",
        "charge",
        narrow=lambda text, request: attenuate(text, KEY, scope=scope(grant("payments", "charge"))),
        transport=lambda: upstream.transport,
    )
    assert (await Service(outbound, sidecar).post(**{"x-chio-capability": WIDE})).status_code == 200
    presented = sidecar.asked[1].capability_text
    assert presented is not None
    assert presented != WIDE
    assert "refund" not in presented


async def test_a_shared_cache_keeps_callers_apart_and_every_hit_is_decided() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    cache = Cache(ttl=60, cache_methods=["POST"])
    service = Service(OutboundClient(members=cache, transport=lambda: upstream.transport), sidecar)
    for caller in ("alice", "bob", "alice"):
        assert (await service.post(authorization=f"Bearer {caller}")).status_code == 200
    assert upstream.hits == 2
    assert len(sidecar.asked) == 6


async def test_on_an_excluded_route_the_caller_is_who_the_application_itself_takes_for_one() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    settings = sidecar.settings(exclude_paths={"/pay"})
    partner = CallerIdentity.api_key("x-partner", "acme")
    app = Service(
        OutboundClient(transport=lambda: upstream.transport), sidecar, config=settings, extractor=lambda view: partner
    )
    assert (await app.post()).status_code == 200
    assert [asked.document["caller"] for asked in sidecar.asked] == [partner.to_wire()]


async def test_it_evaluates_by_itself_if_the_application_has_no_middleware() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    service = Service(OutboundClient(transport=lambda: upstream.transport), sidecar, governed=False)
    assert (await service.post()).status_code == 200
    assert [asked.path for asked in sidecar.asked] == ["/https/a.example.com/x"]
    sidecar.script = behaviours.DENY
    assert (await service.post()).status_code == 403
    assert upstream.hits == 1


async def test_a_route_may_catch_the_refusal_itself() -> None:
    sidecar = ScriptedSidecar(lambda asked: behaviours.DENY if "a.example" in asked.path else behaviours.ALLOW)
    outbound = OutboundClient(transport=lambda: Upstream().transport)
    app = FastAPI()
    add_chio(app, client=sidecar.client())

    @app.get("/try")
    async def attempt(client: Annotated[httpx.AsyncClient, Depends(outbound)]) -> str:
        try:
            await client.get(f"{A}/x")
        except OutboundDenied as error:
            return error.denial.message
        return "sent"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
        assert "capability" in (await client.get("/try")).text


class Counting(httpx.AsyncBaseTransport):
    made = 0
    closed = 0

    def __init__(self) -> None:
        type(self).made += 1

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={})

    async def aclose(self) -> None:
        type(self).closed += 1


def test_connections_are_closed_by_the_end_of_a_loop_without_a_lifespan() -> None:
    Counting.made = Counting.closed = 0
    service = Service(OutboundClient(transport=Counting), ScriptedSidecar())
    for turn in range(1, 3):
        assert asyncio.run(service.post()).status_code == 200
        assert (Counting.made, Counting.closed) == (turn, turn)


async def test_connections_are_shared_by_requests_and_closed_by_the_lifespan() -> None:
    Counting.made = Counting.closed = 0
    outbound = OutboundClient(transport=Counting)
    service = Service(outbound, ScriptedSidecar())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with outbound:
            yield

    async with lifespan(service.app):
        await asyncio.gather(*(service.post() for _ in range(5)))
        assert (Counting.made, Counting.closed) == (1, 0)
    assert Counting.closed == 1
    await outbound.aclose()
    assert Counting.closed == 1


def test_what_cannot_work_is_said_when_it_is_made() -> None:
    for wrong, words in (
        (lambda: OutboundClient("payments"), "server and tool"),
        (lambda: OutboundClient("payments", "charge", tools=("a", "b")), "server and tool"),
        (lambda: OutboundClient(proxy="http://localhost:1"), "pass the decision by"),
        (lambda: OutboundClient(members=42), "no member"),
        (lambda: GovernOutbound("http://127.0.0.1:9090"), "takes a ChioClient or a SyncChioClient first, not str"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            wrong()
