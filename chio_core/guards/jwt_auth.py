"""JwtAuth: verify a JSON Web Token, and send the sidecar the verified caller (RFC 7519, RFC 8725).

PyJWT verifies the token. The application lists the accepted algorithms; `none` is never accepted. The key is given, or
comes from the issuer's key set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import jwt

from chio_core.canonical import sha256_hex
from chio_core.concurrency.processes import PerProcess
from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Finding
from chio_core.models.request import AuthMethod, CallerIdentity
from chio_core.names import STATE_CALLER, STATE_CLAIMS
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest

_FETCH_SECONDS = 5.0


class KeysUnavailable(Exception):
    """The issuer's keys cannot be fetched now."""


class _Fetcher:
    """The thread of one process that fetches keys, and the fetch that is under way."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="chio-jwks")
        self.fetching: Future[dict[str, jwt.PyJWK]] | None = None


class KeySet:
    """The keys of one issuer.

    Args:
        url: address of its key set.
        lifespan: seconds for which fetched keys are used.
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
        self._own = PerProcess(_Fetcher)

    async def get(self, kid: str) -> jwt.PyJWK:
        """Return the key with this id, fetched if need be.

        Raises:
            KeysUnavailable: the issuer cannot be reached.
            jwt.InvalidTokenError: it has no such key.
        """
        if time.monotonic() >= self._good_until or kid not in self._keys:
            own = self._own.get()
            fetching = own.fetching
            if fetching is None and time.monotonic() >= self._not_before:
                fetching = own.fetching = own.thread.submit(self._fetch)
            fetched = False
            if fetching is not None:
                try:
                    # One fetch for all waiting requests: a cancelled request must not cancel it for the others.
                    keys = await asyncio.shield(asyncio.wrap_future(fetching))
                    fetched = True
                except (jwt.PyJWTError, OSError, ValueError):
                    keys = {}
                if own.fetching is fetching:  # the first request that resumes stores the result
                    own.fetching, self._failed = None, not fetched
                    self._not_before = time.monotonic() + self._cooldown
                    if fetched:
                        self._keys, self._good_until = keys, time.monotonic() + self._lifespan
            if not fetched and (self._failed or time.monotonic() >= self._good_until):
                raise KeysUnavailable
        if kid not in self._keys:
            raise jwt.InvalidTokenError("the issuer has no such key")
        return self._keys[kid]

    def close(self) -> None:
        """End the fetching thread; the next fetch starts another one."""
        own = self._own.take()
        if own is not None:
            own.thread.shutdown(wait=False, cancel_futures=True)

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        return {key.key_id: key for key in self._source.get_signing_keys() if key.key_id is not None}


_MAX_TOKEN = 16 * 1024
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, section 3.2


class JwtAuth:
    """Requires a valid bearer token; its claims are on `request.state.chio_claims`, and the caller is verified.

    Args:
        key: the secret (HS…) or public key (PEM text or a key object) that signs tokens.
        jwks_url: where the issuer publishes its keys, instead of `key`.
        algorithms: accepted algorithms, for example `["EdDSA"]`.
        issuer, audience: required values of `iss` and `aud`; None does not check them.
        subject_claim, tenant_claim, agent_claim: which claims become the caller's subject, tenant and agent id.
        leeway: seconds of clock difference.
        required: refuse requests without a token; otherwise they continue unchanged.
        jwks_lifespan: seconds for which fetched keys are used; a withdrawn key is accepted no longer than that.
        jwks_cooldown: seconds between two fetches, however many tokens name unknown keys.
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
        if (key is None) == (jwks_url is None):
            raise ConfigurationError("JwtAuth needs either key or jwks_url")
        if isinstance(algorithms, str) or not algorithms or any(a.lower() == "none" for a in algorithms):
            raise ConfigurationError("JwtAuth(algorithms=…) takes a list such as ['EdDSA'], never 'none'")
        # RFC 8725, section 3.1: with both kinds accepted, a public key could be used as a shared secret.
        symmetric = [a for a in algorithms if a.startswith("HS")]
        if symmetric and (len(symmetric) != len(algorithms) or jwks_url is not None):
            raise ConfigurationError("JwtAuth cannot accept shared secrets (HS…) and public keys at once")
        least = max((_SECRET_BYTES.get(a, 64) for a in symmetric), default=0)
        if isinstance(key, str | bytes) and len(key.encode() if isinstance(key, str) else key) < least:
            raise ConfigurationError(f"JwtAuth(key=…) must be at least {least} bytes long for {', '.join(symmetric)}")
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
        """Return a 401 for a missing or invalid token, a 503 if the keys cannot be fetched."""
        header = request.headers.get("authorization", "")
        token = header[7:].strip() if header[:7].lower() == "bearer " else ""
        if not token:
            return _unauthorized("a bearer token is required", None) if self._required else None
        try:
            if len(token) > _MAX_TOKEN:
                raise ValueError("token too long")
            key = self._key
            if self._keys is not None:
                # Only an acceptable token may cause a fetch of the key set.
                unverified = jwt.get_unverified_header(token)
                if unverified.get("alg") not in self._algorithms:
                    raise jwt.InvalidAlgorithmError("algorithm not accepted")
                if not isinstance(unverified.get("kid"), str):
                    raise jwt.InvalidTokenError("a token for a key set names its key")
                key = await self._keys.get(unverified["kid"])
            claims = jwt.decode(
                token, key, algorithms=self._algorithms, issuer=self._issuer, audience=self._audience,
                leeway=self._leeway, options={"require": ["exp"], "verify_aud": self._audience is not None},
            )  # fmt: skip
        except KeysUnavailable:
            return Denial(
                status=503, code="chio_keys_unavailable", message="the token issuer's keys cannot be fetched",
                guard="local/jwt_auth", headers=(("retry-after", "1"),),
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError):
            return _unauthorized("the bearer token is not valid", "invalid_token")
        values = [claims.get(name) for name in self._claims]
        subject, tenant, agent = (value if isinstance(value, str) and value else None for value in values)
        if subject is None:
            return _unauthorized("the bearer token names no subject", "invalid_token")
        method = AuthMethod(method="bearer", token_hash=sha256_hex(token.encode()))
        caller = CallerIdentity(subject=subject, auth_method=method, verified=True, tenant=tenant, agent_id=agent)
        setattr(request.state, STATE_CLAIMS, claims)
        setattr(request.state, STATE_CALLER, caller)
        return None

    async def aclose(self) -> None:
        """End the fetching thread."""
        if self._keys is not None:
            self._keys.close()

    def check(self) -> list[Finding]:
        """Return a warning if keys come over the network in plain text."""
        if self._keys is None or self._keys.is_private:
            return []
        text = "jwt_auth fetches the issuer's keys by plain http: anyone on the way can replace them; use https"
        return [Finding("WARN", "jwt_keys_plain", text)]


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
