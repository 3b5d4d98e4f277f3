"""Metrics: what one client has seen, for Prometheus.

| name | type | labels | what it counts |
|---|---|---|---|
| `chio_decisions_total` | counter | `verdict`, `code` | outcomes, refusals without a question to the sidecar included |
| `chio_passthroughs_total` | counter | `reason` | requests that ran without a decision (`fail_open`) |
| `chio_observed_refusals_total` | counter | `code` | refusals that observe mode recorded and did not carry out |
| `chio_evaluate_seconds` | histogram | – | how long the sidecar took to be asked, its receipt verified |

They belong to a client, so to one process: with several workers each counts for itself.
"""

from __future__ import annotations

import re
from typing import Final

from chio_core.evaluation.outcomes import Decision
from chio_core.prometheus import Counter, Histogram, render

WAITING: Final = "approval_required"
"""What metrics, log and span call a decision that waits for a person: nothing has failed."""

VERDICTS: Final = frozenset({WAITING, "allow", "cancel", "deny", "error", "incomplete", "passthrough", "refused"})
"""Values of the label `verdict`; a text that only a newer sidecar knows is counted as `other`."""

_PASSES: Final = (("chio_sidecar_unreachable",), ("chio_timeout",))
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


class Metrics:
    """The metrics of one client; every method may be called from any thread.

    Attributes:
        decisions, passthroughs, observed, seconds: see the table above.
    """

    def __init__(self) -> None:
        self.decisions = Counter(
            "chio_decisions_total",
            "Outcomes of requests, by verdict and by the code of the refusal.",
            ("verdict", "code"),
            [("allow", "none"), ("deny", "chio_access_denied")],
        )
        self.passthroughs = Counter(
            "chio_passthroughs_total", "Requests that ran without a decision, by what was wrong.", ("reason",), _PASSES
        )
        self.observed = Counter(
            "chio_observed_refusals_total", "Refusals that were recorded and not carried out.", ("code",)
        )
        self.seconds = Histogram("chio_evaluate_seconds", "Seconds from the question to the verified decision.")

    def note(self, decision: Decision, seconds: float | None = None) -> None:
        """Count one outcome.

        Args:
            seconds: how long asking took; None when nobody was asked.
        """
        code = code_of(decision)
        label = code if _CODE.match(code) else "other"
        verdict = verdict_of(decision)
        self.decisions.add(verdict if verdict in VERDICTS else "other", label)
        if decision.observed:
            self.observed.add(label)
        elif decision.passthrough is not None and decision.denial is None:
            self.passthroughs.add(label)
        if seconds is not None:
            self.seconds.observe(seconds)

    def render(self) -> str:
        """Return the page that Prometheus reads (`chio_core.prometheus.CONTENT_TYPE`)."""
        return render((self.decisions, self.passthroughs, self.observed, self.seconds))


def verdict_of(decision: Decision) -> str:
    """Return the verdict as it is told: that of the decision, and `WAITING` where a person has to approve first."""
    waits = decision.verdict == "error" and code_of(decision) == "chio_approval_required"
    return WAITING if waits else decision.verdict


def code_of(decision: Decision) -> str:
    """Return the code of the refusal, or of what let the request pass; `none` for an allow."""
    refusal = decision.denial or decision.withheld
    if refusal is not None:
        return refusal.code
    return decision.passthrough.error if decision.passthrough is not None else "none"
