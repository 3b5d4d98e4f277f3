"""Why a request was refused, by which rule, and which capability would be allowed.

Nothing is sent to a sidecar and nothing is stored: everything comes from the refusal itself, a stored receipt, or a
token that is checked by the same rules as in the sidecar's engine.
"""

from __future__ import annotations

from chio_sidecar.explain.explanation import Explanation, Wanted, explain, required_by
from chio_sidecar.explain.inputs import Refusal, read_refusal
from chio_sidecar.explain.trial import Step, Trial, try_token

__all__ = ["Explanation", "Refusal", "Step", "Trial", "Wanted", "explain", "read_refusal", "required_by", "try_token"]
