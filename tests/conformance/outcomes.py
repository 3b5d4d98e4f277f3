"""What comes out of a framework for each behaviour of a sidecar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chio_core.testing import Behaviour, ScriptedSidecar
from chio_core.testing.behaviours import HANG, REFUSE
from tests.conformance.drivers import Driver
from tests.faces.contract import SERVER, TOOL
from tests.faces.faces import Observation, pointing_at
from tests.faces.wire import Wire
from tests.hostile import BEHAVIOURS, faults
from tests.tokens import token

TIMEOUTS, LONG = (0.05, 0.5, 5.0), 20.0
"""Seconds: `timeout` for a slow sidecar, with more for a machine that was too slow itself; and for all others."""

TOKEN = token((SERVER, TOOL))

HEADERS = (
    ("content-type", "application/json"),
    ("authorization", "Bearer a-token"),
    ("x-chio-capability", TOKEN),
    ("x-chio-receipt", "forged"),
)

FAULTS = (REFUSE, HANG, *faults.BEHAVIOURS)


@dataclass
class Outcome:
    """What came out of one request, and the warnings that were logged meanwhile."""

    found: Observation
    warnings: list[logging.LogRecord]

    def told(self, text: str) -> list[logging.LogRecord]:
        """Return the warnings with a text in them."""
        return [record for record in self.warnings if text in record.getMessage()]


def outcomes_of(driver: Driver, names: Iterable[str], **settings: Any) -> Mapping[str, Outcome]:
    """Return the outcome of one request for each behaviour."""
    found: dict[str, Outcome] = {}
    sidecar = ScriptedSidecar()
    with sidecar.serving_in_thread(), answered(driver, sidecar, **settings) as send:
        for behaviour in (BEHAVIOURS[name] for name in names):
            for timeout in TIMEOUTS if behaviour.slow else (LONG,):
                with noted(behaviour) as warnings:
                    outcome = Outcome(send(behaviour, driver.request(HEADERS), timeout), warnings)
                if not _was_overloaded(outcome.found, driver):
                    break
            found[behaviour.name] = outcome
    return found


def _was_overloaded(found: Observation, driver: Driver) -> bool:
    marks = {seen.passthrough.error for seen in found.seen if seen.passthrough is not None}
    return found.code == driver.code("chio_overloaded") or "chio_overloaded" in marks


@contextmanager
def answered(
    driver: Driver, sidecar: ScriptedSidecar, **settings: Any
) -> Iterator[Callable[[Behaviour, Wire, float], Observation]]:
    """Open an application; gives a function that sends it one request, which is answered by a behaviour.

    Behaviours that end or garble the connection, and slow ones, get their own application: they could leave
    something behind that the next exchange would meet.
    """
    options = {**pointing_at(sidecar), "timeout": LONG, **settings}
    with driver.opened(options) as shared:

        def send(behaviour: Behaviour, wire: Wire, timeout: float = LONG) -> Observation:
            if behaviour.refuses:
                with ScriptedSidecar(behaviour).serving_in_thread() as deaf:
                    return driver.run({**options, **pointing_at(deaf)}, wire)
            sidecar.script = behaviour
            if behaviour not in FAULTS:
                return shared(wire)
            return driver.run({**options, "timeout": timeout}, wire)

        yield send


@contextmanager
def noted(behaviour: Behaviour) -> Iterator[list[logging.LogRecord]]:
    """Collect the warnings of `chio`; an error gets the behaviour's name as a note."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("chio")
    logger.addHandler(handler)
    try:
        yield records
    except Exception as exc:
        exc.add_note(f"with the behaviour {behaviour}")
        raise
    finally:
        logger.removeHandler(handler)
