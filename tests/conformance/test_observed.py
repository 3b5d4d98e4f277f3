"""Observe mode in every framework, with every behaviour of a sidecar: all runs, and nothing is passed off as allowed.

The table of outcomes says what enforcing would do; each of its refusals has to come out as a mark with that code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from chio_core.testing import ScriptedSidecar
from tests.conformance import table
from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.outcomes import HEADERS, Outcome, outcomes_of
from tests.faces.contract import SERVER, TOOL
from tests.faces.faces import Observation, pointing_at

CELLS = [cell for cell in table.read() if not cell.fail_open]


@pytest.fixture(scope="module")
def outcomes(full_size: bool) -> Callable[[table.Cell], dict[str, Outcome]]:
    """The outcomes of a cell by driver: one driver each, in turns; all of them under `make chaos`."""
    drivers = {asks: [one for one in DRIVERS.values() if one.asks == asks] for asks in table.ASKS}
    turns: dict[str, list[table.Cell]] = {name: [] for name in DRIVERS}
    for number, cell in enumerate(CELLS):
        among = drivers[cell.asks]
        for driver in among if full_size else [among[number % len(among)]]:
            turns[driver.name].append(cell)
    found = {
        name: outcomes_of(DRIVERS[name], [cell.behaviour for cell in cells], observe=True)
        for name, cells in turns.items()
    }
    return lambda cell: {name: found[name][cell.behaviour] for name, cells in turns.items() if cell in cells}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.asks}-{cell.behaviour}")
def test_a_request_runs_once_whatever_the_sidecar_does_and_bears_what_was_withheld(
    cell: table.Cell, outcomes: Callable[[table.Cell], dict[str, Outcome]]
) -> None:
    assert outcomes(cell)
    for name, outcome in outcomes(cell).items():
        _check(cell, DRIVERS[name], outcome.found)
        told = outcome.told("OBSERVED, NOT REFUSED")
        assert len(told) == (0 if cell.handler else 1), name
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
