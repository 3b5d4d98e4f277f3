"""What a token can be refused for. The texts are those of the protocol, so that a denial can carry them."""

from __future__ import annotations

from typing import Literal

from chio_core.errors import InvalidDocument

Rule = Literal["R2", "R3", "R4", "R5a", "R5b", "delegation"]
"""Which rule refused: a row of the table in wire protocol, section 1.6, or the chain rules of section 5.4."""


class CapabilityRejected(InvalidDocument):
    """A token that cannot be read or does not verify.

    Attributes:
        reason: the exact text of the protocol; it never repeats the token's content beyond its two times.
        rule: which rule refused.
    """

    code = "chio_invalid_capability"

    def __init__(self, reason: str, *, rule: Rule = "R2") -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule


class ConstraintError(InvalidDocument):
    """A scope that cannot be evaluated; the request must be refused even if another grant would match.

    Attributes:
        reason: the exact text of the protocol (R6x).
    """

    code = "chio_invalid_capability"

    def __init__(self, detail: str) -> None:
        self.reason = f"failed to evaluate capability scope: {detail}"
        super().__init__(self.reason)


class PatternError(ValueError):
    """A regular expression that does not compile; the text says why."""
