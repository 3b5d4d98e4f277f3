"""The counters against the table of outcomes: each passage, refusal and allow is counted once, and logged once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask
from prometheus_client.core import Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware, metrics_app
from chio_core.client.client import ChioClient
from chio_core.telemetry import Telemetry
from chio_core.testing import ScriptedSidecar
from chio_flask import Chio
from chio_flask import metrics as flask_metrics
from tests.conformance import table
from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.test_secrets import ALL, BODY, MARK, QUERY, SHAPES, TOKEN, _application
from tests.core.exposition import parse, value
from tests.core.spans import Recorder
from tests.hostile import BEHAVIOURS
from tests.support import call, run

CELLS = [cell for cell in table.read() if cell.asks == "middleware"]
QUICK = [cell for cell in CELLS if not BEHAVIOURS[cell.behaviour].slow and not BEHAVIOURS[cell.behaviour].refuses]
SLOW = [
    cell for cell in CELLS if cell not in QUICK and cell.behaviour in ("hang", "hang_in_body", "refuse_connections")
]


class World:
    """One application and one set of counters, whatever the sidecar does."""

    def __init__(self) -> None:
        self.ran: list[Request] = []
        self.cells: list[table.Cell] = []
        self.telemetry = Telemetry(ScriptedSidecar().settings())

    async def ask(self, sidecar: ScriptedSidecar, cell: table.Cell) -> None:
        async def transfer(request: Request) -> JSONResponse:
            self.ran.append(request)
            return JSONResponse({})

        settings = sidecar.settings(fail_open=cell.fail_open, timeout=0.5 if BEHAVIOURS[cell.behaviour].slow else 20.0)
        async with ChioClient(settings, telemetry=self.telemetry) as client:
            app = ChioASGIMiddleware(
                Starlette(routes=[Route("/transfers/{transfer_id}", transfer, methods=["POST"])]), client=client
            )
            before, passes = len(self.ran), self.telemetry.metrics.passthroughs.total
            reply = await call(app, "POST", "/transfers/7")
            assert reply.status == cell.status, cell
            assert len(self.ran) - before == cell.handler, cell
            assert self.telemetry.metrics.passthroughs.total - passes == (cell.passthrough is not None), cell
        self.cells.append(cell)


def test_the_counters_agree_with_the_table_cell_by_cell(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    caplog.set_level(logging.INFO, logger="chio.decision")
    current: list[table.Cell] = []
    scripted = ScriptedSidecar(lambda _: BEHAVIOURS[current[0].behaviour])

    async def main() -> None:
        async with scripted.serving():
            for cell in QUICK:
                current[:] = [cell]
                await world.ask(scripted, cell)
        for cell in SLOW:
            async with ScriptedSidecar(BEHAVIOURS[cell.behaviour]).serving() as sidecar:
                await world.ask(sidecar, cell)

    run(main())
    metrics = world.telemetry.metrics
    passes = [cell for cell in world.cells if cell.passthrough]
    assert len(passes) == 3
    assert metrics.passthroughs.total == len(passes) == sum(not one.state.chio_receipt for one in world.ran)
    page = parse(metrics.render())
    for reason, count in Counter(cell.passthrough for cell in passes).items():
        assert value(page, "chio_passthroughs_total", reason=str(reason)) == count
    for code, count in Counter(cell.code or cell.passthrough or "none" for cell in world.cells).items():
        series = page["chio_decisions_total"].samples
        assert sum(sample.value for sample in series if sample.labels["code"] == code) == count, code
    assert metrics.decisions.total == metrics.seconds.count == len(world.cells) > 200
    lines = [record for record in caplog.records if record.name == "chio.decision"]
    assert len(lines) == len(world.cells)
    assert sum("PASSED WITHOUT A DECISION" in line.getMessage() for line in lines) == len(passes)


REFUSED_HERE: dict[int, dict[str, Any]] = {
    400: {"headers": (("authorization", "a"), ("authorization", "b"))},
    405: {"method": "PROPFIND"},
    413: {"body": b"x" * 2000},
    414: {"target": "/" + "x" * 9000},
}


@pytest.mark.parametrize("status", REFUSED_HERE)
@pytest.mark.parametrize(
    "driver",
    [one for one in DRIVERS.values() if one.asks == "middleware" and one.name != "synchronous"],
    ids=lambda driver: driver.name,
)
def test_a_refusal_without_an_evaluation_is_one_line_in_every_framework(
    driver: Driver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="chio.decision")
    settings = {**ScriptedSidecar().settings().model_dump(include={"trusted_kernel_keys"}), "max_body_bytes": 1000}
    found = driver.run(settings, driver.request(**REFUSED_HERE[status]))
    assert found.status == status
    (line,) = [record for record in caplog.records if record.name == "chio.decision"]
    assert (line.levelno, vars(line)["chio_status"], vars(line)["chio_verdict"]) == (logging.INFO, status, "refused")


async def _mounted(client: ChioClient) -> Mapping[str, Metric]:
    app = Starlette()
    app.mount("/metrics", metrics_app(client))
    governed = ChioASGIMiddleware(app, client=client)
    assert (await call(governed, "POST", "/nowhere")).status == 404
    reply = await call(governed, "GET", "/metrics/")
    assert (reply.status, reply.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert reply.receipt is None
    head = await call(governed, "HEAD", "/metrics/")
    assert (head.body, head.header("content-length")) == (b"", reply.header("content-length"))
    assert (await call(governed, "POST", "/metrics/")).status == 405
    return parse(reply.body.decode())


def test_an_application_may_mount_the_page() -> None:
    async def main() -> Mapping[str, Metric]:
        sidecar = ScriptedSidecar()
        async with sidecar.client(exclude_prefixes=["/metrics"]) as client:
            return await _mounted(client)

    assert value(run(main()), "chio_decisions_total", verdict="allow", code="none") == 1


def test_flask_has_the_page_as_a_view() -> None:
    app = Flask(__name__, static_folder=None)
    app.add_url_rule("/metrics", view_func=flask_metrics)
    with ScriptedSidecar().serving_in_thread() as sidecar:
        options: dict[str, Any] = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key]}
        chio = Chio(app, exclude_paths=["/metrics"], **options)
        try:
            assert app.test_client().post("/transfers/7").status_code == 404
            page = app.test_client().get("/metrics")
        finally:
            chio.close(app)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert value(parse(page.text), "chio_decisions_total", verdict="allow", code="none") == 1


# Secrets stay out of spans, lines and metrics, whatever the client sends and the sidecar answers


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
