"""Running a frozen chain for one request: inwards through the guards, the handler, outwards again.

Rules that no guard can break:

1. before the sidecar has allowed the request (or it is excluded, or `fail_open` applies), it can only end with a status
   of 400 or above: a success made up by a guard is replaced by a 500 that names the guard;
2. an exception of a guard before that moment refuses the request with a 500; it never skips the guard;
3. `decide` runs exactly at its place, whatever else is disabled or filtered;
4. a request runs once: the second `next` of a guard is an error, and so is `next` with another request object, which
   the handler would not see.
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
from chio_core.refusals.response import AnyResponse, Denial, Head, RequestRefused, Response
from chio_core.refusals.streams import Stream, discard
from chio_core.request import GuardRequest

log = logging.getLogger(LOGGER)


class ChainRun:
    """The run of a chain for one request.

    Args:
        members: a frozen chain, outermost first.
        handler: runs the application and returns the head of its response; None if the caller runs it.
        evidence: list that receives the evidence of each local guard that ran, names prefixed `local/`.
        slow_guard_ms: milliseconds that a guard may block the event loop without a pause before it is named.

    Attributes:
        open: the request was allowed.
    """

    __slots__ = (
        "_active",
        "_due",
        "_handler",
        "_mark",
        "_members",
        "_slow",
        "_started",
        "_stream",
        "_watched",
        "evidence",
        "open",
    )

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
        self._started = False
        self._stream: Stream | None = None
        self.open = False
        self.evidence = evidence

    async def __call__(self, request: GuardRequest) -> AnyResponse:
        """Run the whole chain and return the final response.

        Raises:
            ConfigurationError: the run has no handler.
        """
        response = await self.before(request)
        if response is None:
            raise ConfigurationError("this run has no handler; call `before` and run the application yourself")
        return response

    def before(self, request: GuardRequest) -> Awaitable[AnyResponse | None]:
        """Run the chain; gives the response, or None if there is no handler and no guard has refused."""
        return self._watch(self._onwards(iter(self._members), request, None))

    @coroutine
    def _watch(self, rest: Coroutine[Any, Any, AnyResponse | None]) -> Generator[Any, Any, AnyResponse | None]:
        # Awaits it step by step to time each step between two pauses of the event loop. Several guards can run in one
        # step: each guard records its own start time, so we can tell which one blocked.
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
            except BaseException as exc:  # noqa: BLE001 - also a cancellation is raised inside the guard
                value, error = None, exc

    async def _onwards(self, rest: Iterator[Member], request: GuardRequest, outer: Member | None) -> AnyResponse | None:
        evidence = self.evidence
        try:
            for member in rest:
                # Runs for every guard of every request: the guard and the clock are the only calls of the usual path.
                guard = member.guard
                if not member.plain or (member.switches and not getattr(guard, "enabled", True)):
                    if not member.enabled:
                        evidence.append(member.disabled)
                        continue
                    if member.methods is not None and request.method.upper() not in member.methods:
                        continue
                    if member.wraps:
                        return await self._wrap(member, rest, request)
                self._active = member
                try:
                    response = await guard(request)
                except RequestRefused as exc:
                    # The guard has read a body that is too large or broken: the client's fault, not the guard's. After
                    # the decision only an excluded request can have such a body.
                    return await self._ended(member, exc.denial)
                except Exception:
                    if self.open:
                        raise
                    return failed(member, evidence)
                now = perf_counter()
                if now > self._due:
                    self._late(member, now)
                self._mark = now
                if response is not None:
                    return await self._ended(member, response)
                if member.is_decide:
                    self.open = True
                else:
                    evidence.append(member.passed)
            self._active = None
            if self._handler is None:
                return None
            self._started = True
            response = await self._handler(request)
            if isinstance(response, Response):
                await self._keep(response)
            return response
        finally:
            self._active = outer

    async def _wrap(self, member: Member, rest: Iterator[Member], request: GuardRequest) -> AnyResponse:
        self._active = member
        went_on = False

        def following(changed: GuardRequest) -> Coroutine[Any, Any, AnyResponse | None]:
            nonlocal went_on
            if went_on:
                raise ConfigurationError(f"guard {member.name} called next() twice; a request can run only once")
            if changed is not request:
                raise ConfigurationError(
                    f"guard {member.name} gave next() another request object, which the handler would not see; change"
                    " the request itself (request.set_header, request.replace_body, request.state)"
                )
            went_on = True
            self._turn(member)
            return self._inwards(rest, changed, member)

        try:
            response = await member.guard(request, following)
        except Exception as exc:
            await self._keep(None)
            if isinstance(exc, RequestRefused) and not self._started:
                return await self._ended(member, exc.denial)
            if self.open:
                raise  # from the handler, or from a guard after the decision: the framework handles it
            return failed(member, self.evidence)
        self._turn(member)
        if went_on and isinstance(response, Head):
            self.evidence.append(member.passed)
            return await self._checked(member, response)
        return await self._ended(member, response)

    async def _inwards(self, rest: Iterator[Member], request: GuardRequest, outer: Member) -> AnyResponse | None:
        # A guard may run it in a new task (`asyncio.wait_for` does), which is not watched yet.
        inner = self._onwards(rest, request, outer)
        return await (inner if self._watched else self._watch(inner))

    def _turn(self, done: Member) -> None:
        now = perf_counter()
        if now > self._due:
            self._late(done, now)
        self._mark = now

    def _late(self, member: Member, now: float) -> None:
        # The whole step took too long; this member is named only if it alone did. The decision is no function of the
        # application: what it calls of those is named in `chio_core.concurrency.loop_thread`.
        held = now - self._mark
        if held > self._slow and not member.is_decide:
            log.warning("chio: guard %s blocked the event loop for %.0f ms", member.name, held * 1e3)

    async def _ended(self, member: Member, response: Any) -> AnyResponse:
        if not isinstance(response, Head):
            raise ConfigurationError(
                f"guard {member.name} returned {type(response).__name__}; return a Response of chio_core"
                + ("" if member.wraps else ", or None to go on")
            )
        if member.is_decide:
            return response  # type: ignore[return-value]
        evidence = member.passed
        if response.status >= 400:
            details = response.message if isinstance(response, Denial) else f"answered {response.status}"
            evidence = GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details=details)
        self.evidence.append(evidence)
        return await self._checked(member, response)

    async def _checked(self, member: Member, response: Head) -> AnyResponse:
        if self.open or response.status >= 400:
            if self._stream is not None or isinstance(response, Response):
                await self._keep(response)
            return response  # type: ignore[return-value]
        await self._keep(response)
        await self._keep(None)
        log.error(
            "chio: guard %s answered %s before the decision; only refusals are possible there",
            member.name,
            response.status,
        )
        return Denial(
            status=500,
            code="chio_guard_failed",
            message=f"guard {member.name} answered {response.status} without a decision; give it a priority above 0",
            guard=f"local/{member.name}",
        )

    async def _keep(self, response: Head | None) -> None:
        """Remember the stream of the response so far; close the one that it replaces."""
        stream = response.stream if isinstance(response, Response) else None
        if stream is not self._stream:
            before, self._stream = self._stream, stream
            await discard(before)


def failed(member: Member, evidence: list[GuardEvidence]) -> Denial:
    """Return the refusal for a guard whose exception is being handled; log it, and add it to `evidence`."""
    log.exception("chio: guard %s failed before the decision; the request is refused", member.name)
    evidence.append(GuardEvidence(guard_name=f"local/{member.name}", verdict=False, details="failed"))
    return Denial(
        status=500, code="chio_guard_failed", message=f"guard {member.name} failed", guard=f"local/{member.name}"
    )
