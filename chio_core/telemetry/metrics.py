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
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from chio_core.evaluation.outcomes import Decision

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of what `render` returns."""

MAX_SERIES: Final = 100
"""Most combinations of label values that one counter keeps apart."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds, in seconds, for how long a decision takes; a good one takes one or two milliseconds."""


class Family(Protocol):
    """One metric with all of its series."""

    def lines(self) -> Iterable[str]:
        """Return its lines, the two of HELP and TYPE first."""
        ...


class Counter:
    """Counts up, for each combination of label values.

    Args:
        name: ends in `_total`.
        text: what it counts, one sentence.
        labels: names of its labels.
        present: combinations that are shown as 0 from the start, so that an alert can be written on them.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), present: Iterable[Sequence[str]] = ()) -> None:
        self._head = _head(name, text, "counter")
        self._name = name
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

    def lines(self) -> Iterable[str]:
        """See `Family`."""
        with self._lock:
            counts = sorted(self._counts.items())
        return [*self._head, *(f"{self._name}{_braces(self._labels, values)} {count}" for values, count in counts)]


class Gauge:
    """A number that is asked for when the page is read.

    Args:
        name, text: see `Counter`.
        read: returns the number.
        labels: labels with their values, for a gauge that states facts.
    """

    def __init__(self, name: str, text: str, read: Callable[[], float], labels: Sequence[tuple[str, str]] = ()) -> None:
        self._head = _head(name, text, "gauge")
        self._name = name + _braces([label for label, _ in labels], [value for _, value in labels])
        self._read = read

    def lines(self) -> Iterable[str]:
        """See `Family`."""
        return [*self._head, f"{self._name} {_number(self._read())}"]


class Histogram:
    """Counts values into buckets.

    Args:
        name, text: see `Counter`; the name ends in the unit.
        bounds: upper bounds of the buckets, ascending; what is above the last one is counted in `+Inf`.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self._head = _head(name, text, "histogram")
        self._name = name
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

    def lines(self) -> Iterable[str]:
        """See `Family`."""
        with self._lock:
            buckets, total = list(self._buckets), self._sum
        found, below = [*self._head], 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), buckets, strict=True):
            below += count
            found.append(f'{self._name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{self._name}_sum {_number(total)}", f"{self._name}_count {below}"]


def render(families: Iterable[Family]) -> str:
    """Return the page that Prometheus reads."""
    return "\n".join(line for family in families for line in family.lines()) + "\n"


def _head(name: str, text: str, kind: str) -> tuple[str, str]:
    return (f"# HELP {name} {_escaped(text)}", f"# TYPE {name} {kind}")


def _braces(labels: Sequence[str], values: Sequence[str]) -> str:
    if not labels:
        return ""
    pairs = (f'{label}="{_quoted(value)}"' for label, value in zip(labels, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(value: str) -> str:
    # A lone surrogate would break the page's encoding for everybody.
    return _escaped(value).replace('"', '\\"').encode("utf-8", "replace").decode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


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
        """Return the page that Prometheus reads (`chio_core.telemetry.metrics.CONTENT_TYPE`)."""
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
