"""ChioHttpRequest: the request of `POST /chio/evaluate`, and the caller in it (wire protocol, sections 1.1 and 4).

CallerIdentity and AuthMethod hash each secret: none is sent.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from pydantic import Field, model_validator

from chio_core.canonical import canonical_json, compact_bytes, sha256_hex
from chio_core.models.base import U64, Flag, Text, WireModel

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
        stated = vars(self)
        wire = {"method": stated["method"]}
        for name in _MEMBERS[stated["method"]]:
            wire[name] = stated[name]
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
            subject: a name of the user that never changes, such as a primary key; no address that a user can change.
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
        stated = vars(self)
        wire: dict[str, Any] = {
            "subject": stated["subject"],
            "auth_method": stated["auth_method"].to_wire(),
            "verified": stated["verified"],
        }
        for name in ("tenant", "agent_id"):
            if (value := stated[name]) is not None:
                wire[name] = value
        return wire

    def identity_hash(self) -> str:
        """Return the hash that a receipt must carry for this caller (wire protocol, section 3.5)."""
        if self is _ANONYMOUS:
            return _ANONYMOUS_HASH
        return sha256_hex(canonical_json(self.to_wire(), plain=True))


_ANONYMOUS = CallerIdentity(subject="anonymous", auth_method=AuthMethod(method="anonymous"))
_ANONYMOUS_HASH = sha256_hex(canonical_json(_ANONYMOUS.to_wire()))


Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

METHODS: frozenset[str] = frozenset(get_args(Method))
"""The methods that the protocol knows."""

SAFE_METHODS: frozenset[str] = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that need no capability by default (wire protocol, section 6.3)."""


class ModelMetadata(WireModel):
    """The model on whose behalf a tool is called."""

    model_id: Text
    safety_tier: Literal["low", "standard", "high", "restricted"] | None = None
    provider: Text | None = None
    provenance_class: Literal["asserted", "observed", "verified"] = "asserted"


class ChioHttpRequest(WireModel):
    """One incoming HTTP request, described for a decision.

    Attributes:
        body_hash: SHA-256 hex of the body bytes; None for an empty body.
        body_length: number of bytes that were read, not a header's claim.
        timestamp: whole seconds since 1970, by the client's clock.
        governed_intent: the approval that the route demands, see `chio_core.models.demands.ApprovalDemand`. The
            protocol's newer state reserves this name and `approval_token`.
        approval_token: the approval that the caller presents: its id, or a GovernedApprovalToken object.
        budget: what the request spends, see `chio_core.models.demands.BudgetDemand`; unknown to other sidecars.
        further_to: id of the receipt that allowed this request before, if the route has another demand, see
            `chio_core.evaluation.exchange`; unknown to other sidecars.
        enforcement: `{"mode": "observe", "requires"?, "lacks"?, "refused"?: "413 …", "framework"?: "flask",
            "view"?: "shop.buy"}` if the application only observes; `lacks` are operations that the capability does not
            grant, and `refused` is the refusal of a request that is not evaluated otherwise.
    """

    request_id: Text
    method: Method
    route_pattern: Text
    path: Text
    query: dict[str, Text] = Field(default_factory=dict)
    headers: dict[str, Text] = Field(default_factory=dict)
    caller: CallerIdentity
    body_hash: Text | None = None
    body_length: U64 = 0
    session_id: Text | None = None
    capability_id: Text | None = None
    tool_server: Text | None = None
    tool_name: Text | None = None
    arguments: Any = None
    model_metadata: ModelMetadata | None = None
    timestamp: U64
    governed_intent: dict[str, Any] | None = None
    approval_token: Any = None
    budget: dict[str, Any] | None = None
    further_to: Text | None = None
    enforcement: dict[str, Any] | None = None

    @classmethod
    def of_checked(cls, members: dict[str, Any]) -> ChioHttpRequest:
        """Return a request without validating it: all types are known to be right, as in `chio_core.request`.

        Args:
            members: every field, in protocol order; it becomes a part of the request.
        """
        request = cls.__new__(cls)
        put = object.__setattr__  # the class is frozen
        put(request, "__dict__", members)
        put(request, "__pydantic_fields_set__", _FIELDS)  # the same for all: nothing writes to it in a frozen class
        put(request, "__pydantic_extra__", {})
        put(request, "__pydantic_private__", None)
        return request

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object in protocol order, which is the order of the fields above."""
        wire = {name: value for name, value in self.__dict__.items() if value is not None}
        for name in ("query", "headers"):
            if not wire[name]:
                del wire[name]
        wire["caller"] = wire["caller"].to_wire()
        if "model_metadata" in wire:
            wire["model_metadata"] = wire["model_metadata"].to_wire()
        if extra := self.__pydantic_extra__:
            wire.update(extra)
        return wire

    def encode(self) -> bytes:
        """Return the same as compact JSON."""
        wire = self.to_wire()
        return compact_bytes(wire, plain=_OF_TEXTS.issuperset(wire))

    def content_hash(self, route_pattern: str) -> str:
        """Return the content hash that a receipt must carry (wire protocol, section 3.4).

        Args:
            route_pattern: the pattern that the receipt states.
        """
        return content_hash(self.method, route_pattern, self.path, self.query, self.body_hash)


_FIELDS: Final = set(ChioHttpRequest.model_fields)

_OF_TEXTS: Final = frozenset(_FIELDS) - {
    "arguments", "governed_intent", "approval_token", "budget", "enforcement", "model_metadata",
}  # fmt: skip
"""The members that consist of strings and integers."""


def content_hash(method: str, route_pattern: str, path: str, query: dict[str, str], body_hash: str | None) -> str:
    """Return SHA-256 over the canonical binding of a request (wire protocol, section 3.4)."""
    binding = {
        "method": method,
        "route_pattern": route_pattern,
        "path": path,
        "query": query,
        "body_hash": body_hash,
    }
    return sha256_hex(canonical_json(binding, plain=True))
