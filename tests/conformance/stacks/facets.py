"""What of an outcome is compared between stacks, facet by facet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from chio_core.refusals.problems import nested
from chio_core.refusals.response import Denial
from tests.conformance.stacks.running import Outcome

_CODES = (
    "chio_access_denied",
    "chio_approval_required",
    "chio_bad_request",
    "chio_body_too_large",
    "chio_capability_required",
    "chio_evaluation_failed",
    "chio_invalid_receipt",
    "chio_overloaded",
    "chio_sidecar_unreachable",
    "chio_timeout",
)

Facets = Mapping[str, Any]


@cache
def facets(outcome: Outcome) -> Facets:
    """Return everything about an outcome that must not depend on the framework.

    | facet | what it is |
    |---|---|
    | status | of the answer; None when the server closed without one |
    | code | wire code of a refusal by Chio |
    | handler, params, read, key | which handler ran, its parameters, the hash of the body and the key that it read |
    | receipt | `named` when the answer names the receipt that the handler saw, or the refusal's own; else `none` |
    | asked | how often the sidecar was asked |
    | question.* | members of the question, but for its id and time |
    | caller_hash, content_hash | what the receipt binds |
    | token, traceparent | what went along as headers |
    """
    found = {"asked": len(outcome.asked), **_answer(outcome)}
    for asked in outcome.asked[:1]:
        question = {name: value for name, value in asked.document.items() if name not in ("request_id", "timestamp")}
        found |= {f"question.{name}": value for name, value in question.items()}
        found |= {"caller_hash": asked.caller_hash(), "content_hash": asked.content_hash()}
        trace = asked.headers.get("traceparent")
        found |= {"token": asked.capability_text, "traceparent": None if trace == outcome.trace else trace}
    return found


def _answer(outcome: Outcome) -> dict[str, Any]:
    answer = outcome.answer
    document = answer.document or {}
    seen = document if "handler" in document else {}
    return {
        "status": answer.status,
        "code": code_of(document),
        "handler": seen.get("handler"),
        "params": seen.get("params"),
        "read": seen.get("read"),
        "key": seen.get("key"),
        "passthrough": seen.get("passthrough"),
        "receipt": _receipt(outcome, seen),
    }


def code_of(document: Mapping[str, Any]) -> str | None:
    """Return the wire code of a refusal, in either envelope; a nested code that means two gives the first."""
    error = document.get("error")
    if isinstance(error, Mapping):
        return next((code for code in _CODES if _nested(code) == error.get("code")), str(error.get("code")))
    return str(error) if error is not None else None


def _nested(code: str) -> str:
    return str(nested(Denial(code=code, message=""))["error"]["code"])


def _receipt(outcome: Outcome, seen: Mapping[str, Any]) -> str:
    lines = outcome.answer.lines("x-chio-receipt")
    if len(lines) != 1:
        return "none" if not lines else f"{len(lines)} lines"
    if seen:
        return "named" if seen.get("receipt") == lines[0] else f"not the handler's: {seen.get('receipt')}"
    return "named" if lines[0] != "forged" else "forged"


_FOLLOWS: Mapping[str, Sequence[str]] = {
    "asked": ("question.", "caller_hash", "content_hash", "token", "traceparent"),
    "handler": ("params", "read", "key", "passthrough"),
    "question.caller": ("caller_hash",),
    "question.path": ("content_hash",),
    "question.query": ("content_hash",),
    "question.route_pattern": ("content_hash",),
    "question.method": ("content_hash",),
    "question.body_hash": ("content_hash",),
}


def differing(one: Facets, other: Facets) -> set[str]:
    """Return the facets that are not the same, without those that cannot be when another one is not.

    Where one stack asks and the other does not, the questions are not compared as well.
    """
    found = {name for name in {*one, *other} if one.get(name) != other.get(name)}
    implied = tuple(prefix for name in found for prefix in _FOLLOWS.get(name, ()))
    return {name for name in found if not name.startswith(implied)}
