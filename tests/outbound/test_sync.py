"""The synchronous twin: the same members, the same rules, for `httpx.Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.client.client import SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.exchange import RawResponse
from chio_core.outbound import (
    BaseMiddleware,
    BearerAuth,
    Cache,
    ErrorTracking,
    GovernOutbound,
    Logging,
    MiddlewareChain,
    OutboundDenied,
    SyncChioTransport,
    Timing,
    TraceId,
    receipt_of,
)
from chio_core.testing import ScriptedSidecar, behaviours
from chio_core.testing.sidecar import Call
from tests.outbound.test_rows_hooks import (
    BearerAuthMiddleware,
    ErrorTrackingMiddleware,
    LoggingMiddleware,
    TraceMiddleware,
    Tracing,
    WriteOpMiddleware,
    refusing,
)
from tests.outbound.tools import PAY, A, B, Upstream, redirect_to


class Direct:
    """Carries evaluations of a synchronous client to a scripted sidecar, without a socket."""

    def __init__(self, sidecar: ScriptedSidecar) -> None:
        self._sidecar = sidecar

    def post(self, path: str, body: bytes, headers: Any, timeout: float) -> RawResponse:
        _, reply = self._sidecar.behave(Call("POST", path, {name.lower(): value for name, value in headers}, body))
        return RawResponse(reply.status, "application/json", reply.body)

    def close(self) -> None:
        return


def governed(sidecar: ScriptedSidecar, **options: Any) -> GovernOutbound:
    return GovernOutbound(SyncChioClient(sidecar.settings(), carrier=Direct(sidecar)), **options)


def test_the_documented_classes_run_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    upstream = Upstream()
    members = [BearerAuthMiddleware("t"), LoggingMiddleware(), TraceMiddleware(), WriteOpMiddleware()]
    with upstream.sync_client(members) as client:
        client.get(f"{A}/x")
        client.post(f"{A}/x")
    first, second = upstream.seen
    assert first.headers["authorization"] == "Bearer t"
    assert first.headers["x-trace-id"] != second.headers["x-trace-id"]
    assert ("x-write-op" in first.headers, "x-write-op" in second.headers) == (False, True)
    assert capsys.readouterr().out.splitlines()[:2] == [f"→ GET {A}/x", "← 200"]


def test_order_and_plain_functions() -> None:
    trace: list[str] = []

    def plain(request: Any, following: Callable[[Any], Any]) -> Any:
        trace.append("plain>")
        response = following(request)
        trace.append("<plain")
        return response

    chain = Tracing("A", trace) | MiddlewareChain().add(plain, priority=5) | Tracing("B", trace, 9)
    with Upstream().sync_client(chain) as client:
        client.get(f"{A}/x")
    assert trace == ["A>", "plain>", "B>", "<B", "<plain", "<A"]


def test_errors_reach_every_member_and_the_caller() -> None:
    hook, counting = ErrorTrackingMiddleware(), ErrorTracking()
    with (
        Upstream(refusing).sync_client(hook, counting, Logging(), Timing()) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get(f"{A}/x")
    assert hook.reported == [("ConnectError", "GET", f"{A}/x")]
    assert counting.error_count == 1


def test_a_hook_that_waits_is_named_with_the_remedy() -> None:
    class Waiting(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            await asyncio.sleep(0)
            return response

    refused = pytest.raises(ConfigurationError, match="a hook of Waiting waits for something")
    with Upstream().sync_client(Waiting()) as client, refused:
        client.get(f"{A}/x")


def test_an_asynchronous_function_is_refused() -> None:
    async def member(request: Any, following: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="member is asynchronous only"):
        SyncChioTransport(Upstream().transport, member)
    with pytest.raises(ConfigurationError, match="needs a transport first"):
        SyncChioTransport(BearerAuth("t"))


def test_each_hop_is_decided_and_credentials_stay_behind() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end", 307))
    member = governed(sidecar, capability=PAY, forward_to=["a.example.com"])
    with upstream.sync_client(member, BearerAuth("t"), TraceId()) as client:
        response = client.post(f"{A}/start", content=iter([b"one", b"two"]))
    assert [asked.path for asked in sidecar.asked] == ["/https/a.example.com/start", "/https/b.example.org/end"]
    assert receipt_of(response) is not None
    first, second = upstream.seen
    assert first.content == b"onetwo"
    assert ("x-chio-capability" in first.headers, "x-chio-capability" in second.headers) == (True, False)
    assert ("authorization" in first.headers, "authorization" in second.headers) == (True, False)


def test_a_denied_call_is_not_sent() -> None:
    sidecar, upstream = ScriptedSidecar(behaviours.DENY), Upstream()
    with upstream.sync_client(governed(sidecar)) as client:
        with pytest.raises(OutboundDenied):
            client.get(f"{A}/x")
        with pytest.raises(OutboundDenied) as refused:
            client.post(f"{A}/x", content=(b"x" * 1024 * 1024 for _ in range(11)))
    assert refused.value.denial.status == 413
    assert upstream.hits == 0


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_cache_inside_saves_the_send_only(library: Any) -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(library=library)
    with library.Client(transport=SyncChioTransport(upstream.transport, governed(sidecar), Cache(ttl=60))) as client:
        responses = [client.get(f"{A}/x") for _ in range(2)]
    assert all(isinstance(response, library.Response) for response in responses)
    assert (len(sidecar.asked), upstream.hits) == (2, 1)


def test_no_outer_member_may_respond_with_success() -> None:
    def shortcut(request: Any, following: Any) -> Any:
        return httpx.Response(200)

    chain = MiddlewareChain(governed(ScriptedSidecar())).add(shortcut, priority=-1)
    with Upstream().sync_client(chain) as client, pytest.raises(ConfigurationError, match="without a decision"):
        client.get(f"{A}/x")
