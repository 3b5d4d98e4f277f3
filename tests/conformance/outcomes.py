"""What comes out of a framework for each behaviour of a sidecar."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey
from chio_core.testing import BEHAVIOURS, Behaviour, ScriptedSidecar
from chio_core.testing.faults import BEHAVIOURS as FAULTS
from tests.conformance.window import SERVER, TOOL, Driver, Observation, Sent

SHORT, LONG = 0.05, 20.0
"""Seconds: `timeout` for a sidecar that never answers in time, and for all others."""

TOKEN = issue_capability(
    SigningKey(bytes([0x31]) * 32),
    subject=SigningKey(bytes([0x32]) * 32).public_hex,
    scope={"grants": [{"server_id": SERVER, "tool_name": TOOL, "operations": ["invoke"]}]},
    ttl_seconds=3600,
).to_header()

HEADERS = (
    ("content-type", "application/json"),
    ("authorization", "Bearer a-token"),
    ("x-chio-capability", TOKEN),
    ("x-chio-receipt", "forged"),
)
REQUEST = Sent(headers=HEADERS)


@dataclass
class Outcome:
    """What came out of one request, and the warnings that were logged meanwhile."""

    found: Observation
    warnings: list[logging.LogRecord]

    def told(self, text: str) -> list[logging.LogRecord]:
        """Return the warnings with a text in them."""
        return [record for record in self.warnings if text in record.getMessage()]


def outcomes_of(driver: Driver, names: Iterable[str], **settings: Any) -> Mapping[str, Outcome]:
    """Return the outcome of one request for each behaviour.

    Behaviours that end or garble the connection, and slow ones, get an application of their own: the exchange after
    such a one could meet what it left behind.
    """
    behaviours = [BEHAVIOURS[name] for name in names]
    found: dict[str, Outcome] = {}
    with ScriptedSidecar().serving_in_thread() as sidecar:
        options = {**pointing_at(sidecar), "timeout": LONG, **settings}
        with driver.opened(options) as send:
            for behaviour in (one for one in behaviours if one not in FAULTS):
                sidecar.script = behaviour
                with noted(behaviour) as warnings:
                    found[behaviour.name] = Outcome(send(REQUEST), warnings)
        for behaviour in (one for one in behaviours if one in FAULTS and not one.refuses):
            sidecar.script = behaviour
            with noted(behaviour) as warnings:
                timeout = SHORT if behaviour.slow else LONG
                found[behaviour.name] = Outcome(driver.run({**options, "timeout": timeout}, REQUEST), warnings)
    for behaviour in (one for one in behaviours if one.refuses):
        with ScriptedSidecar(behaviour).serving_in_thread() as deaf, noted(behaviour) as warnings:
            found[behaviour.name] = Outcome(driver.run({**options, **pointing_at(deaf)}, REQUEST), warnings)
    return found


def pointing_at(sidecar: ScriptedSidecar) -> dict[str, Any]:
    """Return the settings that name a sidecar and pin its key."""
    return {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key]}


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
