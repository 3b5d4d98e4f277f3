"""Responses that are no decision: a status other than 200, no JSON, or JSON of another shape.

If possible, the response also holds a genuine allow, to catch a client that reads the body alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

from chio_core.models.demands import NEEDS_APPROVAL
from chio_core.testing.behaviours import JSON_TYPE, Behaviour, Reply, error, status
from chio_core.testing.exchange import ALLOW, EvaluateRequest, compact
from tests.hostile.delivery import in_chunks

HUGE = 2 * 1024 * 1024
"""Bytes of a huge response; a receipt has one to three kilobytes."""

_REDIRECTS = (301, 302, 303, 307, 308)


def body(name: str, summary: str, change: Callable[[bytes], bytes], content_type: str | None = None) -> Behaviour:
    """Return a behaviour that responds 200 with changed bytes of a good allow, as JSON or as another type."""
    headers = JSON_TYPE if content_type is None else (("content-type", content_type),)
    return Behaviour(name, summary, lambda request: Reply(change(request.response_bytes()), 200, headers))


def document(name: str, summary: str, change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """Return a behaviour that responds 200 with a changed good allow."""
    return Behaviour(name, summary, lambda request: Reply(compact(change(request.response()))))


def _compressed(request: EvaluateRequest) -> Reply:
    return Reply(gzip.compress(request.response_bytes()), 200, (*JSON_TYPE, ("content-encoding", "gzip")))


_APPROVAL = {
    "error": "chio_approval_required",
    "message": NEEDS_APPROVAL,
    "kernel_receipt_id": "rcpt-0",
    "approval_id": "approval-0",
    "resume_path": "/approvals/approval-0/respond",
}

BEHAVIOURS = (
    *(status(code) for code in (201, 202, 203, 206, 207, 226)),
    *(status(code, (("location", "/chio/elsewhere"),)) for code in _REDIRECTS),
    *(status(code) for code in (400, 404, 405, 408, 409, 413, 418)),
    *(status(code) for code in (501, 502, 504, 599)),
    Behaviour("status_204", "Responds 204 without a body.", lambda _: Reply(b"", 204, ())),
    Behaviour("status_304", "Responds 304 without a body.", lambda _: Reply(b"", 304, ())),
    error(409, _APPROVAL),
    error(500, {"error": "chio_receipt_sign_failed", "message": "no key"}),
    error(503, {"error": "chio_overloaded", "message": "too many evaluations are under way"}),
    body("empty", "Responds 200 with an empty body.", lambda _: b""),
    body("blank", "Responds 200 with white space.", lambda _: b" \r\n"),
    body("html", "Responds 200 with a page, as a proxy in between does.", lambda _: b"<h1>OK</h1>", "text/html"),
    body("truncated_json", "Responds 200 with JSON that lacks its end.", lambda allow: allow[:-1]),
    body("cut_in_half", "Responds 200 with half of the JSON.", lambda allow: allow[: len(allow) // 2]),
    body("trailing_text", "Responds 200 with JSON and more after it.", lambda allow: allow + b"{}"),
    body("two_documents", "Responds 200 with two documents.", lambda allow: allow + b"\n" + allow),
    body("not_utf8", "Responds 200 with bytes that are no UTF-8.", lambda allow: allow + b"\xff"),
    body("utf16", "Responds 200 with JSON in UTF-16.", lambda allow: allow.decode().encode("utf-16")),
    body("byte_order_mark", "Responds 200 with a byte order mark before the JSON.",
         lambda allow: b"\xef\xbb\xbf" + allow),
    body("too_deep", "Responds 200 with JSON nested 10,000 deep.",
         lambda allow: allow[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    body("number_too_long", "Responds 200 with an integer of 10,000 digits.",
         lambda allow: allow[:-1] + b',"x":' + b"9" * 10_000 + b"}"),
    body("infinity", "Responds 200 with Infinity in the JSON.", lambda allow: allow[:-1] + b',"x":Infinity}'),
    body("wrong_content_type", "Responds 200 with a good allow as text.", lambda allow: allow, "text/plain"),
    body("problem_content_type", "Responds 200 with a good allow as a problem document.",
         lambda allow: allow, "application/problem+json"),
    Behaviour("no_content_type", "Responds 200 with a good allow of no type.",
              lambda request: Reply(request.response_bytes(), 200, ())),
    Behaviour("compressed", "Responds 200 with a good allow, compressed unasked.", _compressed),
    document("huge", "Responds 200 with a good allow among two megabytes.",
             lambda allow: {"padding": "x" * HUGE, **allow}),
    Behaviour("huge_in_chunks", "The same without saying how long it will be.",
              lambda request: Reply(compact({"padding": "x" * HUGE, **request.response()})), in_chunks(65_536)),
    document("answer_null", "Responds 200 with null.", lambda _: None),
    document("answer_true", "Responds 200 with true.", lambda _: True),
    document("answer_number", "Responds 200 with a number.", lambda _: 1),
    document("answer_text", "Responds 200 with a string.", lambda _: "allow"),
    document("answer_list", "Responds 200 with a list around a good allow.", lambda allow: [allow]),
    document("answer_empty_object", "Responds 200 with an empty object.", lambda _: {}),
    document("verdict_missing", "The response has a good receipt and no verdict.",
             lambda allow: {"receipt": allow["receipt"], "evidence": allow["evidence"]}),
    document("verdict_as_text", "The verdict is a string.", lambda allow: {**allow, "verdict": "allow"}),
    document("verdict_as_list", "The verdict is a list.", lambda allow: {**allow, "verdict": [ALLOW]}),
    document("verdict_null", "The verdict is null.", lambda allow: {**allow, "verdict": None}),
    document("verdict_without_name", "The verdict says nothing.", lambda allow: {**allow, "verdict": {}}),
    document("verdict_true", "The verdict is true.", lambda allow: {**allow, "verdict": {"verdict": True}}),
    document("verdict_details_null", "The verdict's details are null.",
             lambda allow: {**allow, "verdict": {"verdict": "allow", "details": None}}),
    document("verdict_status_as_text", "The verdict's status is a string.",
             lambda allow: {**allow, "verdict": {"verdict": "deny", "http_status": "403"}}),
    document("allow_without_receipt", "Says allow, without a receipt.",
             lambda allow: {"verdict": allow["verdict"], "evidence": allow["evidence"]}),
    document("receipt_null", "Says allow; the receipt is null.", lambda allow: {**allow, "receipt": None}),
    document("receipt_as_text", "Says allow; the receipt is a string.", lambda allow: {**allow, "receipt": "rcpt-1"}),
    document("receipt_as_list", "Says allow; the receipt is a list.",
             lambda allow: {**allow, "receipt": [allow["receipt"]]}),
    document("receipt_empty", "Says allow; the receipt is an empty object.", lambda allow: {**allow, "receipt": {}}),
    document("only_verdict", "Responds with the verdict alone, as an older sidecar might.", lambda _: dict(ALLOW)),
    document("only_receipt", "Responds with the receipt alone.", lambda allow: allow["receipt"]),
)  # fmt: skip
