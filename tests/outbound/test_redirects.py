"""A redirect to another origin takes no credential along: neither by a known name, nor by a word, nor by a setting."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import (
    BaseMiddleware,
    BearerAuth,
    Calls,
    ChioTransport,
    CookieJar,
    GovernOutbound,
    Session,
    SyncChioTransport,
    no_cookies,
)
from chio_core.testing import ScriptedSidecar
from tests.outbound.test_rows_cookies import setting
from tests.outbound.tools import A, B, Changing, Upstream, redirect_to

CREDENTIALS = [
    "Authorization",
    "Proxy-Authorization",
    "X-Authorization",
    "X-Auth-Token",
    "X-Auth",
    "X-Amz-Security-Token",
    "X-Api-Key",
    "Api-Key",
    "apikey",
    "X-Goog-Api-Key",
    "Ocp-Apim-Subscription-Key",
    "X-Functions-Key",
    "DD-APPLICATION-KEY",
    "PRIVATE-TOKEN",
    "X-Vault-Token",
    "X-Access-Token",
    "X_Auth_Token",
    "X-CSRFToken",
    "X-XSRF-TOKEN",
    "X-Session-Id",
    "CF-Access-Client-Id",
    "CF-Access-Client-Secret",
    "X-Password",
    "X-Jwt-Assertion",
    "X-Hub-Signature-256",
    "Signature",
    "DPoP",
    "X-GitHub-OTP",
    "X-User-Id",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-Credential",
    "X-Chio-Capability",
    "X-Chio-Approval",
    "Cookie",
]
OTHERS = [
    "Accept",
    "Accept-Language",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Range",
    "traceparent",
    "User-Agent",
    "X-Author",
    "X-Own",
    "X-Request-ID",
]


def crossing(library: Any = httpx) -> Upstream:
    return Upstream(redirect_to(f"{B}/end", 307, library), library)


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_no_credential_follows_a_redirect_to_another_origin(library: Any) -> None:
    upstream = crossing(library)
    transport = ChioTransport(upstream.transport)
    async with library.AsyncClient(transport=transport, cookies=no_cookies(), follow_redirects=True) as client:
        await client.post(f"{A}/start", content=b"1", headers=dict.fromkeys([*CREDENTIALS, *OTHERS], "x"))
    first, second = upstream.seen
    assert [name for name in [*CREDENTIALS, *OTHERS] if name not in first.headers] == []
    assert [name for name in CREDENTIALS if name in second.headers] == []
    assert [name for name in OTHERS if name not in second.headers] == []


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_no_member_adds_one_after_the_redirect(name: str) -> None:
    upstream = crossing()
    await upstream.fetch(Changing(50, headers={name: "x"}), url=f"{A}/start")
    assert [name in request.headers for request in upstream.seen] == [True, False]


def test_the_synchronous_transport_removes_the_same() -> None:
    upstream = crossing()
    member, names = Changing(50, headers={"X-Auth-Token": "x"}), {"x-auth-token", "x-session-id", "x-tenant", "x-own"}
    transport = SyncChioTransport(upstream.transport, member, credential_headers=["X-Tenant"])
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        client.get(f"{A}/start", headers=dict.fromkeys(names, "x"))
    assert [names & set(request.headers) for request in upstream.seen] == [names, {"x-own"}]


async def test_a_transport_and_a_setting_can_name_more() -> None:
    sidecar, headers = ScriptedSidecar(), {"X-Tenant": "7", "X-Region": "eu"}
    upstream = crossing()
    transport = ChioTransport(upstream.transport, credential_headers=["x-tenant"])
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        await client.get(f"{A}/start", headers=headers)
    govern = GovernOutbound(sidecar.client(credential_headers="X-Tenant, X-Other"))
    await upstream.fetch(govern, url=f"{A}/start", headers=headers)
    assert ["x-tenant" in request.headers for request in upstream.seen] == [True, False, True, False]
    assert all(request.headers["x-region"] == "eu" for request in upstream.seen)
    with pytest.raises(ConfigurationError, match=r"write \[name\]"):
        ChioTransport(upstream.transport, credential_headers="x-tenant")


async def test_what_another_origin_sends_back_to_the_first_gets_no_credential_either() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        target = {"/start": f"{B}/bounce", "/bounce": f"{A}/transfer?to=b"}.get(request.url.path)
        return httpx.Response(307, headers={"location": target}) if target else httpx.Response(200)

    upstream = Upstream(respond)
    await upstream.fetch(BearerAuth("t"), url=f"{A}/start", headers={"X-Auth-Token": "x"})
    assert [request.headers.get("authorization") for request in upstream.seen] == ["Bearer t", None, None]
    assert [request.headers.get("x-auth-token") for request in upstream.seen] == ["x", None, None]


async def test_the_cookies_of_the_jar_reach_their_own_hosts_and_no_other_cookie_does() -> None:
    jar = CookieJar({"a": "1"}, domain="a.example.com")
    jar.set("b", "2", domain="b.example.org")

    class Sticky(BaseMiddleware):
        __priority__ = -20

        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["headers"]["Cookie"] = "own=3"
            return kwargs

    upstream = crossing()
    await upstream.fetch(Sticky(), Session(jar), url=f"{A}/start")
    assert [request.headers.get("cookie") for request in upstream.seen] == ["own=3; a=1", "b=2"]


ADDRESSES = ["http://127.0.0.1:8001", "http://[::1]:8001", "http://localhost:8001", "http://intranet"]


@pytest.mark.parametrize("origin", ADDRESSES)
async def test_an_initial_cookie_reaches_an_address_only_if_unsafe(origin: str) -> None:
    for unsafe in (False, True):
        upstream = Upstream(setting())
        await upstream.fetch(Session(CookieJar({"t": "x"}, unsafe=unsafe)), url=f"{origin}/x")
        assert upstream.last.headers.get("cookie") == ("t=x" if unsafe else None)


@pytest.mark.parametrize("domain", ["127.0.0.1", "::1", "localhost"])
def test_a_cookie_for_an_address_is_refused_where_it_is_set(domain: str) -> None:
    with pytest.raises(ValueError, match="unsafe=True"):
        CookieJar({"t": "x"}, domain=domain)
    with pytest.raises(ValueError, match="unsafe=True"):
        CookieJar().set("t", "x", domain=domain)
    assert CookieJar({"t": "x"}, domain=domain, unsafe=True).items() == [("t", "x")]


async def test_an_initial_cookie_is_bound_to_the_host_that_is_called_not_to_a_redirect_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream = Upstream(redirect_to(f"{B}/end"))
    session = Session(CookieJar({"t": "x"}))
    await upstream.fetch(session, url="http://127.0.0.1/start")  # an address: not bound yet
    await upstream.fetch(session, url=f"{A}/x")
    assert [request.headers.get("cookie") for request in upstream.seen] == [None, None, "t=x"]
    (record,) = [record for record in caplog.records if "domain=" in record.getMessage()]
    assert "a.example.com" in record.getMessage()
    assert "=x" not in record.getMessage()


async def test_declared_calls_decide_whose_an_initial_cookie_is_not_their_order() -> None:
    upstream = Upstream(setting())
    for several in (False, True):
        calls = Calls(cookie_jar=CookieJar({"t": "x"}), transport=upstream.transport, base_url=A)
        calls.get("/one", tags=["a"])(attrgetter("status"))
        calls.get(f"{B}/two", tags=["b"])(attrgetter("text"))
        if several:
            with pytest.raises(ConfigurationError, match=r"a\.example\.com, b\.example\.org; write CookieJar"):
                await calls.run()
        else:
            await calls.run(tags=["a"])
            await calls.run(tags=["b"])
    assert [request.headers.get("cookie") for request in upstream.seen] == ["t=x", None]
