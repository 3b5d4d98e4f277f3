"""Rules for what follows a decision, the same in every framework: hooks, evidence, the receipt header."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from chio_core.concurrency.loop_thread import timed, timed_steps
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import GuardEvidence
from chio_core.names import LOGGER
from chio_core.refusals.response import AnyResponse, Denial

log = logging.getLogger(LOGGER)

Hook = Callable[[Any], Any]
"""A function of the application that receives a decision or a receipt."""

_FAILED = "chio: hook %r failed; the request goes on"


def header_value(receipt_id: str) -> str | None:
    """Return a receipt id as a header value; None if no header can carry it."""
    return receipt_id if receipt_id.isascii() and receipt_id.isprintable() else None


def refused_by_guard(
    decision: Decision | None, response: AnyResponse, evidence: Sequence[GuardEvidence]
) -> Decision | None:
    """Return the decision after a guard has responded instead of the handler; None if that refuses nothing new.

    Args:
        decision: the sidecar's; None if it was not called.
        evidence: all evidence of the local guards.
    """
    if response.status < 400 or (decision is not None and decision.denial is not None):
        return None
    denial = response if isinstance(response, Denial) else Denial(status=response.status, message="refused by a guard")
    if decision is None:
        return Decision(verdict="refused", denial=denial, evidence=tuple(evidence))
    signed = decision.receipt.evidence if decision.receipt is not None else None
    # This refusal is enforced: a mark of observe mode or of `fail_open` no longer holds.
    return replace(
        decision,
        verdict="refused",
        denial=denial,
        withheld=None,
        passthrough=None,
        evidence=(*evidence, *(signed or ())),
    )


def call_hook(hook: Hook, value: Any) -> None:
    """Call a hook in a thread. An exception is logged, and so is an `async def` hook, which cannot run here."""
    try:
        result = hook(value)
    except Exception:
        log.exception(_FAILED, _name(hook))
        return
    if inspect.isawaitable(result):
        log.error("chio: hook %r is `async def`, which a synchronous server cannot call", hook)
        if inspect.iscoroutine(result):
            result.close()


async def call_hook_async(hook: Hook, value: Any) -> None:
    """Call a hook in an event loop, where it may be `async def`. An exception is logged."""
    try:
        result = timed("hook", hook)(value)
        if inspect.isawaitable(result):
            await timed_steps("hook", hook, result)
    except Exception:
        log.exception(_FAILED, _name(hook))


def _name(hook: Hook) -> Any:
    return getattr(hook, "__qualname__", hook)
