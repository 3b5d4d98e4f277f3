"""Spans through `opentelemetry-api`, imported only where it is installed (extra `otel`; FastAPI brings it along).

Without an SDK nothing is recorded, nothing is sent, and asking costs less than a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chio_core.names import TRACEPARENT

Provider = trace.TracerProvider
"""Where spans go."""

_PARENTS = TraceContextTextMapPropagator()


class Spans:
    """Starts the spans of one client.

    Args:
        provider: where they go; the global provider, as it is at each question, when left out.
    """

    def __init__(self, provider: Provider | None = None) -> None:
        self._provider = provider
        self._known: tuple[Provider, trace.Tracer] | None = None

    def start(self, name: str, parent: str | None, facts: Callable[[], Mapping[str, Any]]) -> ActiveSpan | None:
        """Start a span and make it the current one; None where no SDK is at work.

        Args:
            parent: `traceparent` of the request that is judged. It counts where nobody has begun a span for that
                request yet; otherwise that span is the parent.
            facts: returns its attributes; called only where there is a span.
        """
        provider = self._provider or trace.get_tracer_provider()
        if type(provider) is trace.ProxyTracerProvider:
            return None
        above = context.get_current()
        if parent is not None and not trace.get_current_span(above).get_span_context().is_valid:
            above = _PARENTS.extract({TRACEPARENT: parent}, above)
        span = self._tracer(provider).start_span(name, above, trace.SpanKind.CLIENT, attributes=dict(facts()))
        if not span.get_span_context().is_valid:
            return None
        return ActiveSpan(span, context.attach(trace.set_span_in_context(span, above)))

    def _tracer(self, provider: Provider) -> trace.Tracer:
        known = self._known
        if known is None or known[0] is not provider:
            known = self._known = (provider, provider.get_tracer("chio"))
        return known[1]


class ActiveSpan:
    """A span that is the current one until `end`."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span, token: Token[context.Context]) -> None:
        self._span = span
        self._token = token

    @property
    def traceparent(self) -> str:
        """The header that makes this span the parent of what the other side does (W3C Trace Context)."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add attributes."""
        if self._span.is_recording():
            self._span.set_attributes(facts)

    def failed(self, description: str | None = None) -> None:
        """Mark it as one that did not do what it was for."""
        self._span.set_status(trace.StatusCode.ERROR, description)

    def end(self) -> None:
        """End it; whatever was current before is so again."""
        try:
            self._span.end()
        finally:
            context.detach(self._token)
