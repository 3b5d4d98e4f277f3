"""Observe mode in every framework, with every behaviour of a sidecar: all runs, and nothing is passed off as allowed.

The table of outcomes says what enforcing would do; each of its refusals has to come out as a mark with that code.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chio_core.testing import ScriptedSidecar
from tests.conformance import table
from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.outcomes import HEADERS, outcomes_of
from tests.faces.contract import SERVER, TOOL
from tests.faces.faces import Observation, pointing_at

CELLS = [cell for cell in table.read() if not cell.fail_open]


@pytest.mark.slow  # each cell with Starlette and one other driver, in turns, and with all of them at full size
@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_a_request_runs_once_whatever_the_sidecar_does_and_bears_what_was_withheld(
    driver: Driver, full_size: bool
) -> None:
    among = [one for one in DRIVERS.values() if one.asks == driver.asks]
    cells = [cell for cell in CELLS if cell.asks == driver.asks]
    if not full_size and driver.name != "starlette":
        cells = cells[among.index(driver) :: len(among)]
    assert cells
    outcomes = outcomes_of(driver, [cell.behaviour for cell in cells], observe=True)
    for cell in cells:
        outcome = outcomes[cell.behaviour]
        _check(cell, driver, outcome.found)
        told = outcome.told("OBSERVED, NOT REFUSED")
        assert len(told) == (0 if cell.handler else 1), cell
        assert all(one.levelno == logging.WARNING for one in told), cell


def _check(cell: table.Cell, driver: Driver, found: Observation) -> None:
    assert found.status == 200, cell
    assert len(found.seen) == 1, cell
    (seen,) = found.seen
    assert found.headers.get("x-chio-receipt") != "forged", cell
    if driver.tags_success and cell.receipt:  # also the receipt of a refusal that was verified is named
        assert "x-chio-receipt" in found.headers, cell
    if cell.handler:
        assert seen.receipt is not None, cell
        assert seen.passthrough is None, cell
        return
    assert seen.receipt is None, cell
    if seen.decision is None:  # without a middleware, the handler sees only what its dependency gives
        return
    assert seen.decision.observed, cell
    assert seen.decision.allowed, cell
    assert seen.passthrough == seen.decision.passthrough, cell
    assert (seen.passthrough.mode, seen.passthrough.error) == ("observe", cell.code), cell
    assert (seen.decision.withheld.code, seen.decision.withheld.status) == (cell.code, cell.status), cell


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_the_evaluate_request_states_observe_mode_and_what_would_be_required(driver: Driver) -> None:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        for observe in (True, False):
            assert driver.run({**pointing_at(sidecar), "observe": observe}, driver.request(HEADERS)).status == 200
    observed, enforced = sidecar.asked
    required = {"requires": f"{SERVER}/{TOOL}"} if driver.asks == "capability" else {}
    found = observed.document["enforcement"]
    stated = {name: text for name, text in found.items() if name not in ("framework", "view")}
    assert stated == {"mode": "observe"} | required
    assert "enforcement" not in enforced.document


REFUSED_UNASKED: dict[int, dict[str, Any]] = {
    405: {"method": "BREW"},
    400: {"headers": (*HEADERS, ("authorization", "Bearer b"))},
    413: {"body": b"x" * 2000},
    414: {"target": "/accounts/" + "7" * 9000},
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
def test_what_is_refused_without_an_evaluation_runs_in_observe_mode(driver: Driver, status: int) -> None:
    request = driver.request(**{"headers": HEADERS, **REFUSED_UNASKED[status]})
    with ScriptedSidecar().serving_in_thread() as sidecar:
        options = {**pointing_at(sidecar), "max_body_bytes": 1000}
        enforced = driver.run(options, request)
        found = driver.run({**options, "observe": True}, request)
    assert driver.asks == "capability" or enforced.status == status
    assert enforced.seen == []
    assert "chio" not in found.body.decode(errors="replace") or found.seen, found
    assert found.status in (200, 404, 405)
    assert all(one.document["enforcement"]["refused"].startswith(str(status)) for one in sidecar.asked)
