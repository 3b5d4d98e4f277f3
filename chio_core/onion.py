"""Running a frozen chain for one request: inwards through the guards, the handler, outwards again.

Rules that no guard can undo:

1. until the sidecar has allowed the request (or it is excluded, or passes by `fail_open`), it can only end with
   a status of 400 or above: a success of a guard is replaced by a 500 that names the guard;
2. an exception of a guard before that moment refuses the request with a 500; it never skips the guard;
3. `decide` runs exactly where it stands, whatever else is disabled or filtered.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import Any

from chio_core.chain import Member, Next
from chio_core.models.verdict import GuardEvidence
from chio_core.names import LOGGER
from chio_core.request import GuardRequest
from chio_core.response import AnyResponse, Denial

log = logging.getLogger(LOGGER)


class Run:
    """One request on its way through a chain.

    Args:
        members: a frozen chain, outermost first.
        handler: runs the application and returns the head of its answer.
        evidence: list to note in what each local guard that ran has said, names prefixed `local/`.

    Attributes:
        open: the decision was to let the request through.
    """

    __slots__ = ("_handler", "_members", "evidence", "open")

    def __init__(self, members: Sequence[Member], handler: Next, evidence: list[GuardEvidence]) -> None:
        self._members = members
        self._handler = handler
        self.open = False
        self.evidence = evidence

    async def __call__(self, request: GuardRequest) -> AnyResponse:
        """Run the whole chain and return the final answer."""
        return await self._from(0, request)

    async def before(self, request: GuardRequest) -> AnyResponse | None:
        """Run a chain of request-only guards; return the answer of the one that refused, or None."""
        for member in self._members:
            if member.runs_for(request.method) and (answer := await self._look(member, request)) is not None:
                return answer
        return None

    async def _from(self, index: int, request: GuardRequest) -> AnyResponse:
        for at in range(index, len(self._members)):
            member = self._members[at]
            if not member.runs_for(request.method):
                continue
            if member.wraps:
                return await self._wrap(member, at + 1, request)
            if (answer := await self._look(member, request)) is not None:
                return answer
        return await self._handler(request)

    async def _look(self, member: Member, request: GuardRequest) -> AnyResponse | None:
        try:
            answer: AnyResponse | None = await _watched(member, request)
        except Exception:
            if self.open:
                raise
            return self._failed(member)
        if member.is_decide:
            self.open = answer is None
            return answer
        self.evidence.append(member.passed if answer is None else _refusal(member, answer))
        return self._checked(member, answer) if answer is not None else None

    async def _wrap(self, member: Member, index: int, request: GuardRequest) -> AnyResponse:
        async def following(changed: GuardRequest) -> AnyResponse:
            return await self._from(index, changed)

        try:
            answer: AnyResponse = await member.guard(request, following)
        except Exception:
            if self.open:
                raise  # the handler's own exception, or a guard's after the decision: the framework answers
            return self._failed(member)
        self.evidence.append(member.passed if answer.status < 400 else _refusal(member, answer))
        return self._checked(member, answer)

    def _checked(self, member: Member, answer: AnyResponse) -> AnyResponse:
        if self.open or answer.status >= 400:
            return answer
        log.error(
            "chio: guard %s answered %s before the decision; only refusals are possible there",
            member.name,
            answer.status,
        )
        return Denial(
            status=500,
            code="chio_guard_failed",
            message=f"guard {member.name} answered {answer.status} without a decision; give it a priority above 0",
            guard=f"local/{member.name}",
        )

    def _failed(self, member: Member) -> Denial:
        log.exception("chio: guard %s failed before the decision; the request is refused", member.name)
        self.evidence.append(GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details="failed"))
        return Denial(
            status=500, code="chio_guard_failed", message=f"guard {member.name} failed", guard=f"local/{member.name}"
        )


SLOW_GUARD_SECONDS = 0.05
"""A guard that holds the event loop for longer, in one piece, is named in a warning."""


async def _watched(member: Member, request: GuardRequest) -> AnyResponse | None:
    # Nearly all guards finish without waiting for anything. The first step is taken by hand, so that it can be
    # timed for less than the price of an `await`; only a guard that does wait is then awaited for the rest.
    steps = member.guard(request).__await__()
    start = perf_counter()
    try:
        waits_for = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        if perf_counter() - start > SLOW_GUARD_SECONDS:
            log.warning(
                "chio: guard %s blocked the event loop for %.0f ms", member.name, (perf_counter() - start) * 1e3
            )
    answer: AnyResponse | None = await _Rest(steps, waits_for)
    return answer


class _Rest:
    """The rest of a coroutine whose first step has been taken."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Any, first: Any) -> None:
        self._steps = steps
        self._first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        value = self._first
        while True:
            try:
                try:
                    sent = yield value
                except BaseException as exc:  # noqa: BLE001 - a cancellation, above all, belongs to the guard
                    value = self._steps.throw(exc)
                else:
                    value = self._steps.send(sent)
            except StopIteration as done:
                return done.value


def _refusal(member: Member, answer: AnyResponse) -> GuardEvidence:
    details = answer.message if isinstance(answer, Denial) else f"answered {answer.status}"
    return GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details=details)
