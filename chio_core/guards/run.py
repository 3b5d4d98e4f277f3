"""Running a frozen chain for one request: inwards through the guards, the handler, outwards again.

Rules that no guard can undo:

1. until the sidecar has allowed the request (or it is excluded, or passes by `fail_open`), it can only end with
   a status of 400 or above: a success of a guard is replaced by a 500 that names the guard;
2. an exception of a guard before that moment refuses the request with a 500; it never skips the guard;
3. `decide` runs exactly where it stands, whatever else is disabled or filtered;
4. a request runs once: the second `next` of a guard is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Coroutine, Generator, Iterator, Sequence
from time import perf_counter
from types import coroutine
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import SLOW_GUARD_MS, Member, Next
from chio_core.models.receipt import GuardEvidence
from chio_core.names import LOGGER
from chio_core.refusals.response import AnyResponse, Denial, Head
from chio_core.request import GuardRequest

log = logging.getLogger(LOGGER)


class ChainRun:
    """One request on its way through a chain.

    Args:
        members: a frozen chain, outermost first.
        handler: runs the application and returns the head of its answer; None when the caller does that.
        evidence: list to note in what each local guard that ran has said, names prefixed `local/`.
        slow_guard_ms: milliseconds that a guard may hold the event loop in one piece without being named.

    Attributes:
        open: the decision was to let the request through.
    """

    __slots__ = ("_active", "_due", "_handler", "_mark", "_members", "_slow", "_watched", "evidence", "open")

    def __init__(
        self,
        members: Sequence[Member],
        handler: Next | None,
        evidence: list[GuardEvidence],
        slow_guard_ms: float = SLOW_GUARD_MS,
    ) -> None:
        self._members = members
        self._handler = handler
        self._slow = slow_guard_ms / 1000
        self._active: Member | None = None
        self._watched = False
        self.open = False
        self.evidence = evidence

    async def __call__(self, request: GuardRequest) -> AnyResponse:
        """ChainRun the whole chain and return the final answer.

        Raises:
            ConfigurationError: there is no handler to run.
        """
        answer = await self.before(request)
        if answer is None:
            raise ConfigurationError("this run has no handler; ask `before` and run it yourself")
        return answer

    def before(self, request: GuardRequest) -> Awaitable[AnyResponse | None]:
        """ChainRun the chain; gives the answer, or None when there is no handler and nobody has refused."""
        return self._watch(self._onwards(iter(self._members), request, None))

    @coroutine
    def _watch(self, rest: Coroutine[Any, Any, AnyResponse | None]) -> Generator[Any, Any, AnyResponse | None]:
        # Awaits it step by step, so that a guard which holds the event loop can be named; which of those that ran in
        # one step it was, they note themselves.
        value: Any = None
        error: BaseException | None = None
        while True:
            watched, self._watched = self._watched, True
            self._mark = now = perf_counter()
            self._due = now + self._slow
            try:
                waits_for = rest.send(value) if error is None else rest.throw(error)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            finally:
                self._watched = watched
                if self._active is not None:
                    self._turn(self._active)
            try:
                value, error = (yield waits_for), None
            except BaseException as exc:  # noqa: BLE001 - a cancellation, above all, belongs to the guard
                value, error = None, exc

    async def _onwards(self, rest: Iterator[Member], request: GuardRequest, outer: Member | None) -> AnyResponse | None:
        evidence = self.evidence
        try:
            for member in rest:
                # Runs for every guard of every request: no call here but the guard's own and the clock's.
                guard = member.guard
                if not member.plain or (member.switches and not getattr(guard, "enabled", True)):
                    if not self._takes_part(member, request):
                        continue
                    if member.wraps:
                        return await self._wrap(member, rest, request)
                self._active = member
                try:
                    answer = await guard(request)
                except Exception:
                    if self.open:
                        raise
                    return failed(member, evidence)
                now = perf_counter()
                if now > self._due:
                    self._late(member, now)
                self._mark = now
                if answer is not None:
                    return self._ended(member, answer)
                if member.is_decide:
                    self.open = True
                else:
                    evidence.append(member.passed)
            self._active = None
            return await self._handler(request) if self._handler is not None else None
        finally:
            self._active = outer

    def _takes_part(self, member: Member, request: GuardRequest) -> bool:
        if not member.enabled:
            self.evidence.append(member.disabled)
            return False
        return member.methods is None or request.method.upper() in member.methods

    async def _wrap(self, member: Member, rest: Iterator[Member], request: GuardRequest) -> AnyResponse:
        self._active = member
        went_on = False

        def following(changed: GuardRequest) -> Coroutine[Any, Any, AnyResponse | None]:
            nonlocal went_on
            if went_on:
                raise ConfigurationError(f"guard {member.name} called next() twice; a request can run only once")
            went_on = True
            self._turn(member)
            return self._inwards(rest, changed, member)

        try:
            answer = await member.guard(request, following)
        except Exception:
            if self.open:
                raise  # the handler's own exception, or a guard's after the decision: the framework answers
            return failed(member, self.evidence)
        self._turn(member)
        if went_on and isinstance(answer, Head):
            self.evidence.append(member.passed)
            return self._checked(member, answer)
        return self._ended(member, answer)

    async def _inwards(self, rest: Iterator[Member], request: GuardRequest, outer: Member) -> AnyResponse | None:
        # A guard may run it in a task of its own (`asyncio.wait_for` does), where nobody watches yet.
        inner = self._onwards(rest, request, outer)
        return await (inner if self._watched else self._watch(inner))

    def _turn(self, done: Member) -> None:
        now = perf_counter()
        if now > self._due:
            self._late(done, now)
        self._mark = now

    def _late(self, member: Member, now: float) -> None:
        # All together have held the event loop for too long; was it this one?
        held = now - self._mark
        if held > self._slow:
            log.warning("chio: guard %s blocked the event loop for %.0f ms", member.name, held * 1e3)

    def _ended(self, member: Member, answer: Any) -> AnyResponse:
        if not isinstance(answer, Head):
            raise ConfigurationError(
                f"guard {member.name} returned {type(answer).__name__}; return a Response of chio_core"
                + ("" if member.wraps else ", or None to go on")
            )
        if member.is_decide:
            return answer  # type: ignore[return-value]
        self.evidence.append(_refusal(member, answer) if answer.status >= 400 else member.passed)
        return self._checked(member, answer)

    def _checked(self, member: Member, answer: Head) -> AnyResponse:
        if self.open or answer.status >= 400:
            return answer  # type: ignore[return-value]
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


def failed(member: Member, evidence: list[GuardEvidence]) -> Denial:
    """Return the refusal for a guard that is raising an exception right now; it is logged, and noted in `evidence`."""
    log.exception("chio: guard %s failed before the decision; the request is refused", member.name)
    evidence.append(GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details="failed"))
    return Denial(
        status=500, code="chio_guard_failed", message=f"guard {member.name} failed", guard=f"local/{member.name}"
    )


def _refusal(member: Member, answer: Head) -> GuardEvidence:
    details = answer.message if isinstance(answer, Denial) else f"answered {answer.status}"
    return GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details=details)
