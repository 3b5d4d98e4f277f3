"""Every behaviour of a sidecar, in every framework, with and without `fail_open`: the table, cell by cell."""

from __future__ import annotations

import pytest

from chio_core.testing import ScriptedSidecar
from tests.conformance import table
from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.outcomes import HEADERS, TOKEN, outcomes_of
from tests.faces.contract import SERVER, TOOL
from tests.faces.faces import pointing_at
from tests.hostile import BEHAVIOURS

CELLS = table.read()
MAY_OPEN = {"chio_sidecar_unreachable", "chio_timeout"}


@pytest.mark.parametrize("fail_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_each_behaviour_has_the_outcome_of_the_table(driver: Driver, fail_open: bool) -> None:
    outcomes = outcomes_of(driver, BEHAVIOURS, fail_open=fail_open)
    for cell in (one for one in CELLS if (one.asks, one.fail_open) == (driver.asks, fail_open)):
        outcome = outcomes[cell.behaviour]
        found = outcome.found
        assert (found.status, found.code) == (cell.status, cell.code and driver.code(cell.code)), cell
        assert len(found.seen) == cell.handler, cell
        tagged = cell.receipt and (driver.tags_success or not cell.handler)
        assert ("x-chio-receipt" in found.headers) == tagged, cell
        assert found.headers.get("x-chio-receipt") != "forged", cell
        for seen in found.seen:
            assert (seen.receipt is not None) == cell.receipt, cell
            assert (seen.passthrough.error if seen.passthrough else None) == cell.passthrough, cell
        assert len(outcome.told("PASSED WITHOUT A DECISION")) == (1 if cell.passthrough else 0), cell


def test_the_table_has_each_behaviour_in_each_mode_exactly_once() -> None:
    found = [(cell.behaviour, cell.asks, cell.fail_open) for cell in CELLS]
    wanted = {(name, asks, fail_open) for name in BEHAVIOURS for asks in table.ASKS for fail_open in (False, True)}
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_the_table_has_at_least_four_hundred_refusing_cells() -> None:
    refusing = [cell for cell in CELLS if not cell.handler]
    assert sum(driver.asks == cell.asks for driver in DRIVERS.values() for cell in refusing) >= 400


def test_the_table_lets_nothing_run_without_a_receipt_but_a_passage_that_was_chosen() -> None:
    for cell in CELLS:
        assert cell.handler == (1 if cell.status == 200 else 0)
        assert cell.handler == 0 or cell.receipt or (cell.passthrough in MAY_OPEN and cell.fail_open)
        assert not (cell.receipt and cell.passthrough)


def test_fail_open_changes_only_unreachable_and_timeout_and_never_where_a_capability_is_required() -> None:
    closed = {(cell.behaviour, cell.asks): cell for cell in CELLS if not cell.fail_open}
    for cell in (cell for cell in CELLS if cell.fail_open):
        before = closed[cell.behaviour, cell.asks]
        if cell.passthrough:
            assert cell.asks == "middleware"
            assert before.code in MAY_OPEN
        else:
            assert (cell.status, cell.code, cell.handler) == (before.status, before.code, before.handler)


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_the_evaluate_request_is_the_same_in_every_framework(driver: Driver) -> None:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        assert driver.run(pointing_at(sidecar), driver.request(HEADERS)).status == 200
    (asked,) = sidecar.asked
    question = dict(asked.document)
    assert question.pop("request_id")
    assert question.pop("timestamp")
    assert asked.capability_text == TOKEN
    tool = {"tool_server": SERVER, "tool_name": TOOL} if driver.asks == "capability" else {}
    assert question == {
        "method": "POST",
        "route_pattern": driver.template,
        "path": driver.template.replace("{account}", "7"),
        "headers": {"content-type": "application/json", "content-length": "12"},
        "caller": {
            "subject": "1f6076e3a47ba1ded08025ffe06e57af217c14f9407f33fba50f99b1c7019387",
            "auth_method": {
                "method": "bearer",
                "token_hash": "1f6076e3a47ba1ded08025ffe06e57af217c14f9407f33fba50f99b1c7019387",
            },
            "verified": False,
        },
        "body_hash": "7e84cbf0f7a7c92c037058665d66152f8eb8580ab2534e52c877bccceb9cc7bf",
        "body_length": 12,
        **tool,
    }
