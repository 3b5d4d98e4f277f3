"""From windows to figures: medians over the rounds, and what governance adds to the bare application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

BARE = "bare"
PEER = "published"


@dataclass(frozen=True)
class Window:
    """One window of load on one variant.

    Attributes:
        cpu_ms: processor milliseconds of the application's process tree per response.
        app_busy: share of the application's core that the application used, 0 to 1.
        stub_busy: share of the load's core that the stub sidecar used.
        wrk_busy: share of the load's core that wrk used.
        others_busy: share that other processes used of either core, the larger of the two.
        stolen: share of the application's core that the host took away.
        evaluations: evaluations per response.
        resident_mib: resident memory of the application at the end.
    """

    round: int
    endpoint: str
    connections: int
    variant: str
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    cpu_ms: float
    app_busy: float
    stub_busy: float
    wrk_busy: float
    others_busy: float
    stolen: float
    evaluations: float
    resident_mib: float


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the smallest and the largest of them."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


class Figures:
    """All windows of a run, by what was measured."""

    def __init__(self, windows: Sequence[Window]) -> None:
        """Keep the windows of a finished run."""
        self.windows = windows

    def of(self, variant: str, endpoint: str, connections: int) -> list[Window]:
        """Return the windows of one cell of the table, in the order of the rounds."""
        wanted = (variant, endpoint, connections)
        return [w for w in self.windows if (w.variant, w.endpoint, w.connections) == wanted]

    def spread(self, cell: tuple[str, str, int], value: Callable[[Window], float]) -> Spread:
        """Return the spread of one value over the rounds of a cell."""
        return Spread.of([value(window) for window in self.of(*cell)])

    def governance_ms(self, variant: str, endpoint: str, connections: int) -> Spread | None:
        """Return the processor milliseconds per request over the bare application.

        The differences are taken within each round, so that a slow minute of the machine hits both sides.
        Returns None for the bare application itself and when it was not measured.
        """
        floor = self.of(BARE, endpoint, connections)
        own = self.of(variant, endpoint, connections)
        if variant == BARE or not floor:
            return None
        return Spread.of([a.cpu_ms - b.cpu_ms for a, b in zip(own, floor, strict=True)])

    def governance_ratio(self, variant: str, other: str, endpoint: str, connections: int) -> Spread | None:
        """Return this variant's governance CPU divided by the other's, within each round; None without both."""
        cells = [self.of(name, endpoint, connections) for name in (variant, other, BARE)]
        if not all(cells):
            return None
        rounds = zip(*cells, strict=True)
        return Spread.of([(own.cpu_ms - bare.cpu_ms) / (peer.cpu_ms - bare.cpu_ms) for own, peer, bare in rounds])

    def ratio(
        self, own: tuple[str, str, int], other: tuple[str, str, int], value: Callable[[Window], float]
    ) -> Spread | None:
        """Return a value of one cell divided by that of another, within each round; None without both."""
        pairs = list(zip(self.of(*own), self.of(*other), strict=False))
        return Spread.of([value(a) / value(b) for a, b in pairs]) if pairs else None

    def multiple(self, variant: str) -> float | None:
        """Return governance CPU as a multiple of the bare application's, over all cells, or None without both.

        Each term is of one round and cell, so both sides had the same machine.
        """
        pairs = [
            (own.cpu_ms, floor.cpu_ms)
            for endpoint, connections in sorted({(w.endpoint, w.connections) for w in self.windows})
            for own, floor in zip(
                self.of(variant, endpoint, connections), self.of(BARE, endpoint, connections), strict=False
            )
        ]
        return median(own / floor - 1 for own, floor in pairs) if pairs else None

    def share_of_peer(self, variant: str, endpoint: str, connections: int) -> float | None:
        """Return this variant's governance CPU divided by the published package's, or None without both."""
        if not self.of(PEER, endpoint, connections):
            return None
        own = self.governance_ms(variant, endpoint, connections)
        peer = self.governance_ms(PEER, endpoint, connections)
        return own.middle / peer.middle if own and peer else None
