"""What the driver of every framework does with a decision: tell the hooks, add the guards' evidence, name the receipt.

These are rules and not matters of a framework, so they stand here once.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import GuardEvidence
from chio_core.names import LOGGER
from chio_core.refusals.response import AnyResponse, Denial

log = logging.getLogger(LOGGER)

Hook = Callable[[Any], Any]
"""A function of the application, given a decision or a receipt."""

_FAILED = "chio: hook %r failed; the request goes on"


def is_met(decision: Decision) -> bool:
    """Tell whether a decision about a requirement lets the handler run; one that is only observed does.

    Raises:
        ConfigurationError: it neither refuses nor has a receipt; nothing may pass on that.
    """
    if decision.denial is None and decision.receipt is None and not decision.observed:
        raise ConfigurationError("a decision without receipt cannot meet a requirement")
    return decision.denial is None


def receipt_header_of(decision: Decision | None) -> str | None:
    """Return the receipt id as a header value; None without a receipt, or for an id that no header can carry."""
    receipt = decision.receipt if decision is not None else None
    return header_value(receipt.id) if receipt is not None else None


def header_value(receipt_id: str) -> str | None:
    """Return a receipt id as a header value; None for one that no header can carry."""
    return receipt_id if receipt_id.isascii() and receipt_id.isprintable() else None


def with_evidence(decision: Decision, evidence: Sequence[GuardEvidence]) -> Decision:
    """Return a decision with what the local guards have said before what the sidecar's have."""
    return replace(decision, evidence=(*evidence, *decision.evidence)) if evidence else decision


def refused_locally(
    decision: Decision | None, answer: AnyResponse, evidence: Sequence[GuardEvidence]
) -> Decision | None:
    """Return the decision when a guard has answered instead of the handler; None where that changes nothing.

    Args:
        decision: the one of the sidecar, None when it was not asked.
        evidence: all that the local guards have said.
    """
    if answer.status < 400 or (decision is not None and decision.denial is not None):
        return None
    denial = answer if isinstance(answer, Denial) else Denial(status=answer.status, message="refused by a guard")
    if decision is None:
        return Decision(verdict="refused", denial=denial, evidence=tuple(evidence))
    signed = decision.receipt.evidence if decision.receipt is not None else None
    return replace(decision, verdict="refused", denial=denial, evidence=(*evidence, *(signed or ())))


def announce(decision: Decision, on_decision: Hook | None, on_receipt: Hook | None) -> None:
    """Tell the hooks about a decision, and about its receipt if it has one. What they raise is logged, no more."""
    if on_decision is not None:
        _tell(on_decision, decision)
    if on_receipt is not None and decision.receipt is not None:
        _tell(on_receipt, decision.receipt)


async def aannounce(decision: Decision, on_decision: Hook | None, on_receipt: Hook | None) -> None:
    """Do what `announce` does in an event loop, where hooks may be `async def`."""
    if on_decision is not None:
        await _atell(on_decision, decision)
    if on_receipt is not None and decision.receipt is not None:
        await _atell(on_receipt, decision.receipt)


def _tell(hook: Hook, value: Any) -> None:
    pending = _called(hook, value)
    if pending is not None:
        # Nobody can await it here.
        log.error("chio: hook %r is `async def`, which a synchronous server cannot call", hook)
        if inspect.iscoroutine(pending):
            pending.close()


async def _atell(hook: Hook, value: Any) -> None:
    pending = _called(hook, value)
    if pending is None:
        return
    try:
        await pending
    except Exception:
        log.exception(_FAILED, _name(hook))


def _called(hook: Hook, value: Any) -> Any:
    """Call a hook; return what it wants to have awaited, or None."""
    try:
        result = hook(value)
    except Exception:
        log.exception(_FAILED, _name(hook))
        return None
    return result if inspect.isawaitable(result) else None


def _name(hook: Hook) -> Any:
    return getattr(hook, "__qualname__", hook)
