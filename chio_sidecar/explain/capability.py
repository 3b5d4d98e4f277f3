"""Wanted: a capability that would pass, how to name it, and the command that issues it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chio_core.evaluation.outcomes import granted_operations
from chio_core.models.capability import ToolGrant

ISSUE = "chio-sidecar capability issue"

UNKNOWN_ISSUER = ("--receipt-store", "FILE")
"""The issuer of a command line when nobody named one: the reader has to fill in the sidecar's store, see `FILL_IN`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability.

    Attributes:
        server, tool: what one grant must name; None when any tool will do, or nobody can tell.
        operations: what that grant must contain.
        constraints: conditions that the grant carries, as JSON objects.
        max_invocations: how often it may be used; None is without limit.
        subject: public key of its holder; None for nobody in particular.
    """

    server: str | None = None
    tool: str | None = None
    operations: tuple[str, ...] = ("invoke",)
    constraints: tuple[Any, ...] = ()
    max_invocations: int | None = None
    subject: str | None = None

    @classmethod
    def of_grant(cls, grant: ToolGrant, subject: str | None = None) -> Wanted:
        """Return what a grant of a token gives."""
        return cls(
            grant.server_id,
            grant.tool_name,
            tuple(grant.operations) or ("invoke",),
            tuple(constraint.to_signed() for constraint in grant.constraints),
            grant.max_invocations,
            subject,
        )

    @property
    def title(self) -> str:
        """`server/tool:operations`, for example `payments/transfer:invoke`, and the constraints behind it."""
        if self.server is None or self.tool is None:
            return "any valid capability of a trusted issuer"
        name = f"{self.server}/{self.tool}:{','.join(self.operations)}"
        return " ".join([name, *(_json(constraint) for constraint in self.constraints)])

    def command(self, issuer: Sequence[str] = UNKNOWN_ISSUER) -> str:
        """Return the command line that issues it, quoted for a POSIX shell.

        Args:
            issuer: the option that says who signs, with its value.
        """
        words = [*issuer, "--server", self.server or "SERVER", "--tool", self.tool or "TOOL"]
        operations = granted_operations(self.operations)
        if operations != ("invoke",):
            words += [word for operation in operations for word in ("--operation", operation)]
        words += [word for constraint in self.constraints for word in ("--constraint", _json(constraint))]
        if self.max_invocations is not None:
            words += ["--max-invocations", str(self.max_invocations)]
        if self.subject is not None and self.subject.strip("0"):
            words += ["--subject", self.subject]
        # An option's value that begins with a hyphen would be read as an option.
        return f"{ISSUE} {' '.join(_joined(words))}"


def _joined(words: Sequence[str]) -> list[str]:
    found: list[str] = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        found.append(shlex.quote(f"{option}={value}") if value.startswith("-") else f"{option} {shlex.quote(value)}")
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
