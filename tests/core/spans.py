"""Spans that a test can look at, without touching the provider of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Recorder:
    """A provider and what has been recorded through it."""

    def __init__(self, **options: Any) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._kept.get_finished_spans()

    @property
    def evaluations(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == "chio.evaluate"]

    @property
    def only(self) -> ReadableSpan:
        (span,) = self.evaluations
        return span


class Broken(SpanProcessor):
    """A foreign processor that fails."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise RuntimeError("broken at the start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("broken at the end")


class BrokenAtTheEnd(Broken):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        pass


def facts(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def traceparent(span: ReadableSpan) -> str:
    own = span.get_span_context()
    assert own is not None
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
