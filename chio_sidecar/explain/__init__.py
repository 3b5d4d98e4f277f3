"""Why a request was refused, which rule that was, and which capability would pass.

Nothing is asked of a sidecar and nothing is stored: everything is read out of the refusal itself, a stored
receipt, or a token that is held against the same rules as the sidecar's engine.
"""

from __future__ import annotations

from chio_sidecar.explain.explanation import Explanation, Wanted, explain, required_by
from chio_sidecar.explain.refusal import Refusal, read_refusal
from chio_sidecar.explain.trial import Step, Trial, try_token

__all__ = ["Explanation", "Refusal", "Step", "Trial", "Wanted", "explain", "read_refusal", "required_by", "try_token"]
