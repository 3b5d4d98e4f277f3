"""The metrics of a sidecar, for Prometheus (`GET /metrics`).

| name | type | labels | what it counts |
|---|---|---|---|
| `chio_sidecar_build_info` | gauge | `version` | 1 |
| `chio_sidecar_decisions_total` | counter | `verdict`, `guard` | decisions handed out, repeated ones included |
| `chio_sidecar_repeats_total` | counter | – | decisions that came from an earlier receipt |
| `chio_sidecar_errors_total` | counter | `code` | evaluations without a decision: conflicts, approvals, faults |
| `chio_sidecar_proxied_total` | counter | `outcome` | requests for the upstream that were not denied |
| `chio_sidecar_evaluate_seconds` | histogram | – | how long an evaluation took, its receipt durable |
| `chio_sidecar_evaluations_pending` | gauge | – | evaluations that are under way |
| `chio_sidecar_commit_size`, `…_seconds` | histogram | – | work in one commit, and how long that took |
| `chio_sidecar_commit_waiting` | gauge | – | work that waits for a commit |
| `chio_sidecar_commit_failures_total` | counter | – | work that could not be written |

No label ever holds what a client has sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from chio_core.errors import ChioError
from chio_core.telemetry.metrics import Counter, Histogram, render
from chio_sidecar.store import ReceiptStore

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class SidecarMetrics:
    """The metrics of one sidecar.

    Args:
        version: of this distribution.

    Attributes:
        decisions, repeats, errors, proxied, seconds: see the table above.
        pending: returns how many evaluations are under way; the evaluate endpoint sets it.
    """

    def __init__(self, version: str) -> None:
        self.decisions = Counter(
            "chio_sidecar_decisions_total", "Decisions handed out.", ("verdict", "guard"), [("allow", "none")]
        )
        self.repeats = Counter("chio_sidecar_repeats_total", "Decisions that an earlier receipt answered.")
        self.errors = Counter("chio_sidecar_errors_total", "Evaluations answered without a decision.", ("code",))
        self.proxied = Counter("chio_sidecar_proxied_total", "Requests for the upstream, by their end.", ("outcome",))
        self.seconds = Histogram("chio_sidecar_evaluate_seconds", "Seconds from an evaluation's request to its answer.")
        self.pending: Callable[[], int] = int
        self._version = version

    def decided(self, verdict: Mapping[str, Any], *, fresh: bool) -> None:
        """Count a decision.

        Args:
            verdict: the receipt's.
            fresh: it was made now, not found in the store.
        """
        self.decisions.add(verdict["verdict"], verdict.get("guard") or "none")
        if not fresh:
            self.repeats.add()

    def answered(self, seconds: float, code: str | None) -> None:
        """Count an answer, a decision or none.

        Args:
            seconds: from its request to the answer.
            code: of the error; None for a decision.
        """
        self.seconds.observe(seconds)
        if code is not None:
            self.errors.add(code)

    def render(self, store: Callable[[], ReceiptStore]) -> str:
        """Return the page that Prometheus reads.

        Args:
            store: returns the store; one that cannot be opened is left out.
        """
        try:
            writing = getattr(store(), "metrics", None)
        except ChioError:
            writing = None
        return render(self) if writing is None else render(self, writing)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics for a registry of `prometheus_client`, those of the store aside."""
        from prometheus_client.core import GaugeMetricFamily

        build = GaugeMetricFamily("chio_sidecar_build_info", "What is running.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        for collector in (self.decisions, self.repeats, self.errors, self.proxied, self.seconds):
            yield from collector.collect()
        pending = self.pending()
        yield GaugeMetricFamily("chio_sidecar_evaluations_pending", "Evaluations that are under way.", pending)
