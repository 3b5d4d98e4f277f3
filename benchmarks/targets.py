"""What is asked of the figures, and whether a run shows it. Each ratio is taken within a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from benchmarks.figures import BARE, PEER, Figures, Spread
from benchmarks.report import markdown as table
from benchmarks.variants import ENDPOINTS, METHOD

if TYPE_CHECKING:
    from benchmarks.burst import Burst
    from benchmarks.sidecar import Result


@dataclass(frozen=True)
class Target:
    """One figure.

    Attributes:
        name: what was measured.
        measured: by case, for example `GET`: the median of the rounds with the lowest and the highest of them.
        limit: the bound that is asked for; None: the figure only explains others.
        at_least: the bound is a lower one.
        form: how the figures are printed.
    """

    name: str
    measured: dict[str, Spread]
    limit: float | None
    at_least: bool = False
    form: str = "{:.2f} ×"

    @property
    def holds(self) -> bool | None:
        """True if every case keeps within the bound; None without one."""
        if self.limit is None:
            return None
        return all((one.middle >= self.limit) if self.at_least else (one.middle <= self.limit) for one in self._values)

    @property
    def _values(self) -> Iterable[Spread]:
        return self.measured.values()

    def row(self) -> list[str]:
        """Return the cells of the table."""
        holds = {True: "yes", False: "**no**", None: "–"}[self.holds]
        bound = "–" if self.limit is None else f"{'≥' if self.at_least else '≤'} {self.form.format(self.limit)}"
        return [
            self.name,
            "; ".join(f"{case} {self._cell(one)}".strip() for case, one in self.measured.items()),
            bound,
            holds,
        ]

    def _cell(self, one: Spread) -> str:
        low, middle, high = (self.form.format(value) for value in (one.low, one.middle, one.high))
        return middle if low == high else f"{middle} ({low}–{high})"


def markdown(targets: Iterable[Target]) -> str:
    """Return the table; empty without a target."""
    rows = [target.row() for target in targets]
    return table(("figure", "measured", "wanted", "holds"), rows, text_columns=(0, 1, 2, 3)) if rows else ""


def of_applications(figures: Figures) -> list[Target]:
    """Return what a run over the applications shows, as far as its variants and connections were measured."""
    counts = sorted({window.connections for window in figures.windows})
    usual = 16 if 16 in counts else counts[-1]
    at = f", {usual} connections"

    def governance(name: str, other: str) -> Callable[[str], Spread | None]:
        return lambda endpoint: figures.governance_ratio(name, other, endpoint, usual)

    def ratio(own: tuple[str, int], other: tuple[str, int], value: str) -> Callable[[str], Spread | None]:
        cell = attrgetter(value)
        return lambda endpoint: figures.ratio((own[0], endpoint, own[1]), (other[0], endpoint, other[1]), cell)

    def rps(name: str) -> Callable[[str], Spread | None]:
        return ratio((name, usual), (BARE, usual), "rps")

    def cpu(name: str, other: str) -> Callable[[str], Spread | None]:
        return ratio((name, usual), (other, usual), "cpu_ms")

    found = (
        _target(f"governance CPU: ours over the lower bound{at}", governance("ours", "bound"), 1.6),
        _target(f"governance CPU: published over ours{at}", governance(PEER, "ours"), 13, True, "{:.1f} ×"),
        _target(f"requests/s: ours, of bare{at}", rps("ours"), 0.48, True, "{:.0%}"),
        _target(f"requests/s: the lower bound, of bare{at}", rps("bound"), None, True, "{:.0%}"),
        _target(f"CPU per request: embedded over embedded before{at}", cpu("embedded", "before"), 0.4),
        _target(f"CPU per request: embedded over application and sidecar{at}", cpu("embedded", "remote"), 0.7),
        _target(
            "p99 at 64 connections: ours over published",
            ratio(("ours", 64), (PEER, 64), "p99_ms"),
            0.1,
            False,
            "{:.3f} ×",
        ),
        _target("CPU per request of ours: 256 connections over 1", ratio(("ours", 256), ("ours", 1), "cpu_ms"), 1.0),
    )
    return [*(one for one in found if one.measured), *_growth(figures)]


def _growth(figures: Figures) -> Iterator[Target]:
    """Yield how much more memory ours holds after the last round than after the first."""
    own = [window for window in figures.windows if window.variant == "ours"]
    later = [window for window in own if window.round > 0]
    if later:
        grown = later[-1].resident_mib - max(window.resident_mib for window in own if window.round == 0)
        count = sum(window.requests for window in later)
        yield Target(f"memory of ours: more by {count:,} requests", {"": Spread.of([grown])}, None, form="{:+.1f} MiB")


def of_django(figures: Figures) -> list[Target]:
    """Return what a run over the Django project shows."""
    value = lambda endpoint: figures.governance_ratio(PEER, "ours", endpoint, 16)  # noqa: E731
    found = _target("Django under gunicorn, governance CPU: published over ours", value, 120, True, "{:.0f} ×")
    return [found] if found.measured else []


def of_sidecars(result: Result, connections: Sequence[int]) -> Iterator[Target]:
    """Yield what a run over the sidecars shows, if the one in Rust was measured."""
    if result.absent:
        return
    speed = {f"{count} connections": result.beside_rust(count, attrgetter("load.rps")) for count in connections}
    cpu = {f"{count} connections": result.beside_rust(count, attrgetter("cpu_ms")) for count in connections}
    yield Target("sidecar beside the published one in Rust, evaluations/s", speed, 2.0, True)
    yield Target("sidecar beside the published one in Rust, CPU of each", cpu, 0.7)


def of_bursts(bursts: Sequence[Burst]) -> Iterator[Target]:
    """Yield what a thousand clients at once show."""
    own, bound = ([one for one in bursts if one.variant == name] for name in ("ours", "bound"))
    if own:
        # The request after the pause counts too: a pool that stayed full does not respond.
        served = [
            (one.outcomes.get("200", 0) + (one.afterwards == "200")) / (sum(one.outcomes.values()) + 1) for one in own
        ]
        count = sum(own[0].outcomes.values())
        yield Target(
            f"{count:,} requests of all clients at once: answered 200", {"": Spread.of(served)}, 1.0, True, "{:.1%}"
        )
    if own and bound:
        times = Spread.of([a.wall_seconds / b.wall_seconds for a, b in zip(own, bound, strict=True)])
        yield Target("the same, time over the lower bound's", {"": times}, 2.5)


def _target(
    name: str,
    value: Callable[[str], Spread | None],
    limit: float | None,
    at_least: bool = False,
    form: str = "{:.2f} ×",
) -> Target:
    found = {METHOD[endpoint]: value(endpoint) for endpoint in ENDPOINTS}
    return Target(name, {case: one for case, one in found.items() if one is not None}, limit, at_least, form)
