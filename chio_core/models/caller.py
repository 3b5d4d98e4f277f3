"""CallerIdentity and AuthMethod (wire protocol, section 4). Secrets are hashed, never sent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models.base import Flag, Text, WireModel

_MEMBERS: dict[str, tuple[str, ...]] = {
    "bearer": ("token_hash",),
    "api_key": ("key_name", "key_hash"),
    "cookie": ("cookie_name", "cookie_hash"),
    "mtls_certificate": ("subject_dn", "fingerprint"),
    "anonymous": (),
}


class AuthMethod(WireModel):
    """How the caller authenticated. Only the members of the named method are kept."""

    method: Literal["bearer", "api_key", "cookie", "mtls_certificate", "anonymous"]
    token_hash: Text | None = None
    key_name: Text | None = None
    key_hash: Text | None = None
    cookie_name: Text | None = None
    cookie_hash: Text | None = None
    subject_dn: Text | None = None
    fingerprint: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_members_only(cls, data: Any) -> Any:
        method = data.get("method") if isinstance(data, dict) else None
        if not isinstance(method, str) or method not in _MEMBERS:
            return data
        wanted = _MEMBERS[method]
        missing = [name for name in wanted if data.get(name) is None]
        if missing:
            raise ValueError(f"auth method {method} needs {', '.join(missing)}")
        return {"method": method} | {name: data[name] for name in wanted}

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object with the members of this method."""
        wire: dict[str, Any] = {"method": self.method}
        for name in _MEMBERS[self.method]:
            wire[name] = getattr(self, name)
        return wire


class CallerIdentity(WireModel):
    """The caller in the sidecar's request.

    Attributes:
        subject: name of the caller; for an unverified secret the 64 hex digits of its SHA-256.
        verified: the application verified the claim (a JWT, a client certificate).
    """

    subject: Text
    auth_method: AuthMethod
    verified: Flag = False
    tenant: Text | None = None
    agent_id: Text | None = None

    @classmethod
    def anonymous(cls) -> CallerIdentity:
        """Return the caller of a request that carries no credential."""
        return _ANONYMOUS

    @classmethod
    def bearer(cls, token: str) -> CallerIdentity:
        """Return the unverified caller that sent this bearer token."""
        digest = sha256_hex(token.encode())
        return cls(subject=digest, auth_method=AuthMethod(method="bearer", token_hash=digest))

    @classmethod
    def api_key(cls, name: str, key: str) -> CallerIdentity:
        """Return the unverified caller that sent `key` in the header `name`."""
        digest = sha256_hex(key.encode())
        method = AuthMethod(method="api_key", key_name=name.lower(), key_hash=digest)
        return cls(subject=digest, auth_method=method)

    @classmethod
    def cookie(cls, name: str, value: str) -> CallerIdentity:
        """Return the unverified caller that sent the cookie `name`."""
        digest = sha256_hex(value.encode())
        method = AuthMethod(method="cookie", cookie_name=name, cookie_hash=digest)
        return cls(subject=digest, auth_method=method)

    @classmethod
    def mtls(cls, subject_dn: str, fingerprint: str) -> CallerIdentity:
        """Return the caller whose client certificate the server verified (fingerprint: SHA-256 hex)."""
        method = AuthMethod(method="mtls_certificate", subject_dn=subject_dn, fingerprint=fingerprint)
        return cls(subject=subject_dn, auth_method=method, verified=True)

    @classmethod
    def user(cls, subject: str, *, credential: str = "", tenant: str | None = None) -> CallerIdentity:
        """Return the caller whose name the application has verified, for example from its session.

        Args:
            subject: what names the user for good, such as a primary key; no address that a user can change.
            credential: what the request has proven it with; only its hash is kept.
            tenant: the organisation within which `subject` is unique.
        """
        method = AuthMethod(method="bearer", token_hash=sha256_hex(credential.encode()))
        return cls(subject=subject, auth_method=method, verified=True, tenant=tenant)

    @property
    def holder(self) -> str | None:
        """The text by which a capability is bound to this caller, 64 hex digits; None for the anonymous caller.

        It names a verified caller (a JWT's subject, a user of a session) whatever proves it, and of an unverified one
        the credential itself: then a capability ends with the bearer token, key or session that it was issued to.
        """
        if self.auth_method.method == "anonymous":
            return None
        who: Any = self.auth_method.to_wire()
        if self.verified:
            known = {"subject": self.subject, "tenant": self.tenant, "agent_id": self.agent_id}
            who = {name: value for name, value in known.items() if value is not None}
        return sha256_hex(canonical_json({"chio_holder": who}))

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object; `verified` is always written."""
        wire: dict[str, Any] = {
            "subject": self.subject,
            "auth_method": self.auth_method.to_wire(),
            "verified": self.verified,
        }
        for name in ("tenant", "agent_id"):
            if (value := getattr(self, name)) is not None:
                wire[name] = value
        return wire

    def identity_hash(self) -> str:
        """Return the hash that a receipt must carry for this caller (wire protocol, section 3.5)."""
        if self is _ANONYMOUS:
            return _ANONYMOUS_HASH
        wire = self.to_wire()
        return _ANONYMOUS_HASH if wire == _ANONYMOUS_WIRE else sha256_hex(canonical_json(wire))


_ANONYMOUS = CallerIdentity(subject="anonymous", auth_method=AuthMethod(method="anonymous"))
_ANONYMOUS_WIRE = _ANONYMOUS.to_wire()
_ANONYMOUS_HASH = sha256_hex(canonical_json(_ANONYMOUS_WIRE))
