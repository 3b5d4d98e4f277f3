"""Check: one line of the doctor's report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from chio_core.errors import ChioError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one thing.

    Attributes:
        name: for example `setting.timeout`.
        text: one sentence or value, without secrets.
        remedy: what to do; None where nothing has to be done.
        facts: further members for programs, for example `source`.
    """

    name: str
    status: Status
    text: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return it as a line for people."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.status:4} {self.name}: {self.text}{remedy}"

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object; what is absent is left out."""
        document = {"check": self.name, "status": self.status, "message": self.text, "remedy": self.remedy}
        return {name: value for name, value in document.items() if value is not None} | self.facts


def guarded(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return what a function finds; when it breaks, that is one more finding."""
    found: list[Check] = []
    try:
        found.extend(look())
    except ChioError as exc:
        found.append(Check(name, "fail", exc.message))
    except Exception as exc:  # noqa: BLE001 - whatever one check meets, the others are still to be made
        found.append(Check(name, "fail", f"this could not be checked: {type(exc).__name__}: {exc}"))
    return found
