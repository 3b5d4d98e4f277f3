"""Read, verify and issue capability tokens (wire protocol, sections 5.1 to 5.4).

The rules of `verify_capability`, in this order; the first that fails gives the reason:

1. R2: the text is one JSON object of the token's form, at most `MAX_TOKEN_BYTES` long.
2. R3: the issuer is one of the trusted keys, if any are given.
3. R4: the issuer's signature verifies over the plain form, or, unless that is switched off, over the form with
   `schema`. Members that narrow a token and that this version does not understand (such as `caveats`) make the
   signature fail: ignoring them would allow too much.
4. R5a, R5b: issued_at <= now < expires_at, without leeway.
5. The delegation chain verifies (`verify_delegation_chain`), unless that is switched off. Before a token is used,
   `verify_token_chain` checks more.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from chio_core.canonical import canonical_json, parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.base import WireModel
from chio_core.models.capability import CAPABILITY_SCHEMA, Attenuation, CapabilityToken, ChioScope, DelegationLink
from chio_core.models.receipt import explain
from chio_core.signing import NO_SUBJECT, SigningKey, normalize_public_key, verify_signature

Rule = Literal["R2", "R3", "R4", "R5a", "R5b", "delegation"]
"""The rule that failed: a row of the table in wire protocol, section 1.6, or the chain rules of section 5.4."""


class CapabilityRejected(InvalidDocument):
    """A token that cannot be read or does not verify.

    Attributes:
        reason: the exact text of the protocol; of the token's content it contains only the two times.
        rule: the rule that failed.
    """

    code = "chio_invalid_capability"

    def __init__(self, reason: str, *, rule: Rule = "R2") -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule


class ConstraintError(InvalidDocument):
    """A scope that cannot be evaluated; the request must be refused even if another grant would match.

    Attributes:
        reason: the exact text of the protocol (R6x).
    """

    code = "chio_invalid_capability"

    def __init__(self, detail: str) -> None:
        self.reason = f"failed to evaluate capability scope: {detail}"
        super().__init__(self.reason)


class PatternError(ValueError):
    """A regular expression that does not compile, with the reason."""


DEFAULT_MAX_DEPTH = 8
"""Longest chain that the HTTP substrate accepts, in links."""


def link_signing_text(link: DelegationLink, *, newer: bool = False) -> bytes:
    """Return the canonical JSON that the delegator signs.

    Args:
        link: the link; its signature is ignored.
        newer: include the member `scope_hash`, which newer issuers add.

    Raises:
        InvalidDocument: the link has no canonical form.
    """
    body = link.to_signed()
    body.pop("signature")
    if newer:
        body.update(link.newer_members())
    return canonical_json(body)


def verify_delegation_chain(
    chain: Sequence[DelegationLink], *, max_depth: int = DEFAULT_MAX_DEPTH, accept_newer: bool = True
) -> None:
    """Check the length, and of each link the signature, the connection to the previous one and the order of time.

    Args:
        chain: the links, first delegation first.
        max_depth: longest chain that is accepted.
        accept_newer: also accept a link whose signature covers `scope_hash`.

    Raises:
        CapabilityRejected: with the protocol's text.
    """
    if len(chain) > max_depth:
        raise CapabilityRejected(f"delegation depth {len(chain)} exceeds maximum {max_depth}", rule="delegation")
    before: DelegationLink | None = None
    for index, link in enumerate(chain):
        forms = (False, True) if accept_newer and link.newer_members() else (False,)
        try:
            signed = any(
                verify_signature(link.delegator, link_signing_text(link, newer=form), link.signature) for form in forms
            )
        except InvalidDocument:
            signed = False
        if not signed:
            raise _broken(f"signature invalid at link index {index}")
        if before is not None and before.delegatee != link.delegator:
            raise _broken(f"link {index} delegator does not match link {index - 1} delegatee")
        if before is not None and link.timestamp < before.timestamp:
            own, earlier = f"timestamp ({link.timestamp})", f"timestamp ({before.timestamp})"
            raise _broken(f"link {index} {own} precedes link {index - 1} {earlier}")
        before = link


def verify_token_chain(
    token: CapabilityToken, *, max_depth: int = DEFAULT_MAX_DEPTH, accept_newer: bool = True
) -> None:
    """Check the delegation chain of a token that is used: the protocol's rules, and that the chain is this token's.

    The protocol does not tie a chain to its token. Here the token's issuer must take part in the chain, or the token's
    subject must delegate; every member of a link must be known; and the token must not outlive a `shorten_expiry`.
    What the other attenuations take away is decided for the grant that is used, see
    `chio_core.capabilities.restrictions`.

    Raises:
        CapabilityRejected: with the protocol's text, or one of the same form.
    """
    chain = token.delegation_chain
    verify_delegation_chain(chain, max_depth=max_depth, accept_newer=accept_newer)
    if not chain:
        return
    delegators, delegatees = {link.delegator for link in chain}, {link.delegatee for link in chain}
    if token.issuer not in delegators | delegatees and token.subject not in delegators:
        raise _broken("it belongs to neither the issuer nor the subject of the token")
    for index, link in enumerate(chain):
        if link.has_unknown_members():
            raise _broken(f"link {index} has members that are not known")
        for one in link.attenuations:
            if (
                one.new_expires_at is not None
                and one.type == "shorten_expiry"
                and token.expires_at > one.new_expires_at
            ):
                raise _broken(f"the token outlives what link {index} leaves")


def _broken(text: str) -> CapabilityRejected:
    return CapabilityRejected(f"delegation chain broken: {text}", rule="delegation")


MAX_TOKEN_BYTES = 65_536
"""Longest token text that is read. Every server refuses a header of this size."""

NARROWING = (
    "caveats",
    "scope_attenuations",
    "attenuation_proof",
    "budget_share_bps",
    "aggregate_invocation_budget",
)
"""Members of the newer form that narrow a token; a token with one of them does not verify."""


def parse_capability(text: str | bytes | Mapping[str, Any] | Any) -> CapabilityToken:
    """Read a token; nothing is verified.

    Args:
        text: the JSON text, or the value parsed from it.

    Raises:
        CapabilityRejected: R2. The reason does not repeat the text.
    """
    document = text
    if isinstance(text, (str, bytes)):
        try:
            source = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError:
            raise _unreadable("not UTF-8 text") from None
        if len(source) > MAX_TOKEN_BYTES:
            raise _unreadable(f"longer than {MAX_TOKEN_BYTES} bytes")
        try:
            document = parse_json(source)
        except InvalidDocument as exc:
            # The parser names a duplicate member; that name is content of the token.
            twice = exc.message.startswith("member ")
            raise _unreadable("a member occurs twice in one JSON object" if twice else exc.message) from None
    if not isinstance(document, Mapping):
        raise _unreadable("expected a JSON object")
    try:
        return CapabilityToken.model_validate(dict(document))
    except ValidationError as exc:
        raise _unreadable(explain(exc)) from None


def _unreadable(why: str) -> CapabilityRejected:
    return CapabilityRejected(f"invalid capability token: {why}", rule="R2")


def signing_text(token: CapabilityToken, *, schema_form: bool = False) -> bytes:
    """Return the canonical JSON that a token's signature covers.

    Args:
        token: the token; its signature is ignored.
        schema_form: the newer form, with `schema`, instead of the plain one.

    Raises:
        InvalidDocument: the token has no canonical form.
    """
    body = token.to_signed()
    body.pop("signature")
    body.pop("algorithm", None)
    if schema_form:
        body["schema"] = CAPABILITY_SCHEMA
        for link, signed in zip(token.delegation_chain, body.get("delegation_chain", ()), strict=True):
            signed.update(link.newer_members())
    return canonical_json(body)


def verify_capability(
    token: CapabilityToken | str | bytes | Mapping[str, Any] | Any,
    *,
    trusted_issuers: Collection[str] | None = None,
    now: int | None = None,
    accept_schema_form: bool = True,
    max_delegation_depth: int = DEFAULT_MAX_DEPTH,
    check_delegation: bool = True,
) -> CapabilityToken:
    """Verify a token and return it as a model.

    Args:
        token: the token, its text, or the value parsed from the text.
        trusted_issuers: public keys as hex. None accepts every key: then the result only proves that the token was
            not changed since it was issued, which is no permission.
        now: whole seconds since 1970; None is this machine's clock.
        accept_schema_form: also accept the newer signing form; False is the strict April profile.
        max_delegation_depth: longest chain that is accepted.
        check_delegation: verify the chain; the April profile's evaluate call does not.

    Raises:
        CapabilityRejected: with the protocol's text as `reason`.
        ConfigurationError: `trusted_issuers` is one string, or contains a text that is no public key.
    """
    if not isinstance(token, CapabilityToken):
        token = parse_capability(token)
    # R3: the key before the signature, which proves nothing under a foreign key.
    if trusted_issuers is not None:
        if isinstance(trusted_issuers, str):
            raise ConfigurationError("trusted_issuers is a collection of public keys, not one string; use a list")
        try:
            keys = {normalize_public_key(key) for key in trusted_issuers}
        except InvalidDocument as exc:
            raise ConfigurationError(f"trusted_issuers contains a text that is no key: {exc.message}") from None
        if token.issuer not in keys:
            raise CapabilityRejected("capability issuer is not trusted", rule="R3")
    # R4: Ed25519 only. A newer issuer writes `schema`; trying its form first saves one verification.
    extra = token.model_extra or {}
    narrowed = accept_schema_form and any(extra.get(name) not in (None, [], {}) for name in NARROWING)
    forms = (False, True) if accept_schema_form else (False,)
    try:
        signed = (token.algorithm is None and not narrowed) and any(
            verify_signature(token.issuer, signing_text(token, schema_form=form), token.signature)
            for form in (forms[::-1] if "schema" in extra else forms)
        )
    except InvalidDocument:
        signed = False
    if not signed:
        raise CapabilityRejected("capability signature verification failed", rule="R4")
    # R5a and R5b.
    moment = int(time.time()) if now is None else now
    if moment < token.issued_at:
        text = f"capability not yet valid (not_before: {token.issued_at})"
        raise CapabilityRejected(f"invalid capability token: {text}", rule="R5a")
    if moment >= token.expires_at:
        text = f"capability expired at {token.expires_at}"
        raise CapabilityRejected(f"invalid capability token: {text}", rule="R5b")
    if check_delegation:
        verify_delegation_chain(token.delegation_chain, max_depth=max_delegation_depth, accept_newer=accept_schema_form)
    return token


_Model = TypeVar("_Model", bound=WireModel)

_UNSIGNED = "0" * 128

BACKDATE = 5
"""Seconds by which issuers let a token begin earlier; see `backdated`."""


def backdated(now: int, ttl_seconds: int) -> int:
    """Return when a token that is issued at `now` should begin, both in whole seconds since 1970.

    Verifiers allow no leeway (wire protocol, section 5.3), so a token of an issuer whose clock is ahead would not be
    valid yet: it begins `BACKDATE` seconds earlier, or by a tenth of its life, and does not live longer for it.
    """
    return now - min(BACKDATE, max(0, ttl_seconds) // 10)


def issue_capability(
    key: SigningKey,
    *,
    subject: str,
    scope: ChioScope | Mapping[str, Any],
    ttl_seconds: int,
    now: int | None = None,
    capability_id: str | None = None,
    delegation_chain: Iterable[DelegationLink] = (),
    schema_form: bool = False,
) -> CapabilityToken:
    """Make and sign a token.

    Args:
        key: the issuer's key.
        subject: public key, in hex, of the holder.
        scope: the grants.
        ttl_seconds: validity, at least 1; services set an upper limit.
        now: start of the validity in whole seconds since 1970; None is this machine's clock.
        capability_id: its id; None makes `cap-` and a UUID of version 7.
        delegation_chain: signed links that are put into the token unchanged.
        schema_form: sign the newer form and write `schema`; April verifiers refuse such a token.

    Raises:
        InvalidDocument: the subject is no key, the scope is malformed, or the times are out of range.
    """
    if ttl_seconds < 1:
        raise InvalidDocument("a capability token must be valid for at least 1 second; raise ttl_seconds")
    issued_at = int(time.time()) if now is None else now
    if not capability_id:
        # UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, version, variant and 74 random bits.
        stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
        low = secrets.randbits(62) | 0b10 << 62
        capability_id = f"cap-{uuid.UUID(int=stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | low)}"
    draft = _validated(
        CapabilityToken,
        {
            "id": capability_id,
            "issuer": key.public_hex,
            "subject": subject,
            "scope": scope.to_wire() if isinstance(scope, ChioScope) else dict(scope),
            "issued_at": issued_at,
            "expires_at": issued_at + ttl_seconds,
            "delegation_chain": [link.to_wire() for link in delegation_chain],
            "signature": _UNSIGNED,
        }
        | ({"schema": CAPABILITY_SCHEMA} if schema_form else {}),
    )
    if draft.scope.has_unknown_members():
        raise InvalidDocument("cannot sign this scope: it has members that are not known, which no signature covers")
    return draft.model_copy(update={"signature": key.sign(signing_text(draft, schema_form=schema_form))})


def sign_link(
    key: SigningKey,
    *,
    capability_id: str,
    delegatee: str,
    timestamp: int,
    attenuations: Iterable[Attenuation] = (),
) -> DelegationLink:
    """Make and sign a link by which the holder of `key` delegates a capability.

    Args:
        key: the delegator's key.
        capability_id: id of the delegated capability.
        delegatee: public key, in hex, of the receiver.
        timestamp: whole seconds since 1970.
        attenuations: how the capability is narrowed.

    Raises:
        InvalidDocument: the delegatee is no key, or the timestamp is out of range.
    """
    draft = _validated(
        DelegationLink,
        {
            "capability_id": capability_id,
            "delegator": key.public_hex,
            "delegatee": delegatee,
            "attenuations": [item.to_wire() for item in attenuations],
            "timestamp": timestamp,
            "signature": _UNSIGNED,
        },
    )
    return draft.model_copy(update={"signature": key.sign(link_signing_text(draft))})


def _validated(model: type[_Model], members: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(members)
    except ValidationError as exc:
        text = f"cannot sign this {model.__name__}: {explain(exc)}"
        raise InvalidDocument(NO_SUBJECT if exc.errors()[0]["loc"] == ("subject",) else text) from None
