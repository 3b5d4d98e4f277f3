"""The table of outcomes, read from `outcomes.csv`: the single statement of the outcome of every behaviour.

| column | meaning |
|---|---|
| behaviour | name in `tests.hostile.BEHAVIOURS` |
| asks | `middleware`, `capability` (the route requires one), or `*` for both |
| fail_open | `no`, `yes`, or `*` for both |
| status | of the answer to the caller |
| code | wire code in the answer; `-` when the handler answers |
| handler | how often the handler runs |
| receipt | whether the response header names a verified receipt |
| passthrough | wire code of the mark that the request bears when it runs without a decision; `-` for none |
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("outcomes.csv")
ASKS = ("middleware", "capability")
FAIL_OPEN = ("no", "yes")


@dataclass(frozen=True)
class Cell:
    """One row for one way of asking and one setting of `fail_open`."""

    behaviour: str
    asks: str
    fail_open: bool
    status: int
    code: str | None
    handler: int
    receipt: bool
    passthrough: str | None

    def __str__(self) -> str:
        return f"{self.behaviour}-{'open' if self.fail_open else 'closed'}"


def read() -> list[Cell]:
    """Read the table, every `*` written out."""
    with FILE.open(newline="") as file:
        return [cell for row in csv.DictReader(file) for cell in _cells(row)]


def _cells(row: dict[str, str]) -> Iterator[Cell]:
    for asks in ASKS if row["asks"] == "*" else (row["asks"],):
        for fail_open in FAIL_OPEN if row["fail_open"] == "*" else (row["fail_open"],):
            yield Cell(
                row["behaviour"],
                asks,
                fail_open == "yes",
                int(row["status"]),
                None if row["code"] == "-" else row["code"],
                int(row["handler"]),
                row["receipt"] == "yes",
                None if row["passthrough"] == "-" else row["passthrough"],
            )
