"""One line for each decision: logger `chio.decision`, with the same facts as the span in `extra`.

| outcome | level |
|---|---|
| allow, deny, a person has to approve, refused on this side (400, 401, 403, 405, 413, 414, a guard) | INFO |
| allowed without a decision (`fail_open`), refused but only observed | WARNING |
| the evaluation failed, or a guard or hook failed (500) | ERROR |

The attribute `http.route` of the span is `chio_http_route` in `extra`, `chio.verdict` is `chio_verdict`: the prefix
avoids the members of `logging.LogRecord`. Nothing in a line is secret: no header, token, cookie, query or body, and no
caller. Foreign texts (the path, a guard's name) are escaped and cut to `MAX_SHOWN` characters, so one request is one
line of bounded length. The reason in a sidecar's verdict is in its receipt and not here. A sidecar that gives no
decision has no receipt: then the line ends in its status, its code and its reason, without anything that it was sent.

No line is left out under load: a log of decisions with gaps proves nothing. It grows as an access log does. Add a
`Throttle` to the logger for fewer lines; the counters of `chio_core.telemetry.metrics` still count everything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from chio_core.evaluation.outcomes import Decision
from chio_core.models.request import METHODS
from chio_core.names import DECISION_LOGGER
from chio_core.telemetry.metrics import code_of, verdict_of

log = logging.getLogger(DECISION_LOGGER)

MAX_SHOWN: Final = 256
"""Most characters of a foreign text."""

Facts = dict[str, str | int | bool]
"""Attributes of a span by name."""


def shown(text: str) -> str:
    """Return a text for logs and spans: at most `MAX_SHOWN` characters, control characters escaped."""
    if not text.isascii() or not text.isprintable() or "\\" in text:
        text = ascii(text[: MAX_SHOWN + 1])[1:-1]
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def request_facts(method: str, path: str, route: str | None = None, request_id: str | None = None) -> Facts:
    """Return the facts that are known before the decision.

    Args:
        method: as the client sent it; an unknown one becomes `_OTHER`, as in OpenTelemetry.
        route: template of the route that will run; None if unknown.
    """
    facts: Facts = {"http.request.method": method if method in METHODS else "_OTHER", "url.path": shown(path)}
    if route is not None:
        facts["http.route"] = shown(route)
    if request_id is not None:
        facts["chio.request.id"] = request_id
    return facts


def decision_facts(decision: Decision) -> Facts:
    """Return the facts that a decision adds."""
    receipt, refusal = decision.receipt, decision.denial or decision.withheld
    facts: Facts = {
        "chio.verdict": shown(verdict_of(decision)),
        "chio.fail_open": decision.passthrough is not None and not decision.observed,
        "chio.observed": decision.observed,
    }
    if (code := code_of(decision)) != "none":
        facts["chio.code"] = shown(code)
    if receipt is not None:
        facts["chio.receipt.id"] = shown(receipt.id)
        if receipt.capability_id is not None:
            facts["chio.capability.id"] = shown(receipt.capability_id)
    if refusal is not None:
        facts["chio.status"] = refusal.status
        if refusal.guard is not None:
            facts["chio.guard"] = shown(refusal.guard)
    if is_undecided(decision):
        facts["error.type"] = shown(code)
    return facts


def is_undecided(decision: Decision) -> bool:
    """Return True if the evaluation failed. Waiting for an approval is a decision."""
    return decision.receipt is None and verdict_of(decision) in ("error", "passthrough")


def level_of(decision: Decision) -> int:
    """Return the logging level for a decision; see the table above."""
    if decision.denial is None and decision.passthrough is not None:
        return logging.WARNING
    failed = decision.denial is not None and decision.verdict == "refused" and decision.denial.status == 500
    return logging.ERROR if failed or (decision.receipt is None and is_undecided(decision)) else logging.INFO


def extra_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts under their names in a log record."""
    return {"chio_" + name.removeprefix("chio.").replace(".", "_"): value for name, value in facts.items()}


def write(level: int, decision: Decision, facts: Facts, reason: str | None = None) -> None:
    """Write the line of one decision.

    Args:
        level: of the line; the caller has checked that it is enabled.
        facts: become `extra`.
        reason: error message if the evaluation failed; it may end in the sidecar's reason for not deciding.
    """
    if decision.observed:
        outcome = "OBSERVED, NOT REFUSED"
    elif decision.denial is None and decision.passthrough is not None:
        outcome = "PASSED WITHOUT A DECISION"
    else:
        outcome = "refused without a decision" if is_undecided(decision) else shown(verdict_of(decision))
    refusal, code = decision.denial or decision.withheld, facts.get("chio.code")
    log.log(
        level,
        "chio: %s%s%s: %s %s%s; request %s, receipt %s",
        outcome,
        "" if refusal is None else f" {refusal.status}",
        f" {code}" if code else "",
        facts["http.request.method"],
        facts.get("http.route") or facts["url.path"],
        f": {shown(reason)}" if reason else "",
        facts.get("chio.request.id", "none"),
        facts.get("chio.receipt.id", "none"),
        extra=extra_of(facts),
    )


class Throttle(logging.Filter):
    """Limits the lines of each level per period; the first line of the next period states how many were left out.

        logging.getLogger("chio.decision").addFilter(Throttle(lines=100, seconds=60))

    Args:
        lines: most lines of one level in a period.
        seconds: length of a period.
        clock: returns monotonic seconds.
    """

    def __init__(self, lines: int, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if a record may be written; its `chio_left_out` counts the lines left out before it."""
        now = self._clock()
        with self._lock:
            began, count = self._seen.get(record.levelno, (now, 0))
            left_out = 0
            if now - began >= self._seconds:
                left_out, began, count = max(0, count - self._lines), now, 0
            self._seen[record.levelno] = (began, count + 1)
        if count >= self._lines:
            return False
        if left_out:
            record.chio_left_out = left_out
            record.msg = f"{record.msg} ({left_out} lines before it were left out)"
        return True
