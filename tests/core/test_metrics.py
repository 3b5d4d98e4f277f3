"""The counters, the page for Prometheus, and that no client can make it grow."""

from __future__ import annotations

import math
import random
import re
import sys
import threading

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.utils import floatToGoString

from chio_core.errors import ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import ChioPassthrough
from chio_core.refusals.response import Denial, bad_request
from chio_core.telemetry.metrics import MAX_SERIES, Counter, Histogram, Metrics, render
from tests.core.exposition import parse, value

ALLOW = Decision(verdict="allow")
DENY = Decision(verdict="deny", denial=Denial(message="no"))
TIMEOUT = Decision(verdict="error", denial=Denial(status=503, code="chio_timeout", message="unavailable"))
PASSED = Decision(verdict="passthrough", passthrough=ChioPassthrough(error="chio_timeout", message="unavailable"))
OBSERVED = Decision(
    verdict="deny",
    passthrough=ChioPassthrough(mode="observe", error="chio_access_denied", message="no"),
    withheld=Denial(message="no"),
)
WAITING = Decision(verdict="error", denial=Denial(code="chio_approval_required", message="wait"))
LOCAL = Decision(verdict="refused", denial=bad_request("no"))


def test_a_fresh_page_shows_what_alerts_are_written_on() -> None:
    page = parse(Metrics().render())
    assert set(page) == {
        "chio_decisions_total", "chio_passthroughs_total", "chio_observed_refusals_total", "chio_evaluate_seconds",
    }  # fmt: skip
    assert {"reason": "chio_timeout"} in [sample.labels for sample in page["chio_passthroughs_total"].samples]
    assert value(page, "chio_evaluate_seconds_count") == 0


def test_each_outcome_is_counted_once_and_in_its_place() -> None:
    metrics = Metrics()
    for decision in (ALLOW, ALLOW, DENY, TIMEOUT, PASSED, OBSERVED):
        metrics.note(decision, 0.002)
    metrics.note(LOCAL)
    page = parse(metrics.render())
    assert value(page, "chio_decisions_total", verdict="allow", code="none") == 2
    assert value(page, "chio_decisions_total", verdict="deny", code="chio_access_denied") == 2
    assert value(page, "chio_decisions_total", verdict="error", code="chio_timeout") == 1
    assert value(page, "chio_decisions_total", verdict="passthrough", code="chio_timeout") == 1
    assert value(page, "chio_decisions_total", verdict="refused", code="chio_bad_request") == 1
    assert metrics.decisions.total == 7
    assert value(page, "chio_passthroughs_total", reason="chio_timeout") == metrics.passthroughs.total == 1
    assert value(page, "chio_observed_refusals_total", code="chio_access_denied") == metrics.observed.total == 1
    assert value(page, "chio_evaluate_seconds_count") == 6
    assert value(page, "chio_evaluate_seconds_bucket", le="0.0025") == 6
    assert value(page, "chio_evaluate_seconds_bucket", le="0.001") == 0


def test_waiting_for_an_approval_is_a_separate_verdict() -> None:
    metrics = Metrics()
    metrics.note(WAITING, 0.002)
    page = parse(metrics.render())
    assert value(page, "chio_decisions_total", verdict="approval_required", code="chio_approval_required") == 1
    assert metrics.decisions.total == 1


def test_a_passthrough_that_a_guard_refused_later_is_not_counted_again() -> None:
    metrics = Metrics()
    metrics.note(PASSED, 0.1)
    metrics.note(Decision(verdict="refused", passthrough=PASSED.passthrough, denial=Denial(status=429, message="no")))
    assert metrics.passthroughs.total == 1


def test_texts_that_a_sidecar_or_a_guard_chooses_cannot_make_the_page_grow() -> None:
    metrics = Metrics()
    for number in range(10_000):
        odd = Denial(code=f"code_{number}", message="no")
        metrics.note(Decision(verdict=f"verdict {number}", denial=odd))
        metrics.note(Decision(verdict="deny", denial=Denial(code=f'{number}"\n\ud800' * 50, message="no")))
    page = parse(metrics.render())
    assert len(page["chio_decisions_total"].samples) <= MAX_SERIES + 1
    assert metrics.decisions.total == 20_000
    assert value(page, "chio_decisions_total", verdict="deny", code="other") == 10_000


def test_label_values_are_escaped() -> None:
    counter = Counter("odd_total", "Back\\slash and\nline.", ("label",))
    texts = ['"', "\\", "\n", '\\"\n', "é", "\ud800", "{},=", " "]
    for text in texts:
        counter.add(text)
    page = render(counter)
    shown = [sample.labels["label"] for sample in parse(page)["odd_total"].samples]
    assert sorted(shown) == sorted("?" if text == "\ud800" else text for text in texts)
    assert page.startswith("# HELP odd_total Back\\\\slash and\\nline.\n# TYPE odd_total counter\n")


@pytest.mark.parametrize("seed", range(20))
def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(seed: int) -> None:
    chance = random.Random(seed)
    bounds = sorted({chance.choice([1, 0.5, 0.001]) * chance.randint(1, 50) for _ in range(8)})
    values = [chance.choice([*bounds, chance.uniform(0, 60)]) for _ in range(200)]
    histogram = Histogram("any_seconds", "Any.", bounds)
    for one in values:
        histogram.observe(one)
    page = parse(render(histogram))
    for bound in [*bounds, math.inf]:
        inside = sum(one <= bound for one in values)
        assert value(page, "any_seconds_bucket", le=floatToGoString(bound)) == inside
    assert value(page, "any_seconds_count") == histogram.count == len(values)
    assert value(page, "any_seconds_sum") == pytest.approx(sum(values))


def test_an_application_may_collect_a_client_in_its_own_registry() -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    registry.register(metrics)
    metrics.note(ALLOW, 0.002)
    assert registry.get_sample_value("chio_decisions_total", {"verdict": "allow", "code": "none"}) == 1
    assert registry.get_sample_value("chio_evaluate_seconds_count") == 1


def test_without_the_extra_counting_works_and_the_page_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    metrics = Metrics()
    metrics.note(ALLOW, 0.002)
    assert metrics.decisions.total == 1
    with pytest.raises(ConfigurationError, match=re.escape("pip install -e '.[metrics]'")):
        metrics.render()


def test_eight_threads_lose_no_count() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(2_000):
            metrics.note(DENY, 0.001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        parse(metrics.render())
    for thread in threads:
        thread.join()
    assert metrics.decisions.total == metrics.seconds.count == 16_000
