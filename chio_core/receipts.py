"""Accepting a receipt: the one place where that is decided, without any I/O.

A receipt counts only if every rule holds, in this order (wire protocol, sections 3.1, 3.6 and 12.3):

 1. it is an HttpReceipt;
 2. newer receipts (those with `receipt_kind`): kind `mediated_decision`, class `prevent`, trust `mediated`, no
    observation; and the id is the hash of the rest;
 3. the key that it names is one that we trust, when keys are given;
 4. the signature is that key's, over the canonical bytes of everything else;
 and when it must belong to a request that we sent:
 5. it names the request id that we sent;
 6. the method;
 7. the session;
 8. the caller, by hash;
 9. the content: method, path, query and body by hash, with the route pattern that the receipt states;
10. that route pattern is the one of the route that will run, or the plain path;
11. it records a decision, not the final answer of a proxy;
12. its time is within the tolerance of our clock.

Whether the verdict is `allow` is not asked here: a receipt of a denial is as good a receipt.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import canonical_parsed, sha256_hex
from chio_core.errors import ConfigurationError, InvalidDocument, ReceiptRejected
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_core.names import LOGGER
from chio_core.signing import verify_signature
from chio_core.templates import acceptable_pattern

__all__ = ["Expectation", "ReceiptRejected", "receipt_id_is_valid", "signed_bytes", "verify_receipt"]


_OPTIONAL = ("session_id", "capability_id", "metadata", "observation_outcome")
_OMIT_EMPTY = ("evidence", "actor_chain")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a receipt must be about.

    Attributes:
        request: the request exactly as it was sent to the sidecar.
        caller_hash: `CallerIdentity.identity_hash()` of the caller that was sent.
        template: path template of the route that will run; None when nobody can tell.
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
) -> HttpReceipt:
    """Return the receipt, typed, if every rule at the top of this module holds.

    Args:
        receipt: the receipt, or the parsed JSON object as it was received (never narrowed by a model).
        trusted_keys: public keys in hex that may have signed. None: any key; then the signature only shows that
            the receipt was not changed. An empty collection trusts nobody.
        expected: the request that the receipt must belong to; None for a stored receipt (rules 1 to 4 only).
        now: seconds since 1970; the clock by default.
        tolerance: seconds that the receipt's time may differ from `now`.

    Raises:
        ReceiptRejected: naming the rule that failed.
        ConfigurationError: `trusted_keys` is one string.
    """
    if isinstance(trusted_keys, str):
        raise ConfigurationError("trusted_keys is a collection of public keys, not one string; use a list")
    document = receipt.raw if isinstance(receipt, HttpReceipt) else receipt
    try:
        typed = receipt if isinstance(receipt, HttpReceipt) else HttpReceipt.from_wire(document)
    except InvalidDocument as exc:
        raise ReceiptRejected("shape", exc.message) from None
    if "receipt_kind" in document:
        _check_newer_semantics(typed, document)
    if trusted_keys is not None and typed.kernel_key not in trusted_keys:
        raise ReceiptRejected("kernel_key", f"the receipt is signed by {typed.kernel_key[:80]!r}, which is not trusted")
    _check_signature(typed, document)
    if expected is not None:
        _check_binding(typed, expected)
        _check_time(typed.timestamp, time.time() if now is None else now, tolerance)
    return typed


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes that the signature of an HttpReceipt covers.

    Everything that was read counts, also members that this version does not know, except `signature`;
    optional members that are null and empty lists of evidence or actors count as absent. `verdict.outcome` is
    an annotation that listings add for people; it is never signed, and ignored only where it repeats the
    verdict.

    Raises:
        InvalidDocument: the receipt has no canonical form.
    """
    body = {
        name: value
        for name, value in document.items()
        if name != "signature"
        and not (value is None and name in _OPTIONAL)
        and not (name in _OMIT_EMPTY and (value is None or value == []))
    }
    verdict = body.get("verdict")
    if isinstance(verdict, dict) and "outcome" in verdict and verdict["outcome"] == verdict.get("verdict"):
        body["verdict"] = {name: value for name, value in verdict.items() if name != "outcome"}
    return canonical_parsed(body)


def receipt_id_is_valid(document: Mapping[str, Any]) -> bool:
    """Tell whether the id of a newer receipt is the hash of its body (wire protocol, section 3.6)."""
    try:
        body = signed_bytes({name: value for name, value in document.items() if name != "id"})
    except InvalidDocument:
        return False
    return sha256_hex(body) == document.get("id")


def _check_newer_semantics(receipt: HttpReceipt, document: Mapping[str, Any]) -> None:
    wanted = {"receipt_kind": "mediated_decision", "boundary_class": "prevent", "trust_level": "mediated"}
    for name, value in wanted.items():
        if getattr(receipt, name) != value:
            raise ReceiptRejected("semantics", f"{name} must be {value!r} and is {getattr(receipt, name)!r}")
    if receipt.observation_outcome is not None:
        raise ReceiptRejected("semantics", "an observation is not a decision")
    if not receipt_id_is_valid(document):
        raise ReceiptRejected("id", "the receipt id is not the hash of the receipt")


def _check_signature(receipt: HttpReceipt, document: Mapping[str, Any]) -> None:
    try:
        message = signed_bytes(document)
    except InvalidDocument as exc:
        raise ReceiptRejected("signature", f"the receipt cannot be verified: {exc.message}") from None
    if not verify_signature(receipt.kernel_key, message, receipt.signature):
        raise ReceiptRejected("signature", "the signature does not verify")


def _check_binding(receipt: HttpReceipt, expected: Expectation) -> None:
    request = expected.request
    if receipt.request_id != request.request_id:
        raise ReceiptRejected("request_id", "the receipt belongs to another request")
    if receipt.method != request.method:
        raise ReceiptRejected("method", f"the receipt is for {receipt.method[:20]!r}, the request is {request.method}")
    if receipt.session_id != request.session_id:
        raise ReceiptRejected("session_id", "the receipt belongs to another session")
    if receipt.caller_identity_hash != expected.caller_hash:
        raise ReceiptRejected("caller_identity_hash", "the receipt belongs to another caller")
    if receipt.content_hash != request.content_hash(receipt.route_pattern):
        raise ReceiptRejected("content_hash", "the receipt belongs to other content")
    if not acceptable_pattern(receipt.route_pattern, request.path, expected.template):
        raise ReceiptRejected(
            "route_pattern",
            f"the sidecar judged route {receipt.route_pattern[:200]!r}, the application runs {expected.template!r}",
        )
    scope = receipt.metadata.get("chio_http_status_scope") if isinstance(receipt.metadata, dict) else None
    if scope not in (None, "decision"):
        raise ReceiptRejected("scope", "the receipt records a final answer, not a decision")


def _check_time(timestamp: int, now: float, tolerance: float) -> None:
    # The receipt's clock counts whole seconds, so up to one second of difference is rounding.
    if abs(timestamp - now) > tolerance + 1:
        raise ReceiptRejected(
            "timestamp",
            f"the receipt's time {timestamp} is more than {tolerance:g} s away from this clock ({int(now)})",
        )


log = logging.getLogger(LOGGER)

_MAX_NOTED = 1000


class KeyTrust:
    """The trusted kernel keys of one client.

    With pinned keys, exactly those. Without, the key of the first good receipt is trusted for as long as this
    object lives; that is said in one warning, and any other key is refused from then on.

    Args:
        pinned: public keys in hex; empty for trust on first use.
    """

    def __init__(self, pinned: Collection[str] = ()) -> None:
        self._keys: frozenset[str] | None = frozenset(pinned) or None
        self._lock = threading.Lock()
        self._noted: set[str] = set()

    def keys(self) -> frozenset[str] | None:
        """Return the keys that count; None while the first one is still to be seen."""
        return self._keys

    def remember(self, key: str) -> None:
        """Trust `key` if none is trusted yet.

        Two first answers may arrive at once: the one that is second here must not slip through unchecked.

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
            from chio_core.errors import ReceiptRejected

            raise ReceiptRejected("kernel_key", "another kernel key was trusted first")

    def note_route(self, pattern: str, expectation: Expectation) -> None:
        """Warn once a route when the sidecar judged the plain path because it does not know the template."""
        template = expectation.template
        if template is None or pattern == template or template in self._noted or "{" not in template:
            return
        if pattern != expectation.request.path:
            return
        if len(self._noted) < _MAX_NOTED:
            self._noted.add(template)
            log.warning(
                "chio: the sidecar does not know route %s and judged the plain path; give it the OpenAPI document",
                template,
            )
