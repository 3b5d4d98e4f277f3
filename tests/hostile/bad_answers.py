"""Behaviours whose answer is no decision: a status that is not 200, no JSON, or JSON of another shape.

Wherever it can, the answer also holds a genuine allow, so that a client that looks at the body alone is caught.
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
"""Bytes of a huge answer; a receipt has one to three kilobytes."""

_REDIRECTS = (301, 302, 303, 307, 308)


def body(
    name: str, summary: str, make: Callable[[EvaluateRequest], bytes], content_type: str | None = None
) -> Behaviour:
    """Return a behaviour that answers 200 with these bytes, as JSON or as another type."""
    headers = JSON_TYPE if content_type is None else (("content-type", content_type),)
    return Behaviour(name, summary, lambda asked: Reply(make(asked), 200, headers))


def document(name: str, summary: str, change: Callable[[EvaluateRequest], Any]) -> Behaviour:
    """Return a behaviour that answers 200 with this JSON value."""
    return body(name, summary, lambda asked: compact(change(asked)))


def _but(asked: EvaluateRequest, **members: Any) -> dict[str, Any]:
    return {name: value for name, value in {**asked.response(), **members}.items() if value is not _ABSENT}


def _compressed(asked: EvaluateRequest) -> Reply:
    return Reply(gzip.compress(asked.response_bytes()), 200, (*JSON_TYPE, ("content-encoding", "gzip")))


_ABSENT = object()

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
    Behaviour("status_204", "Answers 204 without a body.", lambda _: Reply(b"", 204, ())),
    Behaviour("status_304", "Answers 304 without a body.", lambda _: Reply(b"", 304, ())),
    error(409, _APPROVAL),
    error(500, {"error": "chio_receipt_sign_failed", "message": "no key"}),
    body("empty", "Answers 200 with an empty body.", lambda _: b""),
    body("blank", "Answers 200 with white space.", lambda _: b" \r\n"),
    body("html", "Answers 200 with a page, as a proxy in between does.", lambda _: b"<h1>OK</h1>", "text/html"),
    body("truncated_json", "Answers 200 with JSON that lacks its end.", lambda asked: asked.response_bytes()[:-1]),
    body("cut_in_half", "Answers 200 with half of the JSON.",
         lambda asked: asked.response_bytes()[: len(asked.response_bytes()) // 2]),
    body("trailing_text", "Answers 200 with JSON and more after it.", lambda asked: asked.response_bytes() + b"{}"),
    body("two_documents", "Answers 200 with two documents.",
         lambda asked: asked.response_bytes() + b"\n" + asked.response_bytes()),
    body("not_utf8", "Answers 200 with bytes that are no UTF-8.", lambda asked: asked.response_bytes() + b"\xff"),
    body("utf16", "Answers 200 with JSON in UTF-16.", lambda asked: asked.response_bytes().decode().encode("utf-16")),
    body("byte_order_mark", "Answers 200 with a byte order mark before the JSON.",
         lambda asked: b"\xef\xbb\xbf" + asked.response_bytes()),
    body("too_deep", "Answers 200 with JSON nested 10,000 deep.",
         lambda asked: asked.response_bytes()[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    body("number_too_long", "Answers 200 with an integer of 10,000 digits.",
         lambda asked: asked.response_bytes()[:-1] + b',"x":' + b"9" * 10_000 + b"}"),
    body("infinity", "Answers 200 with Infinity in the JSON.",
         lambda asked: asked.response_bytes()[:-1] + b',"x":Infinity}'),
    body("wrong_content_type", "Answers 200 with a good allow as text.",
         lambda asked: asked.response_bytes(), "text/plain"),
    body("problem_content_type", "Answers 200 with a good allow as a problem document.",
         lambda asked: asked.response_bytes(), "application/problem+json"),
    Behaviour("no_content_type", "Answers 200 with a good allow of no type.",
              lambda asked: Reply(asked.response_bytes(), 200, ())),
    Behaviour("compressed", "Answers 200 with a good allow, compressed though nobody asked for it.", _compressed),
    body("huge", "Answers 200 with a good allow among two megabytes.",
         lambda asked: compact({"padding": "x" * HUGE, **asked.response()})),
    Behaviour("huge_in_chunks", "The same without saying how long it will be.",
              lambda asked: Reply(compact({"padding": "x" * HUGE, **asked.response()})), in_chunks(65_536)),
    document("answer_null", "Answers 200 with null.", lambda _: None),
    document("answer_true", "Answers 200 with true.", lambda _: True),
    document("answer_number", "Answers 200 with a number.", lambda _: 1),
    document("answer_text", "Answers 200 with a string.", lambda _: "allow"),
    document("answer_list", "Answers 200 with a list around a good allow.", lambda asked: [asked.response()]),
    document("answer_empty_object", "Answers 200 with an empty object.", lambda _: {}),
    document("verdict_missing", "The answer has a good receipt and no verdict.",
             lambda asked: _but(asked, verdict=_ABSENT)),
    document("verdict_as_text", "The verdict is a string.", lambda asked: _but(asked, verdict="allow")),
    document("verdict_as_list", "The verdict is a list.", lambda asked: _but(asked, verdict=[ALLOW])),
    document("verdict_null", "The verdict is null.", lambda asked: _but(asked, verdict=None)),
    document("verdict_without_name", "The verdict says nothing.", lambda asked: _but(asked, verdict={})),
    document("verdict_true", "The verdict is true.", lambda asked: _but(asked, verdict={"verdict": True})),
    document("verdict_details_null", "The verdict's details are null.",
             lambda asked: _but(asked, verdict={"verdict": "allow", "details": None})),
    document("verdict_status_as_text", "The verdict's status is a string.",
             lambda asked: _but(asked, verdict={"verdict": "deny", "http_status": "403"})),
    document("allow_without_receipt", "Says allow, without a receipt.", lambda asked: _but(asked, receipt=_ABSENT)),
    document("receipt_null", "Says allow; the receipt is null.", lambda asked: _but(asked, receipt=None)),
    document("receipt_as_text", "Says allow; the receipt is a string.", lambda asked: _but(asked, receipt="rcpt-1")),
    document("receipt_as_list", "Says allow; the receipt is a list.",
             lambda asked: _but(asked, receipt=[asked.receipt()])),
    document("receipt_empty", "Says allow; the receipt is an empty object.", lambda asked: _but(asked, receipt={})),
    document("only_verdict", "Answers with the verdict alone, as an older sidecar might.", lambda _: dict(ALLOW)),
    document("only_receipt", "Answers with the receipt alone.", lambda asked: asked.receipt()),
)  # fmt: skip
