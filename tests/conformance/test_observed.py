"""Observe mode in every framework, with every behaviour of a sidecar: all runs, and nothing is passed off as allowed.

The table of outcomes says what enforcing would do; each of its refusals has to come out as a mark with that code.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chio_core.testing import BEHAVIOURS, ScriptedSidecar
from tests.conformance import table
from tests.conformance.drivers import DRIVERS, SERVER, TOOL, Driver, Observation, Sent
from tests.conformance.test_outcomes import HEADERS, LONG, SHORT

CELLS = [cell for cell in table.read() if not cell.fail_open]
PER_CELL = 1
"""Frameworks that take their turn with one behaviour; all of them under `make chaos`."""


def _ask(driver: Driver, sidecar: ScriptedSidecar, **settings: Any) -> Observation:
    options = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], "observe": True, **settings}
    return driver.run(options, Sent(headers=HEADERS))


def _drivers(cell: table.Cell, full_size: bool) -> list[Driver]:
    drivers = [one for one in DRIVERS.values() if one.asks == cell.asks]
    first = CELLS.index(cell) % len(drivers)
    return drivers if full_size else (drivers + drivers)[first : first + PER_CELL]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.asks}-{cell.behaviour}")
def test_a_request_runs_once_whatever_the_sidecar_does_and_bears_what_was_withheld(
    cell: table.Cell, caplog: pytest.LogCaptureFixture, full_size: bool
) -> None:
    behaviour = BEHAVIOURS[cell.behaviour]
    timeout = SHORT if behaviour.slow else LONG
    with ScriptedSidecar(behaviour).serving_in_thread() as sidecar, caplog.at_level(logging.WARNING, logger="chio"):
        for driver in _drivers(cell, full_size):
            caplog.clear()
            found = _ask(driver, sidecar, timeout=timeout)
            _check(cell, driver, found)
            told = [one for one in caplog.records if "OBSERVED, NOT REFUSED" in one.getMessage()]
            assert len(told) == (0 if cell.handler else 1), driver.name
            assert all(one.levelno == logging.WARNING for one in told)


def _check(cell: table.Cell, driver: Driver, found: Observation) -> None:
    assert found.status == 200, driver.name
    (seen,) = found.seen
    assert found.headers.get("x-chio-receipt") != "forged"
    if driver.tags_success and cell.receipt:  # also the receipt of a refusal that was verified is named
        assert "x-chio-receipt" in found.headers, driver.name
    if cell.handler:
        assert seen.receipt is not None
        assert seen.passthrough is None
        return
    assert seen.receipt is None, driver.name
    if seen.decision is None:  # without a middleware, the handler sees only what its dependency gives
        return
    assert seen.decision.observed
    assert seen.decision.allowed
    assert seen.passthrough == seen.decision.passthrough
    assert (seen.passthrough.mode, seen.passthrough.error) == ("observe", cell.code), driver.name
    assert (seen.decision.withheld.code, seen.decision.withheld.status) == (cell.code, cell.status), driver.name


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_the_sidecar_is_told_what_is_only_observed_and_what_would_be_required(driver: Driver) -> None:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        assert _ask(driver, sidecar).status == 200
        assert _ask(driver, sidecar, observe=False).status == 200
    observed, enforced = sidecar.asked
    required = {"requires": f"{SERVER}/{TOOL}"} if driver.asks == "capability" else {}
    assert observed.document["enforcement"] == {"mode": "observe"} | required
    assert "enforcement" not in enforced.document


REFUSED_UNASKED = {
    405: Sent(method="BREW", headers=HEADERS),
    400: Sent(headers=(*HEADERS, ("authorization", "Bearer b"))),
    413: Sent(headers=HEADERS, body=b"x" * 2000),
    414: Sent(headers=HEADERS, path="/transfers/" + "7" * 9000),
}


@pytest.mark.parametrize(
    ("driver", "status"),
    [
        pytest.param(driver, status, id=f"{driver.name}-{status}")
        for driver in DRIVERS.values()
        for status in REFUSED_UNASKED
        if (driver.name, status) != ("synchronous", 413)  # the core alone reads no body
    ],
)
def test_what_cannot_be_judged_is_refused_as_ever(driver: Driver, status: int) -> None:
    request = REFUSED_UNASKED[status]
    with ScriptedSidecar().serving_in_thread() as sidecar:
        options = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], "max_body_bytes": 1000}
        enforced = driver.run(options, request)
        found = driver.run({**options, "observe": True}, request)
    assert (found.status, found.body, found.seen) == (enforced.status, enforced.body, [])
    assert driver.asks == "capability" or found.status == status
    assert not sidecar.asked
