"""JwtAuth: verify a JSON Web Token, and tell the sidecar who that caller really is (RFC 7519, RFC 8725).

The library PyJWT does it. Algorithms are a list that you give; `none` is never among them. Keys come from you or
from the issuer's key set, see `chio_core.guards.jwt_auth`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import jwt

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Finding
from chio_core.models.caller import AuthMethod, CallerIdentity
from chio_core.names import STATE_CALLER, STATE_CLAIMS
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest

_FETCH_SECONDS = 5.0


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now."""


class KeySet:
    """The keys of one issuer.

    Args:
        url: where its key set is.
        lifespan: seconds that fetched keys count.
        cooldown: seconds between two fetches.

    Raises:
        ConfigurationError: the URL is not http or https.
    """

    def __init__(self, url: str, lifespan: float, cooldown: float) -> None:
        parts = urlsplit(url)
        try:
            # The cache of PyJWT is not used: it blocks all threads during a fetch, and forgets failures.
            self._source = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=_FETCH_SECONDS)
        except jwt.PyJWKClientError:
            raise ConfigurationError("jwks_url must be an http:// or https:// URL") from None
        self.is_private = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._lifespan = lifespan
        self._cooldown = cooldown
        self._keys: dict[str, jwt.PyJWK] = {}
        self._good_until = self._not_before = 0.0
        self._failed = False
        self._fetching: Future[dict[str, jwt.PyJWK]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def get(self, kid: str) -> jwt.PyJWK:
        """Return the key with this id, fetched if need be.

        Raises:
            KeysUnavailable: the issuer cannot be reached.
            jwt.InvalidTokenError: it has no such key.
        """
        if time.monotonic() >= self._good_until or kid not in self._keys:
            fetched = await self._refresh()
            if not fetched and (self._failed or time.monotonic() >= self._good_until):
                raise KeysUnavailable
        if kid not in self._keys:
            raise jwt.InvalidTokenError("the issuer has no such key")
        return self._keys[kid]

    def close(self) -> None:
        """End the thread that fetches; it is made anew when it is needed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> bool:
        fetching = self._fetching
        if fetching is None:
            if time.monotonic() < self._not_before:
                return False
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="chio-jwks")
            fetching = self._fetching = self._thread.submit(self._fetch)
        try:
            # One fetch for all who wait; a request that is cancelled must not take it from the others.
            keys = await asyncio.shield(asyncio.wrap_future(fetching))
        except (jwt.PyJWTError, OSError, ValueError):
            keys = None
        if self._fetching is fetching:
            self._fetched(keys)
        return keys is not None

    def _fetched(self, keys: dict[str, Any] | None) -> None:
        now = time.monotonic()
        self._fetching, self._failed = None, keys is None
        self._not_before = now + self._cooldown
        if keys is not None:
            self._keys, self._good_until = keys, now + self._lifespan

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        return {key.key_id: key for key in self._source.get_signing_keys() if key.key_id is not None}


_MAX_TOKEN = 16 * 1024
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, section 3.2


class JwtAuth:
    """Asks for a valid bearer token; the claims are on `request.state.chio_claims`, the caller is verified.

    Args:
        key: the secret (HS…) or public key (PEM text or a key object) that signs tokens.
        jwks_url: where the issuer publishes its keys, instead of `key`.
        algorithms: what is accepted, for example `["EdDSA"]`.
        issuer, audience: required values of `iss` and `aud`; None does not look at them.
        subject_claim, tenant_claim, agent_claim: which claims become the caller's subject, tenant and agent id.
        leeway: seconds of clock difference.
        required: refuse requests without a token; otherwise they go on as they are.
        jwks_lifespan: seconds that fetched keys count; a key that the issuer has withdrawn ends by then.
        jwks_cooldown: seconds between two fetches, however many tokens name keys that nobody knows.
        priority: place in the chain.

    Raises:
        ConfigurationError: no key or two, a secret that is too short, no algorithms, `none`, or secrets and
            public keys mixed.
    """

    name = "jwt_auth"
    provides = frozenset({"identity"})

    def __init__(
        self,
        *,
        key: Any = None,
        jwks_url: str | None = None,
        algorithms: Sequence[str],
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        subject_claim: str = "sub",
        tenant_claim: str = "tenant",
        agent_claim: str = "agent_id",
        leeway: float = 0,
        required: bool = True,
        jwks_lifespan: float = 300,
        jwks_cooldown: float = 5,
        priority: int = -50,
    ) -> None:
        _check_options(key, jwks_url, algorithms)
        self.priority = priority
        self.enabled = True
        self._key = key
        self._algorithms = list(algorithms)
        self._issuer = issuer
        self._audience = audience
        self._claims = (subject_claim, tenant_claim, agent_claim)
        self._leeway = leeway
        self._required = required
        self._keys = KeySet(jwks_url, jwks_lifespan, jwks_cooldown) if jwks_url else None
        self.waits = self._keys is not None

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 401 for a token that is missing or no good, a 503 when the keys cannot be had."""
        header = request.headers.get("authorization", "")
        token = header[7:].strip() if header[:7].lower() == "bearer " else ""
        if not token:
            return _unauthorized("a bearer token is required", None) if self._required else None
        try:
            claims = await self._verify(token)
        except KeysUnavailable:
            return Denial(
                status=503, code="chio_keys_unavailable", message="the token issuer's keys cannot be fetched",
                guard="local/jwt_auth", headers=(("retry-after", "1"),),
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError):
            return _unauthorized("the bearer token is not valid", "invalid_token")
        caller = self._caller(claims, token)
        if caller is None:
            return _unauthorized("the bearer token names no subject", "invalid_token")
        setattr(request.state, STATE_CLAIMS, claims)
        setattr(request.state, STATE_CALLER, caller)
        return None

    async def _verify(self, token: str) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN:
            raise ValueError("token too long")
        return jwt.decode(
            token,
            await self._signing_key(token),
            algorithms=self._algorithms,
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options={"require": ["exp"], "verify_aud": self._audience is not None},
        )

    async def _signing_key(self, token: str) -> Any:
        if self._keys is None:
            return self._key
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in self._algorithms:
            raise jwt.InvalidAlgorithmError("algorithm not accepted")
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise jwt.InvalidTokenError("a token for a key set names its key")
        return await self._keys.get(kid)

    async def aclose(self) -> None:
        """End the thread that fetches keys."""
        if self._keys is not None:
            self._keys.close()

    def check(self) -> list[Finding]:
        """Return a warning for keys that come over the network in plain text."""
        if self._keys is None or self._keys.is_private:
            return []
        text = "jwt_auth fetches the issuer's keys by plain http: whoever is in between can replace them; use https"
        return [Finding("WARN", "jwt_keys_plain", text)]

    def _caller(self, claims: Mapping[str, Any], token: str) -> CallerIdentity | None:
        subject, tenant, agent = (_text(claims.get(name)) for name in self._claims)
        if subject is None:
            return None
        method = AuthMethod(method="bearer", token_hash=sha256_hex(token.encode()))
        return CallerIdentity(subject=subject, auth_method=method, verified=True, tenant=tenant, agent_id=agent)


def _check_options(key: Any, jwks_url: str | None, algorithms: Sequence[str]) -> None:
    if (key is None) == (jwks_url is None):
        raise ConfigurationError("JwtAuth needs either key or jwks_url")
    if isinstance(algorithms, str) or not algorithms or any(a.lower() == "none" for a in algorithms):
        raise ConfigurationError("JwtAuth(algorithms=…) takes a list such as ['EdDSA'], never 'none'")
    symmetric = [a for a in algorithms if a.startswith("HS")]
    if symmetric and (len(symmetric) != len(algorithms) or jwks_url is not None):
        raise ConfigurationError("JwtAuth cannot accept shared secrets (HS…) and public keys at once")
    least = max((_SECRET_BYTES.get(a, 64) for a in symmetric), default=0)
    if isinstance(key, str | bytes) and len(key.encode() if isinstance(key, str) else key) < least:
        raise ConfigurationError(f"JwtAuth(key=…) must be at least {least} bytes long for {', '.join(symmetric)}")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _unauthorized(message: str, error: str | None) -> Denial:
    # RFC 6750, section 3: no error code when no token was sent at all.
    challenge = 'Bearer realm="chio"' + (f', error="{error}"' if error else "")
    return Denial(
        status=401,
        code="chio_unauthorized",
        message=message,
        guard="local/jwt_auth",
        headers=(("www-authenticate", challenge),),
    )
