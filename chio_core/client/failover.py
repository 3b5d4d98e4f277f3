"""Several sidecars: an evaluation goes to the next one if the first cannot take it.

Without a common store a decision is sent again only if it was provably not begun: no connection could be opened, or the
sidecar was overloaded. With one (setting `sidecars_share_store`) the request id makes a repetition idempotent, so an
evaluation whose connection broke, that got no response in time, or that a sidecar failed at is sent again too.

A sidecar that failed is tried last until a pause is over, then by one evaluation, and by all once that has succeeded.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from chio_core.client.carrier import AsyncCarrier, BlockingCarrier, Pairs
from chio_core.errors import Overloaded, SidecarError, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse
from chio_core.evaluation.governed import Steps, run, run_async

SHORTEST, LONGEST = 1.0, 30.0
"""Seconds for which a sidecar that failed is tried last: doubled with each failure in a row."""

_OVERLOADED: Final = Overloaded.code.encode("ascii")

Outcome = RawResponse | SidecarError
Attempts = Generator[tuple[int, float], Outcome, Outcome]
"""Yields which sidecar to call and for how many seconds, gets the outcome, and returns the one that counts."""


class Failover:
    """Which of several sidecars to call; any thread may use it.

    Args:
        number: of sidecars.
        share_store: they store in one database. Then evaluations are spread over all of them; otherwise the first of
            the list that works gets all, because approvals and budgets are known to it alone.
        clock: returns seconds; it never goes back.
    """

    def __init__(self, number: int, *, share_store: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share_store
        self._clock = clock
        self._turns = itertools.count()
        self._lock = threading.Lock()
        self._pauses = [0.0] * number
        self._until = [0.0] * number

    def attempts(self, timeout: float) -> Attempts:
        """Return the attempts for one evaluation.

        Args:
            timeout: seconds for all of them together.
        """
        deadline = self._clock() + timeout
        order = self._order()
        for rest, index in zip(range(len(order), 0, -1), order, strict=True):
            left = max(0.001, deadline - self._clock())
            # A repetition must have time left, if a silent sidecar may be followed by one.
            outcome = yield index, left / rest if self._share else left
            faulty, repeatable = self._judge(outcome)
            self._note(index, faulty=faulty)
            if rest == 1 or not repeatable:
                return outcome
        raise AssertionError("there is no sidecar")

    def _order(self) -> list[int]:
        number = len(self._until)
        first = next(self._turns) % number if self._share else 0
        around = [(first + step) % number for step in range(number)]
        now = self._clock()
        with self._lock:
            for index in around:
                if self._pauses[index] and self._until[index] <= now:
                    self._until[index] = now + self._pauses[index]  # others still try it last
                    return [index, *(other for other in around if other != index)]
            return sorted(around, key=lambda index: self._until[index] > now)

    def _judge(self, outcome: Outcome) -> tuple[bool, bool]:
        """Return whether the sidecar failed, and whether the next one may get the same evaluation."""
        if isinstance(outcome, RawResponse):
            if outcome.status < 500:
                return False, False
            return True, self._share or (outcome.status == 503 and _OVERLOADED in outcome.body)
        if isinstance(outcome, Overloaded):
            return False, False  # this process, not the sidecar
        return True, self._share or isinstance(outcome, SidecarUnreachable)

    def _note(self, index: int, *, faulty: bool) -> None:
        with self._lock:
            if not faulty:
                self._pauses[index] = self._until[index] = 0.0
                return
            self._pauses[index] = min(max(2 * self._pauses[index], SHORTEST), LONGEST)
            self._until[index] = self._clock() + self._pauses[index]

    def exchange(self, post: Callable[[int, float], Any], timeout: float) -> Steps[RawResponse]:
        """Return the steps of one evaluation; see `chio_core.evaluation.governed`.

        Args:
            post: calls the sidecar of this index for so many seconds; its result, or an awaitable of it, is yielded.
            timeout: as in `attempts`.
        """
        attempts = self.attempts(timeout)
        index, seconds = next(attempts)
        while True:
            outcome: Outcome
            try:
                outcome = yield post(index, seconds)
            except SidecarError as exc:
                outcome = exc
            try:
                index, seconds = attempts.send(outcome)
            except StopIteration as end:
                if isinstance(end.value, SidecarError):
                    raise end.value from None
                return end.value  # type: ignore[no-any-return]


class FailoverCarrier:
    """An `AsyncCarrier` over the carriers of several sidecars.

    Args:
        carriers: one for each.
        failover: chooses among them; shared by the loops of a client.
    """

    def __init__(self, carriers: Sequence[AsyncCarrier], failover: Failover) -> None:
        self._carriers = carriers
        self._failover = failover

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        carriers = self._carriers
        return await run_async(
            self._failover.exchange(lambda index, seconds: carriers[index].post(path, body, headers, seconds), timeout)
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for carrier in self._carriers:
            await carrier.aclose()

    def abandon(self) -> None:
        """Close the connections in the loop of the carriers, without waiting."""
        for carrier in self._carriers:
            if hasattr(carrier, "abandon"):
                carrier.abandon()


class BlockingFailover:
    """A `BlockingCarrier` over those of several sidecars; see `FailoverCarrier`."""

    def __init__(self, carriers: Sequence[BlockingCarrier], failover: Failover) -> None:
        self._carriers = carriers
        self._failover = failover

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        carriers = self._carriers
        return run(
            self._failover.exchange(lambda index, seconds: carriers[index].post(path, body, headers, seconds), timeout)
        )

    def close(self) -> None:
        """Close all connections."""
        for carrier in self._carriers:
            carrier.close()
