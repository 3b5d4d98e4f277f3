"""Row B7: tokens, and the keys of issuers that rotate them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from fastapi import FastAPI, Request

from chio_core import ConfigurationError
from chio_core.canonical import sha256_hex
from chio_core.guards import JwtAuth
from chio_fastapi import add_chio
from tests.guards.tools import Door
from tests.support import Reply, StubClient, call, run

SECRET = "a secret of sixty-four characters" * 2
LATER = 4_000_000_000
GOOD: dict[str, Any] = {"sub": "alice", "iss": "https://issuer.test", "aud": "api", "exp": LATER}


@pytest.fixture(scope="module")
def rsa_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_pem(key: RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def token(claims: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode({**GOOD, **(claims or {})}, key, algorithm, headers)


def auth(**options: Any) -> JwtAuth:
    given = {"algorithms": ["HS256"], "issuer": GOOD["iss"], "audience": "api", **options}
    return JwtAuth(**({"key": SECRET} if "jwks_url" not in given else {}) | given)


def knock(guard: JwtAuth, text: str | None, scheme: str = "Bearer") -> tuple[Door, Reply]:
    door = Door(guard)
    return door, door.knock(**({"authorization": f"{scheme} {text}"} if text is not None else {}))


def refused(guard: JwtAuth, text: str | None) -> str | None:
    """Return the challenge of the 401 that a token leads to; neither handler nor sidecar may have been reached."""
    door, reply = knock(guard, text)
    assert (reply.status, reply.receipt, door.calls, door.judge.questions) == (401, None, 0, [])
    assert reply.json()["error"] == "chio_unauthorized"
    assert text is None or text not in reply.body.decode()
    return reply.header("www-authenticate")


INVALID = 'Bearer realm="chio", error="invalid_token"'


def test_a_valid_token_shows_its_claims_and_makes_the_caller_verified() -> None:
    """B7: for the handler, and for the sidecar."""
    app, client = FastAPI(), StubClient()
    add_chio(app, client=client, guards=[auth()])

    @app.get("/")
    async def handler(request: Request) -> dict[str, Any]:
        caller = request.state.chio_decision.caller
        return {"claims": request.state.chio_claims, "verified": caller.verified, "subject": caller.subject}

    text = token({"tenant": "acme", "agent_id": "agent-7"})
    reply = run(call(app, headers=[("authorization", f"bearer {text}")]))
    assert reply.json()["claims"]["sub"] == "alice"
    assert (reply.json()["verified"], reply.json()["subject"]) == (True, "alice")
    assert client.judge.last["caller"] == {
        "subject": "alice",
        "auth_method": {"method": "bearer", "token_hash": sha256_hex(text.encode())},
        "verified": True,
        "tenant": "acme",
        "agent_id": "agent-7",
    }


def test_claims_of_other_names() -> None:
    door, reply = knock(auth(subject_claim="client_id", tenant_claim="org"), token({"client_id": "svc", "org": "o"}))
    assert reply.status == 200
    assert (door.judge.last["caller"]["subject"], door.judge.last["caller"]["tenant"]) == ("svc", "o")


def test_without_a_token_there_is_a_challenge_and_no_error_code() -> None:
    """B7: RFC 6750, section 3.1."""
    assert refused(auth(), None) == 'Bearer realm="chio"'


def test_without_required_only_an_invalid_token_is_refused() -> None:
    door, reply = knock(auth(required=False), None)
    assert (reply.status, door.judge.last["caller"]["verified"]) == (200, False)
    assert refused(auth(required=False), "garbage") == INVALID


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"nbf": LATER},
        {"aud": "other"},
        {"iss": "https://else.test"},
        {"sub": ""},
        {"sub": None},
        {"exp": None},
        {"iat": "soon"},
    ],
    ids=str,
)
def test_invalid_claims_are_refused(claims: dict[str, Any]) -> None:
    """B7: expired, too early, wrong audience, wrong issuer, no subject, unlimited."""
    payload = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    assert refused(auth(), jwt.encode(payload, SECRET)) == INVALID


def test_leeway_is_what_was_given() -> None:
    text = token({"exp": int(time.time()) - 5})
    assert refused(auth(), text) == INVALID
    assert knock(auth(leeway=60), text)[1].status == 200


def forged() -> Iterator[tuple[str, str]]:
    head, body, signature = token().split(".")
    yield "another secret", token(key="another secret of thirty-six characters")
    yield "a changed payload", ".".join((head, _part({**GOOD, "sub": "mallory"}), signature))
    yield "a changed signature", ".".join((head, body, signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")))
    yield "no signature", f"{head}.{body}."
    yield "alg none", ".".join((_part({"alg": "none", "typ": "JWT"}), body, ""))
    yield "alg NoNe", ".".join((_part({"alg": "NoNe"}), body, signature))
    yield "an algorithm not listed", token(algorithm="HS512")
    yield "two tokens", f"{token()}, Bearer {token()}"
    yield "too long", "x" * 20_000
    yield "no token at all", "x.y"
    yield "an unknown critical header", token(crit=["x"], x=1)


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in forged()])
def test_forged_tokens_are_refused(text: str) -> None:
    """B7: bad signature, `alg: none`."""
    assert refused(auth(), text) == INVALID


def test_a_public_key_is_never_taken_as_a_secret(rsa_key: RSAPrivateKey) -> None:
    """B7: HS256 signed with the text of the public key."""
    pem = public_pem(rsa_key)
    guard = auth(key=pem, algorithms=["RS256"])
    head, body = _part({"alg": "HS256", "typ": "JWT"}), _part(GOOD)
    import hashlib
    import hmac

    mac = hmac.new(pem.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    assert refused(guard, f"{head}.{body}.{signature}") == INVALID
    assert knock(guard, token(key=rsa_key, algorithm="RS256"))[1].status == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithms": []}, "takes a list such as"),
        ({"algorithms": "HS256"}, "takes a list such as"),
        ({"key": "short" * 6}, "at least 32 bytes"),
        ({"key": SECRET[:63], "algorithms": ["HS256", "HS512"]}, "at least 64 bytes"),
        ({"algorithms": ["None"]}, "never 'none'"),
        ({"algorithms": ["HS256", "RS256"]}, "shared secrets .* and public keys at once"),
        ({"jwks_url": "https://issuer.test/keys", "key": None}, "shared secrets .* and public keys at once"),
        ({"jwks_url": "https://issuer.test/keys"}, "either key or jwks_url"),
        ({"key": None}, "either key or jwks_url"),
        ({"jwks_url": "file:///etc/keys", "key": None, "algorithms": ["EdDSA"]}, "http:// or https://"),
    ],
)
def test_what_would_be_unsafe_is_refused_at_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        JwtAuth(**{"key": SECRET, "algorithms": ["HS256"], **options})


# Key sets


class Issuer:
    """Serves a key set on loopback; keys are rotated, the server stopped or made slow."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.fetches = 0
        self.broken = False
        self.slow = threading.Event()
        self.slow.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                issuer.slow.wait(20)
                body = issuer.document()
                self.send_response(500 if issuer.broken else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *what: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/keys"

    def document(self) -> bytes:
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        keys = [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "kid": kid,
                "x": base64.urlsafe_b64encode(key.public_key().public_bytes(*raw)).rstrip(b"=").decode(),
            }
            for kid, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def rotate(self, kid: str) -> None:
        self.keys = {kid: Ed25519PrivateKey.generate()}

    def token(self, kid: str, key: Ed25519PrivateKey | None = None) -> str:
        return token(key=key or self.keys[kid], algorithm="EdDSA", kid=kid)

    def guard(self, **options: Any) -> JwtAuth:
        return auth(**{"jwks_url": self.url, "algorithms": ["EdDSA"], "jwks_cooldown": 0, **options})

    def close(self) -> None:
        self.slow.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.rotate("one")
    yield issuer
    issuer.close()


def statuses(guard: JwtAuth, *steps: Any) -> list[int]:
    """Return what tokens are answered, one after another; a step that can be called is called in between."""

    async def main() -> list[int]:
        door, found = Door(guard), []
        for step in steps:
            if callable(step):
                step()
            else:
                found.append((await door.call(authorization=f"Bearer {step}")).status)
        await guard.aclose()
        return found

    return run(main())


def test_a_new_key_is_picked_up_when_a_token_names_it(issuer: Issuer) -> None:
    """B7: rotation."""
    old = issuer.token("one")
    guard, door_statuses = issuer.guard(), []
    door_statuses += statuses(guard, old, old)
    assert issuer.fetches == 1
    issuer.rotate("two")
    door_statuses += statuses(guard, issuer.token("two"), old)
    assert door_statuses == [200, 200, 200, 401]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_fetches_keys_in_a_thread_of_its_own(issuer: Issuer) -> None:
    guard = issuer.guard()
    door = Door(guard)
    old = f"Bearer {issuer.token('one')}"
    assert run(door.call(authorization=old)).status == 200
    issuer.rotate("two")
    child = os.fork()
    if child == 0:
        os._exit(run(door.call(authorization=f"Bearer {issuer.token('two')}")).status == 200)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    run(guard.aclose())


def test_a_key_that_the_issuer_has_withdrawn_ends_with_its_time(issuer: Issuer) -> None:
    old = issuer.token("one")
    assert statuses(issuer.guard(jwks_lifespan=0.0001), old, lambda: issuer.rotate("two"), old) == [200, 401]


def test_a_token_by_another_key_of_the_same_name_is_refused(issuer: Issuer) -> None:
    assert statuses(issuer.guard(), issuer.token("one", Ed25519PrivateKey.generate())) == [401]


@pytest.mark.parametrize("headers", [{}, {"kid": "../one"}, {"kid": "two"}], ids=str)
def test_tokens_that_name_no_known_key_are_refused(issuer: Issuer, headers: dict[str, Any]) -> None:
    assert statuses(issuer.guard(), token(key=issuer.keys["one"], algorithm="EdDSA", **headers)) == [401]


def test_unknown_keys_cause_one_fetch_in_a_while(issuer: Issuer) -> None:
    """Any client can write a token that names a key."""
    many = [token(key=issuer.keys["one"], algorithm="EdDSA", kid=f"x{number}") for number in range(20)]
    assert statuses(issuer.guard(jwks_cooldown=1000), issuer.token("one"), *many) == [200] + [401] * 20
    assert issuer.fetches == 1


async def test_the_event_loop_goes_on_while_keys_are_fetched_and_one_fetch_serves_all(issuer: Issuer) -> None:
    """B7: without blocking the loop. The issuer answers only after other requests were served."""
    issuer.slow.clear()
    guard = issuer.guard()
    door, other = Door(guard), Door()
    waiting = [asyncio.ensure_future(door.call(authorization=f"Bearer {issuer.token('one')}")) for _ in range(5)]
    cancelled = asyncio.ensure_future(door.call(authorization=f"Bearer {issuer.token('one')}"))
    while not issuer.fetches:
        assert (await other.call()).status == 200
        await asyncio.sleep(0)
    cancelled.cancel()
    assert not any(task.done() for task in waiting)
    issuer.slow.set()
    found = [reply.status for reply in await asyncio.gather(*waiting)]
    await asyncio.gather(cancelled, return_exceptions=True)
    await guard.aclose()
    assert found == [200] * 5
    assert issuer.fetches == 1


def test_without_keys_a_token_is_neither_valid_nor_invalid(issuer: Issuer) -> None:
    """B7: 503, not 401; known keys are still used."""

    def breaks() -> None:
        issuer.broken = True

    def heals() -> None:
        issuer.broken = False

    text, unknown = issuer.token("one"), token(key=issuer.keys["one"], algorithm="EdDSA", kid="x")
    assert statuses(issuer.guard(), breaks, text, heals, text) == [503, 200]
    assert statuses(issuer.guard(), text, breaks, text, unknown, heals) == [200, 200, 503]
    assert statuses(issuer.guard(jwks_lifespan=0.0001), text, breaks, text, heals) == [200, 503]


def test_an_unreachable_issuer_is_not_called_again_at_once(issuer: Issuer) -> None:
    issuer.broken = True
    text = issuer.token("one")
    assert statuses(issuer.guard(jwks_cooldown=1000), *[text] * 5) == [503] * 5
    assert issuer.fetches == 1


def test_keys_over_plain_http_are_reported() -> None:
    def findings(url: str) -> list[str]:
        return [finding.category for finding in JwtAuth(jwks_url=url, algorithms=["EdDSA"]).check()]

    assert findings("http://issuer.test/keys") == ["jwt_keys_plain"]
    assert findings("https://issuer.test/keys") == findings("http://127.0.0.1/keys") == []
