"""The Markdown that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.figures import BARE, Figures, Spread, Window
from benchmarks.rounds import Plan
from benchmarks.variants import ENDPOINTS, GOVERNED, MEANING, METHOD

_HEADINGS = (
    "request",
    "connections",
    "variant",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU ms per request",
    "governance CPU ms",
    "of published",
    "RSS MiB idle → after",
    "not 2xx",
)
_FULL = 0.9  # a core that is busier than this is the limit of what was measured
_DISTURBED = 0.05  # other processes or the host took more than this of a core


def table(plan: Plan, figures: Figures, idle_mib: Mapping[str, float]) -> str:
    """Return one row for each request, number of connections and variant."""
    rows = [
        _row((variant, endpoint, connections), figures, idle_mib)
        for endpoint in ENDPOINTS
        for connections in plan.connections
        for variant in plan.variants
        if figures.of(variant, endpoint, connections)
    ]
    return markdown(_HEADINGS, rows, text_columns=(0, 2))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = (0,)) -> str:
    """Return a Markdown table; columns are right-aligned unless they hold text."""
    rule = ["---" if number in text_columns else "---:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _row(cell: tuple[str, str, int], figures: Figures, idle_mib: Mapping[str, float]) -> list[str]:
    variant, endpoint, connections = cell
    windows = figures.of(*cell)
    governance = figures.governance_ms(*cell)
    share = figures.share_of_peer(*cell)
    return [
        f"{METHOD[endpoint]} {endpoint}",
        str(connections),
        variant,
        _spread(figures.spread(cell, lambda w: w.rps), "{:,.0f}"),
        f"{figures.spread(cell, lambda w: w.p50_ms).middle:.2f}",
        f"{figures.spread(cell, lambda w: w.p99_ms).middle:.2f}",
        _spread(figures.spread(cell, lambda w: w.cpu_ms), "{:.3f}"),
        "–" if governance is None else _spread(governance, "{:.3f}"),
        "–" if share is None else f"{share:.3f} (1/{1 / share:.1f})" if share > 0 else f"{share:.3f}",
        f"{idle_mib[variant]:.0f} → {windows[-1].resident_mib:.0f}",
        f"{sum(w.refused + w.broken for w in windows)}",
    ]


def _spread(value: Spread, form: str) -> str:
    if value.low == value.high:
        return form.format(value.middle)
    return f"{form.format(value.middle)} ({form.format(value.low)}–{form.format(value.high)})"


def preface(plan: Plan, machine: Mapping[str, str], peer: Mapping[str, str], receipts: str) -> str:
    """Return what was measured, where, and how often."""
    lines = [
        f"{plan.rounds} rounds of {plan.seconds} s per cell; medians, in brackets the lowest and highest.",
        f"The stub sidecar signs every receipt ({receipts} metadata).",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + ".",
    ]
    if peer:
        lines.append("Peer: " + ", ".join(f"{name} {value}" for name, value in peer.items()) + ".")
    return "\n".join(lines + [""] + [f"- `{name}`: {MEANING[name]}" for name in plan.variants])


def remarks(figures: Figures) -> str:
    """Return the limits and disturbances that a reader must know with the figures."""
    found = [*_limits(figures.windows), *_disturbances(figures.windows), *_ungoverned(figures.windows)]
    found = found or ["No window was limited by the load or disturbed by others."]
    return "\n".join(f"- {text}" for text in found)


def _limits(windows: Sequence[Window]) -> list[str]:
    texts = []
    for variant in sorted({w.variant for w in windows}):
        own = [w for w in windows if w.variant == variant]
        if max(w.stub_busy for w in own) > _FULL:
            texts.append(f"{variant}: the stub sidecar was busy over 90 %, it set the pace.")
        elif max(w.stub_busy + w.wrk_busy for w in own) > _FULL:
            texts.append(
                f"{variant}: stub and wrk together filled their core over 90 %: requests/s and latencies "
                "are limited by the load, CPU per request is not."
            )
    return texts


def _disturbances(windows: Sequence[Window]) -> list[str]:
    others, stolen = max(w.others_busy for w in windows), max(w.stolen for w in windows)
    texts = []
    if others > _DISTURBED:
        disturbed = sum(w.others_busy > _DISTURBED for w in windows)
        texts.append(
            f"Other processes used up to {others:.0%} of a core, and more than {_DISTURBED:.0%} in {disturbed} of "
            f"{len(windows)} windows: repeat it undisturbed."
        )
    if stolen > _DISTURBED:
        texts.append(f"The host took up to {stolen:.0%} of the application's core away.")
    return texts


def _ungoverned(windows: Sequence[Window]) -> list[str]:
    texts = []
    for window in windows:
        # Requests under way at the edges of a window are evaluated but have no counted response.
        slack = 2 * window.connections / max(1, window.requests)
        expected = 1.0 if window.variant in GOVERNED else 0.0
        if abs(window.evaluations - expected) > slack + 0.001:
            where = f"{METHOD[window.endpoint]} {window.endpoint}, {window.connections} connections"
            texts.append(f"{window.variant}, {where}: {window.evaluations:.3f} evaluations per request.")
    return texts


def multiples(figures: Figures, ceilings: Mapping[str, float]) -> str:
    """Return what governance takes in multiples of the bare application, and what it may take."""
    found = {name: figures.multiple(name) for name in ceilings}
    parts = [f"{name} {cost:.1f} (at most {ceilings[name]:g})" for name, cost in found.items() if cost is not None]
    return f"Governance CPU as a multiple of the bare application's: {', '.join(parts)}." if parts else ""


def memory(figures: Figures, idle_mib: Mapping[str, float]) -> str:
    """Return how much more memory each governed variant holds than the bare application."""
    last = {w.variant: w.resident_mib for w in figures.windows}
    if BARE not in last:
        return ""
    parts = [
        f"{name} {idle_mib[name] - idle_mib[BARE]:+.1f} idle, {last[name] - last[BARE]:+.1f} after the load"
        for name in last
        if name != BARE
    ]
    return f"Memory over the bare application, MiB: {'; '.join(parts)}." if parts else ""
