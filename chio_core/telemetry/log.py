"""One line for each decision: logger `chio.decision`, with the same facts as the span in `extra`.

| outcome | level |
|---|---|
| allow, deny, a person has to approve, what this side refuses itself (400, 401, 403, 405, 413, 414, a guard) | INFO |
| passed without a decision (`fail_open`), refused but only observed | WARNING |
| no decision could be had, or a guard or hook of ours failed (500) | ERROR |

An attribute `http.route` of the span is `chio_http_route` in `extra`, `chio.verdict` is `chio_verdict`: prefixed, so
that it meets no member of `logging.LogRecord`. Nothing in a line is secret: no header, token, cookie, query or body,
and no caller. What others have written (the path, a guard's name) is escaped and cut to `MAX_SHOWN` characters, so one
request is one line of bounded length. The words of a sidecar's verdict are in its receipt and not here.

Nothing is left out under load: a log of decisions with gaps proves nothing. It grows as an access log does. Who wants
fewer lines puts a `Throttle` on the logger; the counters of `chio_core.telemetry.metrics` go on counting.
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
"""Most characters of a text that somebody else has written."""

Facts = dict[str, str | int | bool]
"""Names as they stand on a span, and values."""


def shown(text: str) -> str:
    """Return a text for logs and spans: what could break the line is escaped, and it has an end."""
    if not text.isascii() or not text.isprintable() or "\\" in text:
        text = ascii(text[: MAX_SHOWN + 1])[1:-1]
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def asked_facts(method: str, path: str, route: str | None = None, request_id: str | None = None) -> Facts:
    """Return what is known before there is a decision.

    Args:
        method: as the client sent it; one that nobody knows is `_OTHER`, as OpenTelemetry has it.
        route: template of the route that will run; None when unknown.
    """
    facts: Facts = {"http.request.method": method if method in METHODS else "_OTHER", "url.path": shown(path)}
    if route is not None:
        facts["http.route"] = shown(route)
    if request_id is not None:
        facts["chio.request.id"] = request_id
    return facts


def decided_facts(decision: Decision) -> Facts:
    """Return what a decision adds to that."""
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
    """Tell whether the sidecar gave no decision. That somebody has to approve the request first is one."""
    return decision.receipt is None and verdict_of(decision) in ("error", "passthrough")


def level_of(decision: Decision) -> int:
    """Return the level of a decision's line; see the table above."""
    if decision.denial is None and decision.passthrough is not None:
        return logging.WARNING
    failed = decision.denial is not None and decision.verdict == "refused" and decision.denial.status == 500
    return logging.ERROR if failed or is_undecided(decision) else logging.INFO


def extra_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts under the names that they have in a log record."""
    return {"chio_" + name.removeprefix("chio.").replace(".", "_"): value for name, value in facts.items()}


def write(level: int, decision: Decision, facts: Facts, reason: str | None = None) -> None:
    """Write the line of one decision.

    Args:
        level: of the line; the caller has found it enabled.
        facts: what `extra` is made of.
        reason: why there was none, in our own words.
    """
    refusal = decision.denial or decision.withheld
    answer = "" if refusal is None else f" {refusal.status}"
    code, known = facts.get("chio.code"), facts.get("chio.receipt.id")
    log.log(
        level,
        "chio: %s%s%s: %s %s%s; request %s, receipt %s",
        _word(decision),
        answer,
        f" {code}" if code else "",
        facts["http.request.method"],
        facts.get("http.route") or facts["url.path"],
        f": {shown(reason)}" if reason else "",
        facts.get("chio.request.id", "none"),
        known or "none",
        extra=extra_of(facts),
    )


def _word(decision: Decision) -> str:
    if decision.observed:
        return "OBSERVED, NOT REFUSED"
    if decision.denial is None and decision.passthrough is not None:
        return "PASSED WITHOUT A DECISION"
    return "refused without a decision" if is_undecided(decision) else shown(verdict_of(decision))


class Throttle(logging.Filter):
    """Lets a limited number of lines of each level through in a while; the first after that says how many were not.

        logging.getLogger("chio.decision").addFilter(Throttle(lines=100, seconds=60))

    Args:
        lines: how many, for each level.
        seconds: in how long a time.
        clock: returns seconds that never go back.
    """

    def __init__(self, lines: int, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record may be written; `chio_left_out` on it is how many before it were not."""
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
