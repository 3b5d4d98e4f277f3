"""Behaviours: what a scripted sidecar does with a request, each as one small object with a name.

`BEHAVIOURS` has those that tests of applications need. `deny`, `verdict`, `status`, `signed_wrongly` and
`changed_after_signing` make further ones, and any other is a `Behaviour` with its own `reply` and `delivery`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.models.demands import CAPABILITY_GUARD, POLICY_GUARD
from chio_core.models.request import CallerIdentity
from chio_core.signing import SigningKey
from chio_core.testing.exchange import ALLOW as ALLOW_VERDICT
from chio_core.testing.exchange import DENY as DENY_VERDICT
from chio_core.testing.exchange import SCRIPTED, EvaluateRequest, compact

JSON_TYPE = (("content-type", "application/json"),)
HOUR = 3600
FOREIGN = SigningKey(bytes([0x66]) * 32)
"""A key that no application trusts; it signs what a forger would sign."""


class Ending(Enum):
    """How a delivery may stop before its end."""

    RESET = "reset"  # TCP RST
    CLOSE = "close"  # TCP FIN
    HANG = "hang"  # nothing more comes, and the connection stays open


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait of `seconds` between two pieces."""

    seconds: float


Step = bytes | Pause | Ending
Delivery = Callable[[bytes, bytes], Iterator[Step]]
"""Takes the head and the body of an HTTP response; yields the steps that deliver it.

A socket server carries them out literally; without a socket the client gets the outcome that a socket would have given.
"""


def whole(head: bytes, body: bytes) -> Iterator[Step]:
    """Deliver everything at once."""
    yield head + body


def hanging(head: bytes, body: bytes) -> Iterator[Step]:
    """Deliver nothing, and keep the connection open."""
    yield Ending.HANG


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response before it is sent.

    Attributes:
        headers: without `content-length`, which the sidecar adds.
        kept: a receipt that the sidecar stores although the response does not carry it.
    """

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = JSON_TYPE
    kept: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the sidecar does with one request.

    Attributes:
        name: short, unique, in snake_case.
        summary: one sentence for people.
        reply: makes the response from the request.
        delivery: how the response comes over the wire.
        refuses: connections are not accepted at all.
        slow: the whole response takes longer than any test waits.
    """

    name: str
    summary: str
    reply: Callable[[EvaluateRequest], Reply] = field(repr=False)
    delivery: Delivery = field(default=whole, repr=False)
    refuses: bool = False
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def allow_reply(request: EvaluateRequest) -> Reply:
    """Return the genuine allow."""
    return Reply(request.response_bytes())


def verdict(name: str, summary: str, document: Mapping[str, Any], **changes: Any) -> Behaviour:
    """Return a behaviour that gives this verdict, in the response and in a good receipt.

    Args:
        document: the verdict object.
        changes: passed to `EvaluateRequest.response`, for example `newer=True`.
    """
    return Behaviour(name, summary, lambda request: Reply(request.response_bytes(document, **changes)))


def deny(reason: str = DENY_VERDICT["reason"], *, status: int = 403, guard: str = CAPABILITY_GUARD) -> Behaviour:
    """Return a behaviour that denies with this reason, status and guard."""
    document = {"verdict": "deny", "reason": reason, "guard": guard, "http_status": status}
    return verdict(f"deny_{status}", f"Denies with status {status}.", document)


def status(code: int, headers: tuple[tuple[str, str], ...] = ()) -> Behaviour:
    """Return a behaviour that responds with this status and a genuine allow in the body."""
    summary = f"Responds with status {code}, a good allow in the body."
    return Behaviour(
        f"status_{code}", summary, lambda request: Reply(request.response_bytes(), code, (*JSON_TYPE, *headers))
    )


def error(code: int, document: Mapping[str, Any]) -> Behaviour:
    """Return a behaviour that responds with an error of the protocol (wire protocol, section 1.8)."""
    name = str(document["error"]).removeprefix("chio_")
    return Behaviour(name, f"Responds {code} {document['error']}.", lambda _: Reply(compact(document), code))


def signed_wrongly(name: str, summary: str, **changes: Any) -> Behaviour:
    """Return a behaviour that allows with a receipt that the sidecar's key signed, but with other members.

    Args:
        changes: members of the receipt; a function is called with the request.
    """

    def reply(request: EvaluateRequest) -> Reply:
        members = {key: value(request) if callable(value) else value for key, value in changes.items()}
        return Reply(request.response_bytes(**members))

    return Behaviour(name, summary, reply)


def changed_after_signing(name: str, summary: str, change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """Return a behaviour that allows with a receipt that was changed after it was signed.

    Args:
        change: changes the receipt in place.
    """

    def reply(request: EvaluateRequest) -> Reply:
        receipt = request.receipt()
        change(receipt)
        return Reply(compact(request.response(receipt=receipt)))

    return Behaviour(name, summary, reply)


def mixed(name: str, summary: str, top: Mapping[str, Any], inner: Mapping[str, Any]) -> Behaviour:
    """Return a behaviour that gives one verdict in the response and another in the receipt."""
    return Behaviour(
        name, summary, lambda request: Reply(compact(request.response(top, receipt=request.receipt(inner))))
    )


def _by_name(*behaviours: Behaviour) -> Mapping[str, Behaviour]:
    return MappingProxyType({one.name: one for one in behaviours})


ALLOW = Behaviour("allow", "Allows, with a good receipt.", allow_reply)
DENY = verdict("deny", "Denies with status 403.", DENY_VERDICT)
IGNORES_DEMANDS = verdict("allow_ignoring_demands", "Allows, without evidence about approvals and budgets.",
                          ALLOW_VERDICT, evidence=[dict(SCRIPTED)])  # fmt: skip
CANCEL = verdict("cancel", "Gives up on the request.", {"verdict": "cancel", "reason": "the kernel is stopping"})
INCOMPLETE = verdict("incomplete", "Wants more.", {"verdict": "incomplete", "reason": "a nonce must be presented"})
UNKNOWN_VERDICT = verdict("unknown_verdict", "Gives a verdict that the protocol does not have.", {"verdict": "permit"})
REFUSE = Behaviour("refuse_connections", "Accepts no connection.", allow_reply, refuses=True)
HANG = Behaviour("hang", "Reads the request and never responds.", allow_reply, hanging, slow=True)

TAMPERINGS: Mapping[str, Behaviour] = _by_name(
    mixed("deny_receipt_under_allow", "Says allow; the receipt says deny.", ALLOW_VERDICT, DENY_VERDICT),
    mixed("allow_receipt_under_deny", "Says deny; the receipt says allow.", DENY_VERDICT, ALLOW_VERDICT),
    Behaviour("foreign_key", "The receipt is good, but signed with a key that no application trusts.",
              lambda request: Reply(compact(request.response(receipt=request.receipt(key=FOREIGN))))),
    signed_wrongly("wrong_request_id", "The receipt is for another request id.", request_id="another-request"),
    signed_wrongly("wrong_method", "The receipt is for another method.",
                   method=lambda request: "GET" if request.method != "GET" else "DELETE"),
    signed_wrongly("wrong_caller", "The receipt is for another caller.",
                   caller_identity_hash=lambda _: CallerIdentity.bearer("another caller").identity_hash()),
    signed_wrongly("wrong_content", "The receipt is for another body.",
                   content_hash=lambda request: sha256_hex(request.content_hash().encode())),
    signed_wrongly("wrong_route", "The receipt is for the rule of another route.", route_pattern="/admin/{a}/b"),
    signed_wrongly("wrong_session", "The receipt is for a session that the request does not name.",
                   session_id="another-session"),
    signed_wrongly("stale", "The receipt is an hour old.", timestamp=lambda request: int(request.now) - HOUR),
    signed_wrongly("from_the_future", "The receipt is an hour ahead.",
                   timestamp=lambda request: int(request.now) + HOUR),
    signed_wrongly("final_scope", "The receipt records a final response, no decision.",
                   metadata={"chio_http_status_scope": "final", "chio_decision_receipt_id": "x"}),
    changed_after_signing("bad_signature", "The signature is not this receipt's.",
                          lambda receipt: receipt.update(signature="5a" * 64)),
    changed_after_signing("signature_missing", "The receipt is not signed.",
                          lambda receipt: receipt.pop("signature")),
    changed_after_signing("changed_status", "A member was changed after signing.",
                          lambda receipt: receipt.update(response_status=201)),
    changed_after_signing("added_member", "A member was added after signing.",
                          lambda receipt: receipt.update(note="harmless")),
    changed_after_signing("removed_evidence", "The evidence was taken out after signing.",
                          lambda receipt: receipt.pop("evidence")),
)  # fmt: skip
"""Allows whose receipt must not count, by name: at least one for each rule that a receipt must obey."""

BEHAVIOURS: Mapping[str, Behaviour] = MappingProxyType({
    **_by_name(
        ALLOW,
        IGNORES_DEMANDS,
        DENY,
        CANCEL,
        INCOMPLETE,
        UNKNOWN_VERDICT,
        status(401),
        status(403),
        status(429),
        status(500),
        status(503),
        error(400, {"error": "chio_bad_request", "message": "invalid ChioHttpRequest payload: scripted"}),
        error(500, {"error": "chio_evaluation_failed", "message": "evaluation failed: scripted"}),
        error(500, {"error": "chio_receipt_persistence_failed", "message": "receipt persistence failed: disk full"}),
        Behaviour("not_json", "Responds 200 with text under the name of JSON.", lambda _: Reply(b"allow")),
        REFUSE,
        HANG,
    ),
    **TAMPERINGS,
})  # fmt: skip
"""Every behaviour of this module by its name, in a fixed order."""


def behaviour(name: str, among: Mapping[str, Behaviour] = BEHAVIOURS) -> Behaviour:
    """Return the behaviour of this name.

    Raises:
        ConfigurationError: no behaviour has this name; the message names the nearest.
    """
    found = among.get(name)
    if found is None:
        near = difflib.get_close_matches(name, among, n=1)
        raise ConfigurationError(f"no behaviour is called {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """A behaviour for some requests; None is any method, path (see `EvaluateRequest.is_about`) or required tool."""

    method: str | None
    path: str | None
    requires: str | None
    behaviour: Behaviour


@dataclass(frozen=True, slots=True)
class Plan:
    """What a test has told its sidecar.

    Attributes:
        rules: the last one that covers a request counts.
        fault: the behaviour for every request, whatever the rules say.
        delay: seconds before each response.
    """

    rules: tuple[Rule, ...] = ()
    fault: Behaviour | None = None
    delay: float = 0.0

    @property
    def down(self) -> bool:
        """True if the sidecar accepts no connection."""
        return self.fault is not None and self.fault.refuses

    def behaviour_for(self, request: EvaluateRequest) -> Behaviour | None:
        """Return the behaviour for a request; None if the test said nothing about it."""
        if self.fault is not None:
            return self.fault
        for rule in reversed(self.rules):
            if request.is_about(rule.method, rule.path) and rule.requires in (None, request.requires):
                return rule.behaviour
        return None


def _allow_as_told(request: EvaluateRequest) -> Reply:
    told = "allowed by the test"
    policy = {"guard_name": POLICY_GUARD, "verdict": True, "details": told}
    return Reply(request.response_bytes(evidence=[policy, *request.demands_met(told)]))


ALLOW_AS_TOLD = Behaviour("allow_as_told", "Allows, because the test says so.", _allow_as_told)
