"""Telemetry: what is recorded about each decision, in one place for all frameworks.

* a span `chio.evaluate` around the evaluation, if OpenTelemetry is installed (`chio_core.telemetry.spans`);
* a line in the log of decisions (`chio_core.telemetry.log`);
* the counters of the client (`chio_core.telemetry.metrics`).

A person at a terminal sees the first refusals as warnings too (`chio_core.telemetry.notices`). The three state the same
facts. None of them changes an outcome: an exception in here is logged, and the decision stays as it is.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final

from chio_core.endpoint import Endpoint, split_urls
from chio_core.evaluation.outcomes import Decision
from chio_core.names import LOGGER, TRACEPARENT
from chio_core.settings import ChioSettings
from chio_core.telemetry import log as decision_log
from chio_core.telemetry.log import Facts, decision_facts, is_undecided, level_of, request_facts
from chio_core.telemetry.metrics import Metrics
from chio_core.telemetry.notices import Notices

if TYPE_CHECKING:
    from chio_core.evaluation.exchange import EvaluateCall
    from chio_core.telemetry.spans import ActiveSpan, Provider, Spans

log = logging.getLogger(LOGGER)

SPAN: Final = "chio.evaluate"

Pairs = tuple[tuple[str, str], ...]

_TRACE_ID: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Telemetry:
    """The telemetry of one client.

    Args:
        settings: say where the sidecar is.
        provider: `opentelemetry.trace.TracerProvider` that receives the spans; the global one if left out.

    Attributes:
        metrics: the client's counters.
        warn: warns of a refusal, see `chio_core.telemetry.notices.Notices.note`.
    """

    def __init__(self, settings: ChioSettings, provider: Provider | None = None) -> None:
        self.metrics = Metrics()
        self.warn = Notices().note
        self._server = server_facts(settings.sidecar_url)
        self._spans: Spans | None = None
        with suppress(ImportError):  # without the extra `otel` there are no spans
            from chio_core.telemetry.spans import Spans

            self._spans = Spans(provider)

    def watch(self, call: EvaluateCall) -> Watch:
        """Start watching an evaluation; to be used in a `with` statement around the exchange."""
        span, spans = None, self._spans
        # Most applications have the API, because FastAPI depends on it, and no SDK.
        if spans is not None and (spans.stand_in is None or type(spans.stand_in.get_tracer("chio")) is not spans.proxy):
            try:
                parent = dict(call.headers).get(TRACEPARENT)
                span = spans.start(SPAN, parent, lambda: _facts_of(call) | self._server)
            except Exception:  # noqa: BLE001 - see the module's docstring
                _log_failure()
        return Watch(self, call, span)

    def refused(self, decision: Decision, method: str, path: str) -> None:
        """Record a refusal without an evaluation, or by a guard after the evaluation.

        Args:
            method, path: as the client sent them.
        """
        try:
            self.metrics.note(decision)
            level = level_of(decision)
            if decision_log.log.isEnabledFor(level):
                facts = request_facts(method, path, request_id=decision.request_id)
                refusal = decision.denial or decision.withheld
                reason = refusal.message if refusal is not None else None
                decision_log.write(level, decision, facts | decision_facts(decision), reason)
        except Exception:  # noqa: BLE001 - see the module's docstring
            _log_failure()


class Watch:
    """One running evaluation.

    Attributes:
        headers: headers to send: those of the call, with the span's `traceparent` if there is a span.
    """

    __slots__ = ("_call", "_span", "_started", "_telemetry", "headers")

    def __init__(self, telemetry: Telemetry, call: EvaluateCall, span: ActiveSpan | None) -> None:
        self._telemetry = telemetry
        self._call = call
        self._span = span
        self.headers = call.headers
        if span is not None:
            others = (pair for pair in call.headers if pair[0] != TRACEPARENT)
            self.headers = (*others, (TRACEPARENT, span.traceparent))
        self._started = perf_counter()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        try:
            try:
                if kind is not None:  # cancelled: there is no decision
                    span.note({"error.type": kind.__qualname__})
                    span.failed()
            finally:
                span.end()
        except Exception:  # noqa: BLE001 - see the module's docstring
            _log_failure()

    def concluded(self, decision: Decision, reason: str | None = None) -> Decision:
        """Record a decision, and return it.

        Args:
            reason: error message if the evaluation failed; it may end in the sidecar's reason for not deciding.
        """
        seconds = perf_counter() - self._started
        telemetry, span = self._telemetry, self._span
        try:
            telemetry.metrics.note(decision, seconds)
            level = level_of(decision)
            logs = decision_log.log.isEnabledFor(level)
            decided = decision_facts(decision) if logs or span is not None else {}
            if span is not None:
                span.note(decided)
                if is_undecided(decision):
                    span.failed(reason)
            if logs:
                facts = _facts_of(self._call) | telemetry._server | decided
                if (trace_id := trace_id_in(self.headers)) is not None:
                    facts["chio.trace.id"] = trace_id
                decision_log.write(level, decision, facts, reason)
        except Exception:  # noqa: BLE001 - see the module's docstring
            _log_failure()
        return decision


def server_facts(url: str) -> Facts:
    """Return the sidecar's address in the names of OpenTelemetry; nothing for a sidecar in the same process."""
    if url.startswith("embedded:"):
        return {}
    end = Endpoint.parse(split_urls(url)[0])
    if end.socket_path is not None:
        return {"server.address": end.socket_path}
    return {"server.address": end.host, "server.port": end.port}


def trace_id_in(headers: Pairs) -> str | None:
    """Return the trace id in the headers of a call; None if they have no valid `traceparent`."""
    for name, value in headers:
        if name == TRACEPARENT and (found := _TRACE_ID.match(value)) is not None:
            return found[1]
    return None


def _facts_of(call: EvaluateCall) -> Facts:
    request = call.request
    return request_facts(request.method, request.path, call.expectation.template, request.request_id)


def _log_failure() -> None:
    with suppress(Exception):  # the exception may have come from a handler of the log
        log.exception("chio: telemetry failed; the decision stands")
