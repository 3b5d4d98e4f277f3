"""Checks of everything that a governed application needs: settings, packages, clock, key, store, sidecar.

No check creates, repairs or writes anything, with one exception: a sidecar that answers a health request commits a
probe to its own store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from chio_core.errors import ChioError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: for example `setting.timeout`.
        text: one sentence or value, without secrets.
        remedy: what to do; None if nothing has to be done.
        facts: further members for programs, for example `source`.
    """

    name: str
    status: Status
    text: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the check as a line for people."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.status:4} {self.name}: {self.text}{remedy}"

    def document(self) -> dict[str, Any]:
        """Return the check as a JSON object without absent members."""
        document = {"check": self.name, "status": self.status, "message": self.text, "remedy": self.remedy}
        return {name: value for name, value in document.items() if value is not None} | self.facts


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return what a function yields; an exception of it becomes one more check `name`, which fails."""
    found: list[Check] = []
    try:
        found.extend(checks())
    except ChioError as exc:
        found.append(Check(name, "fail", exc.message))
    except Exception as exc:  # noqa: BLE001 - whatever breaks one check, the others still run
        found.append(Check(name, "fail", f"this could not be checked: {type(exc).__name__}: {exc}"))
    return found
