"""Telemetry: what is told about each decision, in one place for all frameworks.

* a span `chio.evaluate` around the question to the sidecar, where OpenTelemetry is at work (`chio_core.otel`);
* a line in the log of decisions (`chio_core.telemetry.log`);
* the counters of the client (`chio_core.telemetry.metrics`).

The three state the same facts. None of them changes an outcome: what goes wrong in here is logged once more, and the
decision stands.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from chio_core.endpoint import Endpoint
from chio_core.evaluation.outcomes import Decision
from chio_core.names import LOGGER, TRACEPARENT
from chio_core.settings import ChioSettings
from chio_core.telemetry import log as decision_log
from chio_core.telemetry.log import Facts, asked_facts, decided_facts, is_undecided, level_of
from chio_core.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from chio_core.evaluation.exchange import EvaluateCall
    from chio_core.telemetry.spans import ActiveSpan, Provider, Spans

log = logging.getLogger(LOGGER)

SPAN: Final = "chio.evaluate"

Pairs = tuple[tuple[str, str], ...]

_TRACE_ID: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Telemetry:
    """What one client tells.

    Args:
        settings: say where the sidecar is.
        provider: `opentelemetry.trace.TracerProvider` that spans go to; the global one, if any, when left out.

    Attributes:
        metrics: the client's counters.
    """

    def __init__(self, settings: ChioSettings, provider: Provider | None = None) -> None:
        self.metrics = Metrics()
        self._server = server_facts(settings.sidecar_url)
        self._spans = _spans(provider)

    def watch(self, question: EvaluateCall) -> Watch:
        """Begin to watch a question; to be used in a `with` statement around asking it."""
        span = None
        if self._spans is not None:
            span = _safely(partial(self._start, self._spans, question))
        return Watch(self, question, span)

    def _start(self, spans: Spans, question: EvaluateCall) -> ActiveSpan | None:
        parent = next((value for name, value in question.headers if name == TRACEPARENT), None)
        return spans.start(SPAN, parent, lambda: _asked(question) | self._server)

    def refused(self, decision: Decision, method: str, path: str) -> None:
        """Tell about a refusal of a request that the sidecar was not asked about, or that a guard has refused since.

        Args:
            method, path: as the client sent them.
        """
        _safely(partial(self._refused, decision, method, path))

    def _refused(self, decision: Decision, method: str, path: str) -> None:
        self.metrics.note(decision)
        level = level_of(decision)
        if decision_log.log.isEnabledFor(level):
            facts = asked_facts(method, path, request_id=decision.request_id)
            reason = decision.denial.message if decision.denial is not None else None
            decision_log.write(level, decision, facts | decided_facts(decision), reason)


class Watch:
    """One question that is being asked.

    Attributes:
        headers: what to send with it: those of the question, `traceparent` being that of the span if there is one.
    """

    __slots__ = ("_question", "_span", "_started", "_telemetry", "headers")

    def __init__(self, telemetry: Telemetry, question: EvaluateCall, span: ActiveSpan | None) -> None:
        self._telemetry = telemetry
        self._question = question
        self._span = span
        self.headers = question.headers if span is None else _with_traceparent(question.headers, span.traceparent)
        self._started = perf_counter()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        span, self._span = self._span, None
        if span is not None:
            _safely(partial(_end, span, kind))

    def concluded(self, decision: Decision, reason: str | None = None) -> Decision:
        """Tell about a decision, and return it.

        Args:
            reason: why there was none to be had, in our own words.
        """
        _safely(partial(self._concluded, decision, perf_counter() - self._started, reason))
        return decision

    def _concluded(self, decision: Decision, seconds: float, reason: str | None) -> None:
        telemetry, span = self._telemetry, self._span
        telemetry.metrics.note(decision, seconds)
        level = level_of(decision)
        logs = decision_log.log.isEnabledFor(level)
        if span is None and not logs:
            return
        decided = decided_facts(decision)
        if span is not None:
            span.note(decided)
            if is_undecided(decision):
                span.failed(reason)
        if logs:
            facts = _asked(self._question) | telemetry._server | decided
            if (trace_id := trace_id_in(self.headers)) is not None:
                facts["chio.trace.id"] = trace_id
            decision_log.write(level, decision, facts, reason)


def server_facts(url: str) -> Facts:
    """Return where the sidecar is, as OpenTelemetry names it; nothing for one in the same process."""
    if url.startswith("embedded:"):
        return {}
    end = Endpoint.parse(url)
    if end.socket_path is not None:
        return {"server.address": end.socket_path}
    return {"server.address": end.host, "server.port": end.port}


def trace_id_in(headers: Pairs) -> str | None:
    """Return the trace id that a question is sent with; None without one."""
    for name, value in headers:
        if name == TRACEPARENT and (found := _TRACE_ID.match(value)) is not None:
            return found[1]
    return None


def _asked(question: EvaluateCall) -> Facts:
    request = question.request
    return asked_facts(request.method, request.path, question.expectation.template, request.request_id)


def _with_traceparent(headers: Pairs, own: str) -> Pairs:
    return (*(pair for pair in headers if pair[0] != TRACEPARENT), (TRACEPARENT, own))


def _end(span: ActiveSpan, kind: type[BaseException] | None) -> None:
    try:
        if kind is not None:
            span.note({"error.type": kind.__qualname__})
            span.failed()
    finally:
        span.end()


def _spans(provider: Provider | None) -> Spans | None:
    try:
        from chio_core.telemetry.spans import Spans
    except ImportError:
        return None
    return Spans(provider)


def _safely(tell: Callable[[], Any]) -> Any:
    try:
        return tell()
    except Exception:
        with suppress(Exception):  # it may be a handler of the log that has failed
            log.exception("chio: telemetry failed; the decision stands")
        return None
