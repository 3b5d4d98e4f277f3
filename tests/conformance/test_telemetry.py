"""Secrets stay out of spans, lines and metrics, whatever the client sends and the sidecar answers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chio_core.client.client import ChioClient
from chio_core.telemetry import Telemetry
from chio_core.testing import ScriptedSidecar
from tests.conformance.test_secrets import ALL, BODY, MARK, QUERY, SHAPES, TOKEN, _application
from tests.core.exposition import parse
from tests.core.spans import Recorder
from tests.support import call

USABLE = [one for one in ALL if not one.slow and not one.refuses and "huge" not in one.name]
REMOTE = (
    (),
    (("traceparent", f"00-{MARK}"), ("tracestate", f"vendor={MARK}"), ("baggage", f"user={MARK}")),
    (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", f"vendor={MARK}")),
)


@pytest.mark.slow
async def test_no_secret_reaches_a_span_a_line_or_a_metric(full_size: bool, caplog: pytest.LogCaptureFixture) -> None:
    count = 10_000 if full_size else 1_000
    caplog.set_level(logging.DEBUG)
    recorder = Recorder()
    sidecar = ScriptedSidecar(lambda one: USABLE[len(sidecar.asked) % len(USABLE)])
    async with sidecar.serving():
        settings = sidecar.settings(capability_in_query=True)
        async with ChioClient(settings, telemetry=Telemetry(settings, recorder.provider)) as client:
            app = _application(client, [])
            paths = ("/transfers/7", "/open", "/nowhere", "/fails")
            for number in range(count):
                headers: Any = (*SHAPES[number % len(SHAPES)], *REMOTE[number % len(REMOTE)])
                await call(app, "POST", paths[number % len(paths)], query=QUERY, body=BODY, headers=headers)
            page = client.metrics.render()
    spans = [span.to_json() for span in recorder.spans]
    lines = [str(vars(record) | {"message": record.getMessage()}) for record in caplog.records]
    decided = [record for record in caplog.records if record.name == "chio.decision"]
    parse(page)
    assert len(spans) > count / 4
    assert len(decided) == count
    for text in (*spans, *lines, page):
        assert MARK not in text
        assert TOKEN.signature not in text
