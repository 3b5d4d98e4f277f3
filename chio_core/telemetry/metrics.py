"""Metrics: what one client has seen, for Prometheus.

| name | type | labels | what it counts |
|---|---|---|---|
| `chio_decisions_total` | counter | `verdict`, `code` | outcomes, refusals without an evaluation included |
| `chio_passthroughs_total` | counter | `reason` | requests that ran without a decision (`fail_open`) |
| `chio_observed_refusals_total` | counter | `code` | refusals that observe mode recorded and did not carry out |
| `chio_evaluate_seconds` | histogram | – | seconds from the call of the sidecar to the verified receipt |

They belong to a client, so to one process: with several workers each counts for itself.

Counting needs no library. `prometheus_client` (extra `metrics`) is imported when a page is rendered, or when a registry
of the application collects: `REGISTRY.register(client.metrics)`. Its own counters would not do here: all clients of a
process would share their values under `PROMETHEUS_MULTIPROC_DIR`, and only the whole process can switch off their
`_created` series.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from chio_core.errors import ConfigurationError, install_extra
from chio_core.evaluation.outcomes import Decision

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of what `render` returns."""

MAX_SERIES: Final = 100
"""Most combinations of label values that one counter keeps apart."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds, in seconds, for how long a decision takes; a good one takes one or two milliseconds."""


class Counter:
    """Counts up, for each combination of label values. A `prometheus_client` collector.

    Args:
        name: ends in `_total`.
        text: what it counts, one sentence.
        labels: names of its labels.
        present: combinations that are shown as 0 from the start, so that an alert can be written on them.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), present: Iterable[Sequence[str]] = ()) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], int] = dict.fromkeys(map(tuple, present), 0)
        if not self._labels:
            self._counts[()] = 0

    def add(self, *values: str) -> None:
        """Count one, under these label values."""
        with self._lock:
            if values not in self._counts and len(self._counts) >= MAX_SERIES:
                values = ("other",) * len(self._labels)
            self._counts[values] = self._counts.get(values, 0) + 1

    def value(self, *values: str) -> int:
        """Return the count under these label values."""
        return self._counts.get(values, 0)

    @property
    def total(self) -> int:
        """The sum of all counts."""
        with self._lock:
            return sum(self._counts.values())

    def collect(self) -> Iterable[Metric]:
        """Return the metric for a registry."""
        from prometheus_client.core import CounterMetricFamily

        with self._lock:
            counts = sorted(self._counts.items())
        metric = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in counts:
            # A lone surrogate in one label would break the encoding of the whole page.
            metric.add_metric([value.encode("utf-8", "replace").decode() for value in values], count)
        return [metric]


class Histogram:
    """Counts values into buckets. A `prometheus_client` collector.

    Args:
        name, text: see `Counter`; the name ends in the unit.
        bounds: upper bounds of the buckets, ascending; values above the last bound are counted in `+Inf`.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._buckets = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._buckets[at] += 1
            self._sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        with self._lock:
            return sum(self._buckets)

    def collect(self) -> Iterable[Metric]:
        """Return the metric for a registry."""
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        with self._lock:
            buckets, total = list(self._buckets), self._sum
        bounds = (*map(floatToGoString, self._bounds), "+Inf")
        metric = HistogramMetricFamily(self._name, self._text)
        metric.add_metric([], list(zip(bounds, accumulate(buckets), strict=True)), sum_value=total)
        return [metric]


def render(*collectors: Collector) -> str:
    """Return the page that Prometheus reads, in its text format 0.0.4.

    Raises:
        ConfigurationError: the extra `metrics` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        raise ConfigurationError(f"metrics need the extra 'metrics': {install_extra('metrics')}") from None
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry).decode()


WAITING: Final = "approval_required"
"""Verdict, in metrics, log and span, of a decision that waits for a person: nothing has failed."""

VERDICTS: Final = frozenset({WAITING, "allow", "cancel", "deny", "error", "incomplete", "passthrough", "refused"})
"""Values of the label `verdict`; a text that only a newer sidecar knows is counted as `other`."""

_PASSES: Final = (("chio_sidecar_unreachable",), ("chio_timeout",))
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


class Metrics:
    """The metrics of one client, a `prometheus_client` collector; every method may be called from any thread.

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
        self.seconds = Histogram("chio_evaluate_seconds", "Seconds from the call to the verified decision.")

    def note(self, decision: Decision, seconds: float | None = None) -> None:
        """Count one outcome.

        Args:
            seconds: how long the evaluation took; None if the sidecar was not called.
        """
        code = code_of(decision)
        label = code if code == "none" or _CODE.match(code) else "other"
        verdict = verdict_of(decision)
        self.decisions.add(verdict if verdict in VERDICTS else "other", label)
        if decision.withheld is not None:
            self.observed.add(label)
        elif decision.passthrough is not None and decision.denial is None:
            self.passthroughs.add(label)
        if seconds is not None:
            self.seconds.observe(seconds)

    def render(self) -> str:
        """Return the page that Prometheus reads (`chio_core.telemetry.metrics.CONTENT_TYPE`).

        Raises:
            ConfigurationError: see `chio_core.telemetry.metrics.render`.
        """
        return render(self)

    def collect(self) -> Iterable[Metric]:
        """Return all metrics for a registry."""
        for collector in (self.decisions, self.passthroughs, self.observed, self.seconds):
            yield from collector.collect()


def verdict_of(decision: Decision) -> str:
    """Return the value of the `verdict` label: the verdict, or `WAITING` if a person has to approve first."""
    waits = decision.verdict == "error" and code_of(decision) == "chio_approval_required"
    return WAITING if waits else decision.verdict


def code_of(decision: Decision) -> str:
    """Return the code of the refusal, or of what let the request pass; `none` for an allow."""
    refusal = decision.denial or decision.withheld
    if refusal is not None:
        return refusal.code
    return decision.passthrough.error if decision.passthrough is not None else "none"
