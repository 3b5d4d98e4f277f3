"""Spans through `opentelemetry-api`, imported only if it is installed (extra `otel`; FastAPI depends on it).

Without an SDK nothing is recorded and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chio_core.names import TRACEPARENT

Provider = trace.TracerProvider
"""Receives spans."""

_PARENTS = TraceContextTextMapPropagator()


class Spans:
    """Starts the spans of one client.

    Args:
        provider: receives them; if left out, the provider that is global at the time of each span.

    Attributes:
        stand_in: what the API has without an SDK; None before the first span, or with an SDK. As long as its tracers
            are of the type `proxy`, there is no provider and no span is made. Asking it takes a fraction of the time of
            asking the API, which reads the environment each time.
    """

    proxy = trace.ProxyTracer

    def __init__(self, provider: Provider | None = None) -> None:
        self._provider = provider
        self._known: tuple[Provider, trace.Tracer] | None = None
        self.stand_in: trace.ProxyTracerProvider | None = None

    def start(self, name: str, parent: str | None, facts: Callable[[], Mapping[str, Any]]) -> ActiveSpan | None:
        """Start a span and make it the current one; return None without an SDK.

        Args:
            parent: `traceparent` of the evaluated request: the parent unless a span is current already.
            facts: returns the attributes; called only if a span is made.
        """
        provider = self._provider or trace.get_tracer_provider()
        if type(provider) is trace.ProxyTracerProvider:
            self.stand_in = provider
            return None
        above = context.get_current()
        if parent is not None and not trace.get_current_span(above).get_span_context().is_valid:
            above = _PARENTS.extract({TRACEPARENT: parent}, above)
        if self._known is None or self._known[0] is not provider:
            self._known = provider, provider.get_tracer("chio")
        span = self._known[1].start_span(name, above, trace.SpanKind.CLIENT, attributes=dict(facts()))
        if not span.get_span_context().is_valid:
            return None
        return ActiveSpan(span, context.attach(trace.set_span_in_context(span, above)))


class ActiveSpan:
    """A span that is the current one until `end`."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span, token: Token[context.Context]) -> None:
        self._span = span
        self._token = token

    @property
    def traceparent(self) -> str:
        """The header that makes this span the parent of the sidecar's spans (W3C Trace Context)."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add attributes."""
        if self._span.is_recording():
            self._span.set_attributes(facts)

    def failed(self, description: str | None = None) -> None:
        """Set the status to ERROR."""
        self._span.set_status(trace.StatusCode.ERROR, description)

    def end(self) -> None:
        """End it, and make the span before it current again."""
        try:
            self._span.end()
        finally:
            context.detach(self._token)
