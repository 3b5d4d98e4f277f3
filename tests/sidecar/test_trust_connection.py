"""How a sidecar reaches its trust service over a socket: the connection, its limits, and what a failure means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr

from chio_core.capabilities import sign_link
from chio_core.signing import SigningKey
from chio_sidecar.app import create_app
from chio_sidecar.cli import build_parser
from chio_sidecar.cli.api_protect import configuration
from tests.carrier.stubs import Scripted
from tests.carrier.test_tls import certificate
from tests.sidecar.sidecar_tools import AUTHORITY, HOLDER, KERNEL, NOW, Clock, capability, decision, sidecar
from tests.stub_sidecar import http_response, split_request

POST = {"method": "POST"}
UNAVAILABLE = "revocation authority is unavailable; no operation was dispatched"


class TrustService(Scripted):
    """A trust service that knows some revocations, or responds with what `misbehave` returns.

    Args:
        knows_ancestors: False: it ignores `ancestorId`, as the protocol lets it.
        misbehave: returns the bytes of a response; None closes the connection.

    Attributes:
        heads: request target and headers of each request.
        revoked: ids of revoked capabilities.
    """

    def __init__(
        self, *, knows_ancestors: bool = True, misbehave: Callable[[], bytes | None] | None = None, tls: Any = None
    ) -> None:
        super().__init__(_respond, tls=tls)
        self.knows_ancestors, self.misbehave = knows_ancestors, misbehave
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.revoked: set[str] = set()

    @property
    def url(self) -> str:
        end = self.endpoint
        return f"{'https' if end.tls else 'http'}://127.0.0.1:{end.port}"

    @property
    def targets(self) -> list[str]:
        return [target for target, _ in self.heads]

    def options(self, **more: Any) -> dict[str, Any]:
        return {"control_url": self.url, "control_service_token": SecretStr("service-secret"), **more}


async def _respond(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert isinstance(server, TrustService)
    data = b""
    while more := await reader.read(65536):
        data += more
        while (found := split_request(data)) is not None:
            first, headers, _, data = found
            target = first.split(" ")[1]
            server.heads.append((target, headers))
            if server.misbehave is not None:
                response = server.misbehave()
                if response is None:
                    return
                writer.write(response)
                continue
            query = parse_qs(urlsplit(target).query)
            (name,) = query["capabilityId"]
            document: dict[str, Any] = {"capabilityId": name, "revoked": name in server.revoked}
            if server.knows_ancestors and "ancestorId" in query:
                document["ancestors"] = [
                    {"capabilityId": name, "revoked": name in server.revoked} for name in query["ancestorId"]
                ]
            writer.write(http_response(json.dumps(document).encode()))


async def test_api_protect_asks_about_a_token_and_its_ancestors_at_once_over_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", AUTHORITY.public_hex)
    (tmp_path / "api.json").write_text('{"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}')
    async with TrustService().listen() as service:
        given = ["--control-url", service.url, "--control-token", "service-secret"]
        args = build_parser().parse_args([*given, "api", "protect", "--spec", str(tmp_path / "api.json")])
        options = configuration(args, tmp_path / "receipts.sqlite3")
        app = create_app(replace(options, clock=Clock(), signing_key=KERNEL))
        try:
            for number in range(3):
                token = capability(parents=["cap/root", "cap middle"])
                found = await decision(app, token, request_id=f"req-{number}", **POST)
                assert found["verdict"] == {"verdict": "allow"}
            service.revoked.add("cap middle")
            found = await decision(app, token, request_id="req-9", **POST)
            assert found["verdict"]["reason"] == "presented capability cap middle has been revoked"
        finally:
            await app.state.close()
    assert service.accepted == 1
    target = "/v1/revocations?capabilityId=cap-1&limit=1&ancestorId=cap%2Froot&ancestorId=cap%20middle"
    keys = (AUTHORITY, HOLDER)  # of the token, and of its links
    assert service.targets == [target + "".join(f"&ancestorId=issuer%3A{key.public_hex}" for key in keys)] * 4
    for _, headers in service.heads:
        assert headers == {
            "host": f"127.0.0.1:{service.port}",
            "accept": "application/json",
            "authorization": "Bearer service-secret",
        }


async def test_a_service_that_does_not_know_ancestors_is_asked_about_each(tmp_path: Path) -> None:
    async with TrustService(knows_ancestors=False).listen() as service, sidecar(tmp_path, **service.options()) as app:
        token = capability(parents=["a", "b"])
        assert (await decision(app, token, **POST))["verdict"] == {"verdict": "allow"}
        first, *others = service.targets
        assert first.startswith("/v1/revocations?capabilityId=cap-1&limit=1")
        assert sorted(others) == [f"/v1/revocations?capabilityId={name}&limit=1" for name in "ab"]
        service.revoked.add("b")
        found = await decision(app, token, request_id="req-2", **POST)
        assert found["verdict"]["reason"] == "presented capability b has been revoked"


async def test_one_question_holds_the_longest_chain_with_a_key_for_each_link(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(8)]
    delegatees = [*(key.public_hex for key in keys[1:]), AUTHORITY.public_hex]
    links = [
        sign_link(key, capability_id=f"cap-{uuid4()}", delegatee=delegatee, timestamp=NOW - 100)
        for key, delegatee in zip(keys, delegatees, strict=True)
    ]
    async with TrustService().listen() as service, sidecar(tmp_path, **service.options()) as app:
        assert (await decision(app, capability(links=links), **POST))["verdict"] == {"verdict": "allow"}
        assert len(service.targets) == 1
        service.revoked.add(f"issuer:{keys[-1].public_hex}")
        found = await decision(app, capability(links=links), request_id="req-2", **POST)
        assert found["verdict"]["reason"] == "capability issuer is not trusted"


async def test_a_question_that_would_be_too_long_is_asked_in_parts(tmp_path: Path) -> None:
    names = ["a" * 3000, "b" * 3000]
    async with TrustService().listen() as service, sidecar(tmp_path, **service.options()) as app:
        assert (await decision(app, capability(parents=names), **POST))["verdict"] == {"verdict": "allow"}
    assert len(service.targets) == 5  # the token, two ancestors, the issuer, the delegator
    assert max(map(len, service.targets)) < 4000


@pytest.mark.parametrize(
    "ancestors",
    [None, "yes", {"cap-root": False}, [], [5], [{"capabilityId": "other", "revoked": False}], [{"capabilityId": "x"}]],
)
async def test_what_a_response_does_not_say_about_an_ancestor_is_asked_again(tmp_path: Path, ancestors: Any) -> None:
    responses = [
        {"capabilityId": "cap-1", "revoked": False, "ancestors": ancestors},
        {"capabilityId": "cap-root", "revoked": True},
    ]
    service = TrustService(misbehave=lambda: http_response(json.dumps(responses.pop(0)).encode()))
    async with service.listen(), sidecar(tmp_path, **service.options()) as app:
        found = await decision(app, capability(parents=["cap-root"]), **POST)
    assert found["verdict"]["reason"] == "presented capability cap-root has been revoked"
    assert responses == []


MISBEHAVIOURS: dict[str, bytes | None] = {
    "unauthorised": http_response(b'{"capabilityId": "cap-1", "revoked": false}', status="401 Unauthorized"),
    "redirect": http_response(b"", status="302 Found", extra=b"location: /v1/revocations\r\n"),
    "not JSON": http_response(b"revoked: false"),
    "another capability": http_response(b'{"capabilityId": "cap-2", "revoked": false}'),
    "two members": http_response(b'{"capabilityId": "cap-1", "revoked": true, "revoked": false}'),
    "not HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "cut off": http_response(b'{"capabilityId": "cap-1", "revoked": false}')[:-1],
    "no response": b"",
    "closed": None,
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
async def test_a_service_without_a_usable_response_in_time_means_deny(kind: str, tmp_path: Path) -> None:
    service = TrustService(misbehave=lambda: MISBEHAVIOURS[kind])
    late = kind in ("cut off", "no response")
    more = {"control_timeout": 0.05} if late else {}
    async with service.listen(), sidecar(tmp_path, **service.options(**more)) as app:
        assert (await decision(app, capability(), **POST))["verdict"]["reason"] == UNAVAILABLE
        assert late or len(service.heads) == 1


async def test_a_service_that_recovers_is_believed_again(tmp_path: Path) -> None:
    service = TrustService(misbehave=lambda: None)
    async with service.listen(), sidecar(tmp_path, **service.options()) as app:
        assert (await decision(app, capability(), **POST))["verdict"]["reason"] == UNAVAILABLE
        service.misbehave = None
        assert (await decision(app, capability(), request_id="req-2", **POST))["verdict"] == {"verdict": "allow"}


async def test_the_certificate_of_the_service_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TrustService(tls=certificate(tmp_path)).listen() as service:
        async with sidecar(tmp_path, **service.options()) as app:
            assert (await decision(app, capability(), **POST))["verdict"]["reason"] == UNAVAILABLE
        assert service.heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        async with sidecar(tmp_path, **service.options()) as app:
            found = await decision(app, capability(), request_id="req-2", **POST)
            assert found["verdict"] == {"verdict": "allow"}


async def test_a_proxy_of_the_environment_leads_to_other_machines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TrustService().listen() as proxy, TrustService().listen() as service:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with sidecar(tmp_path, **service.options()) as app:
            assert (await decision(app, capability(), **POST))["verdict"] == {"verdict": "allow"}
        assert (len(proxy.heads), len(service.heads)) == (0, 1)
        async with sidecar(tmp_path, **service.options(control_url="http://trust.test")) as app:
            assert (await decision(app, capability(), request_id="req-2", **POST))["verdict"] == {"verdict": "allow"}
        (target, headers) = proxy.heads[0]
        assert target.startswith("http://trust.test/v1/revocations?capabilityId=cap-1&limit=1&")
        assert headers["authorization"] == "Bearer service-secret"
