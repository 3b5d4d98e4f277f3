"""Row F24: governed sends. Each network send is decided once; a denied call never reaches the network."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.canonical import sha256_hex
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.models.request import CallerIdentity
from chio_core.outbound import (
    BearerAuth,
    Cache,
    Calls,
    ChioTransport,
    Flow,
    GovernOutbound,
    MiddlewareChain,
    OutboundDenied,
    SyncChioTransport,
    decision_of,
    receipt_of,
)
from chio_core.receipts import verify_receipt
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar, behaviours
from tests.hostile import BEHAVIOURS
from tests.outbound.tools import PAY, A, B, Changing, Next, Upstream, governed, grant, redirect_to, token


async def test_f24_an_approval_for_the_other_side_is_not_presented_to_our_sidecar() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(governed(sidecar), headers={"x-chio-approval": "apr-1"})
    assert "approval_token" not in sidecar.asked[0].document
    assert upstream.last.headers["x-chio-approval"] == "apr-1"


async def test_f24_the_token_of_the_sidecar_goes_to_no_upstream() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end"))
    await upstream.fetch(GovernOutbound(sidecar.client(evaluate_token="canary-5be1d2")), url=f"{A}/start")
    assert [asked.headers["authorization"] for asked in sidecar.asked] == ["Bearer canary-5be1d2"] * 2
    assert "canary" not in str([(sent.url, sent.headers.raw) for sent in upstream.seen])


async def test_f24_each_hop_is_decided_once_and_has_its_own_receipt() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end?q=1"))
    response = await upstream.fetch(governed(sidecar), url=f"{A}/start")
    assert [asked.path for asked in sidecar.asked] == ["/https/a.example.com/start", "/https/b.example.org/end"]
    receipts = [receipt_of(hop) for hop in (*response.history, response)]
    assert len({receipt.id for receipt in receipts if receipt}) == 2
    assert receipts[1] is not None
    assert receipts[1].route_pattern == "/https/b.example.org/end"
    for receipt in receipts:
        assert receipt is not None
        verify_receipt(receipt.raw, trusted_keys={sidecar.public_key})
    assert decision_of(response).verdict == "allow"


async def test_f24_a_denied_call_never_reaches_the_network() -> None:
    sidecar, upstream = ScriptedSidecar(behaviours.DENY), Upstream()
    with pytest.raises(OutboundDenied) as refused:
        await upstream.fetch(governed(sidecar), method="POST", url=f"{A}/x?key=secret", content=b"1")
    assert upstream.hits == 0
    error = refused.value
    assert error.receipt is not None
    assert (error.denial.status, error.code, error.method, error.hop) == (403, "chio_access_denied", "POST", 1)
    assert str(error) == f"POST {A}/x was not sent: side-effect route requires a capability token"


async def test_f24_a_denied_redirect_stops_at_its_first_hop() -> None:
    sidecar = ScriptedSidecar(lambda asked: behaviours.ALLOW if "/a.example." in asked.path else behaviours.DENY)
    upstream = Upstream(redirect_to(f"{B}/end"))
    with pytest.raises(OutboundDenied) as refused:
        await upstream.fetch(governed(sidecar), url=f"{A}/start")
    assert refused.value.hop == 2
    assert [request.url.host for request in upstream.seen] == ["a.example.com"]


@pytest.mark.parametrize("name", [name for name, one in BEHAVIOURS.items() if name != "allow" and not one.slow])
def test_f24_whatever_the_sidecar_does_nothing_is_sent_without_an_allow(name: str) -> None:
    sidecar, upstream = ScriptedSidecar(BEHAVIOURS[name]), Upstream()
    try:
        response = asyncio.run(upstream.fetch(governed(sidecar)))
    except OutboundDenied:
        assert upstream.hits == 0
    else:
        assert decision_of(response).verdict == "allow"


async def test_f24_the_evaluated_request_describes_the_send() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(
        governed(sidecar),
        method="PUT",
        url="http://user:pass@a.example.com:8080/a%2Fb/%C3%BC?x=1&y=%20",
        json={"n": 1},
        headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    )
    (asked,) = sidecar.asked
    assert asked.method == "PUT"
    assert asked.path == "/http/a.example.com:8080/a%2Fb/%C3%BC"
    assert asked.document["query"] == {"x": "1", "y": " "}
    assert asked.document["body_hash"] == sha256_hex(b'{"n":1}')
    assert asked.document["body_length"] == 7
    assert asked.document["headers"]["content-type"] == "application/json"
    assert asked.headers["traceparent"].startswith("00-4bf9")
    assert "pass" not in asked.body.decode()


async def test_f24_a_streamed_body_is_hashed_whole_and_sent_whole() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()

    async def pieces() -> Any:
        for piece in (b"one", b"two"):
            yield piece

    await upstream.fetch(governed(sidecar), method="POST", content=pieces())
    assert sidecar.asked[0].document["body_hash"] == sha256_hex(b"onetwo")
    assert upstream.last.content == b"onetwo"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_above_the_limit_is_refused_without_the_sidecar(streamed: bool) -> None:
    sidecar, upstream, taken = ScriptedSidecar(), Upstream(), []

    async def pieces() -> Any:
        for number in range(9):
            taken.append(number)
            yield b"12345"

    member = GovernOutbound(sidecar.client(max_body_bytes=10))
    with pytest.raises(OutboundDenied) as refused:
        await upstream.fetch(member, method="POST", content=pieces() if streamed else b"x" * 11)
    assert refused.value.denial.status == 413
    assert taken == ([0, 1, 2] if streamed else []), "it is not read to its end"
    assert (len(sidecar.asked), upstream.hits) == (0, 0)


@pytest.mark.parametrize(
    "send", [{"method": "POST", "content": b"x" * 11}, {"method": "PROPFIND"}, {"url": f"{A}/{'x' * 9000}"}], ids=str
)
async def test_what_is_refused_without_an_evaluation_is_sent_in_observe_mode(send: dict[str, Any]) -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    member = GovernOutbound(sidecar.client(max_body_bytes=10, observe=True))
    decision = decision_of(await upstream.fetch(member, **send))
    assert decision is not None
    assert (decision.observed, upstream.hits) == (True, 1)


async def test_a_host_header_that_names_another_host_is_refused() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    with pytest.raises(OutboundDenied, match="only the URL is evaluated"):
        await upstream.fetch(governed(sidecar), headers={"Host": "b.example.org"})
    await upstream.fetch(governed(sidecar), headers={"Host": "A.example.com:443"})
    assert (len(sidecar.asked), upstream.hits) == (1, 1)


async def test_an_unknown_method_is_refused_without_the_sidecar() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    with pytest.raises(OutboundDenied) as refused:
        await upstream.fetch(governed(sidecar), method="PROPFIND")
    assert refused.value.denial.status == 405
    assert (len(sidecar.asked), upstream.hits) == (0, 0)


@pytest.mark.parametrize(
    ("options", "send", "status", "code"),
    [
        ({}, {"url": f"{A}/{'x' * 9000}"}, 414, "chio_bad_request"),
        ({}, {"method": "POST", "content": b"x" * 11}, 413, "chio_body_too_large"),
        ({}, {"headers": {"Host": "b.example.org"}}, 400, "chio_bad_request"),
        ({}, {"method": "PROPFIND"}, 405, "chio_bad_request"),
        ({"tool": {"b.example.org": ("b", "read")}}, {}, 403, "chio_access_denied"),
    ],
    ids=["path", "body", "host", "method", "tool"],
)
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_send_that_is_refused_without_an_evaluation_is_counted_and_logged_once(
    options: dict[str, Any], send: dict[str, Any], status: int, code: str, sync: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    settings = sidecar.settings(max_body_bytes=10)
    client = SyncChioClient(settings) if sync else ChioClient(settings)  # neither is used
    request = {"method": "GET", "url": f"{A}/x"} | send

    async def fetch() -> None:
        member = GovernOutbound(client, **options)
        if sync:
            upstream.sync_client(member).request(**request)
        else:
            await upstream.fetch(member, **request)

    with caplog.at_level(logging.INFO, logger="chio"), pytest.raises(OutboundDenied) as refused:
        await fetch()
    assert (refused.value.denial.status, refused.value.denial.code) == (status, code)
    (record,) = [one for one in caplog.records if one.name == "chio.decision"]
    method = "_OTHER" if status == 405 else request["method"]
    assert record.getMessage().startswith(f"chio: refused {status} {code}: {method} /https/a.example.com/x")
    assert f'chio_decisions_total{{code="{code}",verdict="refused"}} 1.0' in client.metrics.render()
    assert (len(sidecar.asked), upstream.hits) == (0, 0)


async def test_the_tool_is_the_callers_choice_and_needs_a_capability_that_grants_it() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(governed(sidecar, tool=("payments", "charge"), capability=PAY))
    asked = sidecar.asked[0]
    assert (asked.document["tool_server"], asked.document["tool_name"]) == ("payments", "charge")
    assert asked.document["arguments"] == {"method": "GET", "url": f"{A}/x"}
    assert asked.capability_text == PAY
    assert "x-chio-capability" not in upstream.last.headers
    for capability, status in ((None, 401), (token(grant("payments", "refund")), 403)):
        with pytest.raises(OutboundDenied) as refused:
            await upstream.fetch(governed(sidecar, tool=("payments", "charge"), capability=capability))
        assert refused.value.denial.status == status
        assert refused.value.receipt is not None
    assert upstream.hits == 1


async def test_a_grant_can_be_bound_to_a_host_and_a_redirect_does_not_get_around_it() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end"))
    bound = token(grant("payments", "charge", "a.example.com"))
    member = governed(sidecar, tool=("payments", "charge"), capability=bound)
    with pytest.raises(OutboundDenied, match=r"b\.example\.org/end was not sent"):
        await upstream.fetch(member, url=f"{A}/start")
    assert upstream.hits == 1
    assert len(sidecar.asked) == 2


async def test_tools_can_be_named_by_host_and_other_hosts_are_refused_without_the_sidecar() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    tools = {"a.example.com": ("a", "read"), "b.example.org": ("b", "read")}
    member = governed(sidecar, tool=tools, capability=token(grant("a", "read"), grant("b", "read")))
    await upstream.fetch(member, url=f"{A}/x")
    await upstream.fetch(member, url=f"{B}/x")
    assert [asked.document["tool_server"] for asked in sidecar.asked] == ["a", "b"]
    for url in ("https://c.example.net/x", f"{A}:8443/x"):
        with pytest.raises(OutboundDenied, match="no tool is named for"):
            await upstream.fetch(member, url=url)
    assert len(sidecar.asked) == 2


async def test_a_function_may_choose_the_tool_and_an_async_one_the_capability() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()

    async def capability(request: Any) -> str:
        await asyncio.sleep(0)
        return PAY

    member = governed(
        sidecar,
        tool=lambda request: ("payments", "charge") if request.method == "POST" else None,
        capability=capability,
        arguments=lambda request: {"body": request.content.decode()},
    )
    await upstream.fetch(member)
    await upstream.fetch(member, method="POST", content=b"5")
    assert "tool_server" not in sidecar.asked[0].document
    assert sidecar.asked[1].document["arguments"] == {"body": "5"}


async def test_the_capability_of_the_request_itself_is_presented_when_no_other_is_given() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(governed(sidecar, tool=("payments", "charge")), headers={"X-Chio-Capability": PAY})
    assert sidecar.asked[0].capability_text == PAY
    assert upstream.last.headers["x-chio-capability"] == PAY


async def test_a_redirect_to_another_host_carries_neither_capability_nor_authorization() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end", 307))
    member = governed(sidecar, capability=PAY, forward_to=["a.example.com", "b.example.org"])
    for members, headers in (
        ((member, BearerAuth("outer")), {"Authorization": "Bearer own"}),
        ((governed(sidecar),), {"X-Chio-Capability": PAY}),
    ):
        await upstream.fetch(*members, method="POST", url=f"{A}/start", content=b"1", headers=headers)
    for first, second in (upstream.seen[:2], upstream.seen[2:]):
        assert first.headers["x-chio-capability"] == PAY
        assert "x-chio-capability" not in second.headers
        assert "authorization" not in second.headers
        assert second.content == b"1"
    # The sidecar still sees the member's capability; that of the request was removed.
    assert [asked.capability_text for asked in sidecar.asked] == [PAY, PAY, PAY, None]


async def test_the_caller_is_the_outgoing_credential_or_who_is_named() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(governed(sidecar), headers={"Authorization": "Bearer own"})
    named = CallerIdentity.bearer("incoming")
    await upstream.fetch(governed(sidecar, caller=named), headers={"Authorization": "Bearer own"})
    assert [asked.document["caller"]["subject"] for asked in sidecar.asked] == [
        CallerIdentity.bearer("own").subject,
        named.subject,
    ]


async def test_a_cache_inside_saves_the_send_and_never_the_decision() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    async with upstream.client(governed(sidecar), Cache(ttl=60)) as client:
        receipts = [receipt_of(await client.get(f"{A}/x")) for _ in range(2)]
        assert len({receipt.id for receipt in receipts}) == 2
        assert (len(sidecar.asked), upstream.hits) == (2, 1)
        sidecar.script = behaviours.DENY
        with pytest.raises(OutboundDenied):
            await client.get(f"{A}/x")


def test_a_cache_outside_is_an_order_that_cannot_work() -> None:
    member, cache = governed(ScriptedSidecar()), Cache(ttl=60)
    cache.__priority__ = -10
    with pytest.raises(ConfigurationError, match=r"Cache \(priority -10\) requires 'decision'"):
        ChioTransport(Upstream().transport, member, cache)
    ChioTransport(Upstream().transport, cache)  # nothing to get around


async def test_two_callers_or_capabilities_never_share_a_cached_response() -> None:
    sidecar, upstream, cache = ScriptedSidecar(), Upstream(), Cache(ttl=60)
    alice, bob = CallerIdentity.bearer("alice"), CallerIdentity.bearer("bob")
    for caller, capability in ((alice, PAY), (bob, PAY), (alice, token(grant("x", "y"))), (alice, PAY), (bob, PAY)):
        await upstream.fetch(governed(sidecar, caller=caller, capability=capability), cache)
    assert upstream.hits == 3


async def test_it_cannot_be_disabled_filtered_or_moved() -> None:
    member = governed(ScriptedSidecar())
    for name, value in (("__enabled__", False), ("enabled", False), ("__methods__", ["GET"]), ("__priority__", 5)):
        with pytest.raises(ConfigurationError, match="cannot be disabled, filtered or moved"):
            setattr(member, name, value)
    for place in ({"priority": 5}, {"methods": ["GET"]}):
        with pytest.raises(ConfigurationError, match="priority 0 for all methods"):
            MiddlewareChain().add(member, **place)

    class Off(GovernOutbound):
        __enabled__ = False

    sidecar, upstream = ScriptedSidecar(behaviours.DENY), Upstream()
    with pytest.raises(OutboundDenied):
        await upstream.fetch(Off(sidecar.client()))


def test_there_is_only_one_and_only_it_gives_the_decision() -> None:
    sidecar = ScriptedSidecar()
    with pytest.raises(ConfigurationError, match="second"):
        MiddlewareChain(governed(sidecar), governed(sidecar))
    with pytest.raises(ConfigurationError, match="second"):
        MiddlewareChain(MiddlewareChain(governed(sidecar)), MiddlewareChain(governed(sidecar)))

    class Pretender(Flow):
        __priority__ = 0
        provides = frozenset({"decision"})

    with pytest.raises(ConfigurationError, match="only GovernOutbound does"):
        MiddlewareChain(Pretender())


async def test_no_outer_member_may_respond_with_success() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()

    def responding(status: int) -> Any:
        async def shortcut(request: Any, following: Next) -> Any:
            return httpx.Response(status)

        return MiddlewareChain(governed(sidecar)).add(shortcut, priority=-1)

    for status in (200, 302):
        with pytest.raises(ConfigurationError, match=f"shortcut answered {status} without a decision"):
            await upstream.fetch(responding(status))
    assert (await upstream.fetch(responding(429))).status_code == 429
    assert (len(sidecar.asked), upstream.hits) == (0, 0)


async def test_a_denial_cannot_be_swallowed_into_a_success() -> None:
    async def swallowing(request: Any, following: Next) -> Any:
        try:
            return await following(request)
        except OutboundDenied:
            return httpx.Response(200)

    upstream = Upstream()
    chain = MiddlewareChain(governed(ScriptedSidecar(behaviours.DENY))).add(swallowing, priority=-1)
    with pytest.raises(ConfigurationError, match="swallowing answered 200 without a decision"):
        await upstream.fetch(chain)
    assert upstream.hits == 0


CHANGES: list[dict[str, Any]] = [
    {"params": {"to": "me"}},
    {"content": b"other"},
    {"headers": {"Host": "b.example.org"}},
    {"headers": {"Content-Type": "text/plain"}},
]


@pytest.mark.parametrize("changes", CHANGES)
async def test_the_request_of_the_decision_is_sent_unchanged(changes: dict[str, Any]) -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    with pytest.raises(ConfigurationError, match="give it a priority below 0"):
        await upstream.fetch(governed(sidecar), Changing(1, **changes), method="POST", content=b"1")
    assert upstream.hits == 0


async def test_changes_before_the_decision_are_decided_about() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    await upstream.fetch(governed(sidecar), Changing(-1, **CHANGES[1]), method="POST", content=b"1")
    assert sidecar.asked[0].document["body_hash"] == sha256_hex(b"other")
    assert upstream.last.content == b"other"


async def test_another_url_or_method_after_the_decision_is_not_sent() -> None:
    async def elsewhere(request: Any, following: Next) -> Any:
        return await following(httpx.Request("GET", f"{B}/x"))

    async def deleting(request: Any, following: Next) -> Any:
        request.method = "DELETE"
        return await following(request)

    upstream = Upstream()
    for member in (elsewhere, deleting):
        with pytest.raises(ConfigurationError, match="after the decision"):
            await upstream.fetch(governed(ScriptedSidecar()), member)
    assert upstream.hits == 0


async def test_headers_added_after_the_decision_are_sent() -> None:
    upstream = Upstream()
    await upstream.fetch(governed(ScriptedSidecar()), Changing(1, headers={"X-Late": "1"}))
    assert upstream.last.headers["x-late"] == "1"


async def test_a_repetition_is_a_further_decision_or_refused() -> None:
    async def twice(request: Any, following: Next) -> Any:
        await following(request)
        return await following(request)

    sidecar, upstream = ScriptedSidecar(), Upstream()
    chain = MiddlewareChain(governed(sidecar))
    await upstream.fetch(MiddlewareChain(chain).add(twice, priority=-1))
    assert (len(sidecar.asked), upstream.hits) == (2, 2)
    with pytest.raises(ConfigurationError, match="twice under one decision"):
        await upstream.fetch(MiddlewareChain(chain).add(twice, priority=1))
    assert (len(sidecar.asked), upstream.hits) == (3, 3)


async def test_overlapping_calls_keep_their_own_receipts() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    async with upstream.client(governed(sidecar)) as client:
        responses = await asyncio.gather(*(client.get(f"{A}/{number}") for number in range(20)))
    patterns = [receipt_of(response).route_pattern for response in responses]
    assert patterns == [f"/https/a.example.com/{number}" for number in range(20)]


async def test_an_unreachable_sidecar_refuses_and_fail_open_is_marked() -> None:
    sidecar, upstream = ScriptedSidecar(behaviours.REFUSE), Upstream()
    with pytest.raises(OutboundDenied) as refused:
        await upstream.fetch(governed(sidecar))
    assert refused.value.denial.status == 503
    assert refused.value.receipt is None
    response = await upstream.fetch(GovernOutbound(sidecar.client(fail_open=True)))
    assert receipt_of(response) is None
    assert decision_of(response).passthrough is not None
    with pytest.raises(OutboundDenied):
        await upstream.fetch(GovernOutbound(sidecar.client(fail_open=True), tool=("a", "b"), capability=PAY))


async def test_an_ungoverned_response_has_no_receipt() -> None:
    response = await Upstream().fetch()
    assert decision_of(response) is None
    assert receipt_of(response) is None


async def test_a_denied_call_does_not_stop_the_others_of_its_run() -> None:
    sidecar = ScriptedSidecar(lambda asked: behaviours.DENY if "/secret" in asked.path else behaviours.ALLOW)
    calls = Calls(middleware=governed(sidecar), transport=Upstream().transport)
    calls.get(f"{A}/open")(lambda response: response.json())

    @calls.get(f"{A}/secret")
    async def secret(response: Any) -> None: ...

    outcomes = await calls.run()
    assert outcomes[0].value == {"path": "/open"}
    assert isinstance(outcomes["secret"].error, OutboundDenied)


async def test_httpx2_is_governed_as_well() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to(f"{B}/end", 307, httpx2), library=httpx2)
    transport = ChioTransport(upstream.transport, governed(sidecar), BearerAuth("t"))
    async with httpx2.AsyncClient(transport=transport, follow_redirects=True) as client:
        response = await client.post(f"{A}/start", content=b"1")
    assert receipt_of(response).route_pattern == "/https/b.example.org/end"
    assert len(sidecar.asked) == 2
    assert "authorization" not in upstream.last.headers


async def test_wrong_arguments_are_refused_at_once() -> None:
    sidecar = ScriptedSidecar()
    for tool in ("payments", ("payments",), ("payments", ""), {"a.example.com": "x"}):
        with pytest.raises(ConfigurationError, match="takes a pair"):
            governed(sidecar, tool=tool)
    with pytest.raises(ConfigurationError, match="collection of hosts"):
        governed(sidecar, forward_to="a.example.com")
    with pytest.raises(ConfigurationError, match="needs a SyncChioClient"):
        SyncChioTransport(Upstream().transport, governed(sidecar))
    with pytest.raises(ConfigurationError, match="must give the token's text"):
        await Upstream().fetch(governed(sidecar, capability=lambda request: 5))


async def test_the_embedded_sidecar_decides_stores_and_binds_to_the_host(embedded: ChioSettings) -> None:
    upstream = Upstream()
    bound = token(grant("payments", "charge", "a.example.com"))
    async with ChioClient(embedded) as client:
        member = GovernOutbound(client, tool=("payments", "charge"), capability=bound)
        response = await upstream.fetch(member, method="POST", content=b"1")
        with pytest.raises(OutboundDenied) as refused:
            await upstream.fetch(member, method="POST", url=f"{B}/x", content=b"1")
        with pytest.raises(OutboundDenied):
            await upstream.fetch(GovernOutbound(client), method="POST", content=b"1")
        ids = [receipt_of(response).id, refused.value.receipt.id]
    assert len(set(ids)) == 2
    assert upstream.hits == 1
    assert json.loads(bound)["id"]
