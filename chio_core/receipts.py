"""Accept or reject a receipt: the one place that decides it, without I/O.

A receipt is accepted only if every rule holds, in this order (wire protocol, sections 3.1, 3.6 and 12.3):

1. it is an HttpReceipt;
2. a newer receipt (with `receipt_kind`) has the kind `mediated_decision`, the class `prevent`, the trust level
   `mediated` and no observation, and its id is the hash of the rest;
3. its key is trusted, if keys are given;
4. the signature is that key's, over the canonical bytes of everything else. A signature that a key of this process has
   just made is compared instead of computed: the same key, the same bytes, the same signature;

and if it must belong to a request that was sent:

5. it names the request id;
6. the method;
7. the session;
8. the caller, by hash;
9. the content: method, path, query and body by hash, with the route pattern that the receipt states;
10. that route pattern is the one of the route that will run, or the plain path;
11. it records a decision, not the final response of a proxy;
12. its time is within the tolerance of this clock.

The verdict is not checked here: a receipt of a denial is valid too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.errors import ConfigurationError, InvalidDocument, ReceiptRejected
from chio_core.models.receipt import HttpReceipt, acceptable_pattern, covers
from chio_core.models.request import ChioHttpRequest, content_hash
from chio_core.names import LOGGER
from chio_core.signing import Signed, verify_signature

__all__ = ["Expectation", "ReceiptRejected", "receipt_id_is_valid", "signed_bytes", "verify_receipt"]


_OPTIONAL = ("session_id", "capability_id", "metadata", "observation_outcome")
_OMIT_EMPTY = ("evidence", "actor_chain")
_NEWER = {"receipt_kind": "mediated_decision", "boundary_class": "prevent", "trust_level": "mediated"}

log = logging.getLogger(LOGGER)


@dataclass(slots=True)
class Expectation:
    """The request that a receipt must belong to.

    Attributes:
        request: the request exactly as it was sent to the sidecar.
        caller_hash: `CallerIdentity.identity_hash()` of the caller that was sent.
        template: path template of the route that will run; None if it is unknown.
    """

    request: ChioHttpRequest
    caller_hash: str
    template: str | None = None


def verify_receipt(
    receipt: HttpReceipt | Mapping[str, Any],
    *,
    trusted_keys: Collection[str] | None = None,
    expected: Expectation | None = None,
    now: float | None = None,
    tolerance: float = 60.0,
    signed: Signed | None = None,
) -> HttpReceipt:
    """Return the receipt, typed, if every rule at the top of this module holds.

    Args:
        receipt: the receipt, or its JSON object as it was received (not filtered by a model).
        trusted_keys: public keys in hex that may have signed. None: any key; then the signature only proves that
            the receipt was not changed. With an empty collection every receipt is rejected.
        expected: the request that the receipt must belong to; None for a stored receipt (rules 1 to 4 only).
        now: seconds since 1970; this machine's clock by default.
        tolerance: seconds that the receipt's time may differ from `now`.
        signed: what an embedded sidecar has just signed; any other receipt is verified as without it.

    Raises:
        ReceiptRejected: with the rule that failed.
        ConfigurationError: `trusted_keys` is one string.
    """
    if isinstance(trusted_keys, str):
        raise ConfigurationError("trusted_keys is a collection of public keys, not one string; use a list")
    document = receipt.raw if isinstance(receipt, HttpReceipt) else receipt
    # 1: the type of every member.
    try:
        typed = receipt if isinstance(receipt, HttpReceipt) else HttpReceipt.from_wire(document)
    except InvalidDocument as exc:
        raise ReceiptRejected("shape", exc.message) from None
    # 2: the newer profile has receipts that are no decisions.
    if "receipt_kind" in document:
        for name, value in _NEWER.items():
            if getattr(typed, name) != value:
                raise ReceiptRejected("semantics", f"{name} must be {value!r} and is {getattr(typed, name)!r}")
        if typed.observation_outcome is not None:
            raise ReceiptRejected("semantics", "an observation is not a decision")
        if not receipt_id_is_valid(document):
            raise ReceiptRejected("id", "the receipt id is not the hash of the receipt")
    # 3 and 4: the key before the signature, because a signature proves nothing under a foreign key.
    if trusted_keys is not None and typed.kernel_key not in trusted_keys:
        raise ReceiptRejected("kernel_key", f"the receipt is signed by {typed.kernel_key[:80]!r}, which is not trusted")
    try:
        message = signed_bytes(document)
    except InvalidDocument as exc:
        raise ReceiptRejected("signature", f"the receipt cannot be verified: {exc.message}") from None
    made_here = signed is not None and signed == Signed(typed.kernel_key, message, typed.signature)
    if not made_here and not verify_signature(typed.kernel_key, message, typed.signature):
        raise ReceiptRejected("signature", "the signature does not verify")
    # 5 to 12: the receipt of one request must not open another.
    if expected is not None:
        _check_binding(typed, expected, time.time() if now is None else now, tolerance)
    return typed


def _check_binding(receipt: HttpReceipt, expected: Expectation, now: float, tolerance: float) -> None:
    # An attribute of a pydantic model takes ten times as long to read as its entry in `vars`.
    stated, asked = vars(receipt), vars(expected.request)
    if stated["request_id"] != asked["request_id"]:
        raise ReceiptRejected("request_id", "the receipt belongs to another request")
    method, pattern, path = asked["method"], stated["route_pattern"], asked["path"]
    if stated["method"] != method:
        raise ReceiptRejected("method", f"the receipt is for {receipt.method[:20]!r}, the request is {method}")
    if stated["session_id"] != asked["session_id"]:
        raise ReceiptRejected("session_id", "the receipt belongs to another session")
    if stated["caller_identity_hash"] != expected.caller_hash:
        raise ReceiptRejected("caller_identity_hash", "the receipt belongs to another caller")
    if stated["content_hash"] != content_hash(method, pattern, path, asked["query"], asked["body_hash"]):
        raise ReceiptRejected("content_hash", "the receipt belongs to other content")
    if not acceptable_pattern(pattern, path, expected.template):
        raise ReceiptRejected(
            "route_pattern",
            f"the sidecar evaluated route {pattern[:200]!r}, the application runs {expected.template!r}",
        )
    metadata = stated["metadata"]
    scope = metadata.get("chio_http_status_scope") if isinstance(metadata, dict) else None
    if scope not in (None, "decision"):
        raise ReceiptRejected("scope", "the receipt records a final response, not a decision")
    # The receipt's clock counts whole seconds, so up to one second of difference is rounding.
    timestamp = stated["timestamp"]
    if abs(timestamp - now) > tolerance + 1:
        raise ReceiptRejected(
            "timestamp",
            f"the receipt's time {timestamp} is more than {tolerance:g} s away from this clock ({int(now)})",
        )


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes that the signature of an HttpReceipt covers.

    All members that were received count, also those that this version does not know, except `signature`;
    optional members that are null and empty lists of evidence or actors count as absent. `verdict.outcome` is
    an annotation for people that listings add: it is never signed, and ignored only if it repeats the verdict.

    Raises:
        InvalidDocument: the receipt has no canonical form.
    """
    body = dict(document)
    body.pop("signature", None)
    for name in _OPTIONAL:
        if name in body and body[name] is None:
            del body[name]
    for name in _OMIT_EMPTY:
        if name in body and (body[name] is None or body[name] == []):
            del body[name]
    verdict = body.get("verdict")
    if isinstance(verdict, dict) and "outcome" in verdict and verdict["outcome"] == verdict.get("verdict"):
        body["verdict"] = {name: value for name, value in verdict.items() if name != "outcome"}
    return canonical_json(body)


def receipt_id_is_valid(document: Mapping[str, Any]) -> bool:
    """Return True if the id of a newer receipt is the hash of its body (wire protocol, section 3.6)."""
    try:
        body = signed_bytes({name: value for name, value in document.items() if name != "id"})
    except InvalidDocument:
        return False
    return sha256_hex(body) == document.get("id")


_MAX_NOTED = 1000


class KeyTrust:
    """The trusted kernel keys of one client.

    With pinned keys, exactly those. Without, the key of the first valid receipt is trusted as long as this object
    lives: one warning reports it, and every other key is rejected from then on.

    Args:
        pinned: public keys in hex; empty for trust on first use.
    """

    def __init__(self, pinned: Collection[str] = ()) -> None:
        self._keys: frozenset[str] | None = frozenset(pinned) or None
        self._lock = threading.Lock()
        self._noted: set[str] = set()

    def keys(self) -> frozenset[str] | None:
        """Return the trusted keys; None until the first valid receipt."""
        return self._keys

    def remember(self, key: str) -> None:
        """Trust `key` if no key is trusted yet.

        Two first receipts may arrive at once: the second one must not slip through unchecked.

        Raises:
            ReceiptRejected: another key was trusted in the meantime.
        """
        if self._keys is not None and key in self._keys:
            return
        with self._lock:
            if self._keys is None:
                self._keys = frozenset({key})
                log.warning(
                    "chio: trusting kernel key %s on first use; pin it with CHIO_TRUSTED_KERNEL_KEYS=%s",
                    key,
                    key,
                )
        if key not in self._keys:
            raise ReceiptRejected("kernel_key", "another kernel key was trusted first")

    def note_route(self, pattern: str, expectation: Expectation) -> None:
        """Warn once for each route if the sidecar evaluated the plain path because it does not know the template."""
        template = expectation.template
        if template is None or "{" not in template or template in self._noted:
            return
        path = expectation.request.path
        if pattern != template and pattern == path and len(self._noted) < _MAX_NOTED:
            self._noted.add(template)
            if covers(template, path):
                log.warning(
                    "chio: the sidecar does not know route %s and evaluated the plain path; give it an OpenAPI document"
                    " with this template (for ASGI applications `chio-sidecar openapi` makes one, or says what"
                    " prevents it)",
                    template,
                )
            elif expectation.request.tool_server is None:
                log.warning(
                    "chio: the sidecar cannot match route %s, because a parameter takes several segments or a part of"
                    " one, and evaluated the plain path; require what the route needs in the application",
                    template,
                )
