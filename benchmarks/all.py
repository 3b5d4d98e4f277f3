"""Every figure of the table beside its target, from one run: applications, Django, sidecars, and growth.

    python -m benchmarks.all                                  about 11 minutes
    python -m benchmarks.all --before ../earlier              also: embedded, over the same in that checkout
    python -m benchmarks.all --rounds 1 --seconds 1           does everything work? The figures mean little

Each part interleaves what it compares, and each ratio is taken within a round. What cannot be measured here is named
below the table with the reason, and the other parts go on. Exit status 1: governance takes more processor time than
`CEILING` allows, or a response of the sidecar has no receipt in its store; 2: nothing was measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import burst, django, machine, rounds, routes, run, sidecar, start, targets, variants
from benchmarks.figures import Figures
from benchmarks.machine import Cores, UnsuitableError
from benchmarks.options import names, new_parser, positive, speaking_plainly
from benchmarks.targets import Target

_FEWER = 3  # rounds of the parts whose differences are large


@dataclass(frozen=True)
class Part:
    """What one part of the run gave.

    Attributes:
        targets: its figures beside what is asked.
        report: everything that it measured.
        absent: what of it was not measured, and why; empty if nothing.
        sound: false fails the whole run.
    """

    targets: Iterable[Target]
    report: str
    absent: str = ""
    sound: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; return the exit status."""
    parser = new_parser("benchmarks.all", __doc__)
    parser.add_argument("--rounds", type=positive, default=5, metavar="N")
    parser.add_argument("--seconds", type=positive, default=3, metavar="S", help="length of one window")
    parser.add_argument("--clients", type=positive, default=1000, metavar="N", help="at once, 4 requests each")
    parser.add_argument(
        "--parts", type=names("part", PARTS), default=tuple(PARTS), metavar="LIST", help=", ".join(PARTS)
    )
    parser.add_argument("--before", type=Path, metavar="DIR", help="an earlier checkout")
    parser.add_argument("--rust", type=Path, metavar="FILE", help="the executable of `rust/`; else `cargo` builds it")
    options = parser.parse_args(arguments)
    cores, began = machine.two_cores(), time.monotonic()
    facts, sound = machine.describe(), True
    found: list[Target] = []
    reports, absent = [], []
    for name, part in PARTS.items():
        if name not in options.parts:
            absent.append(f"{name}: left out by --parts.")
            continue
        try:
            result = part(options, cores)
        except UnsuitableError as reason:
            absent.append(f"{name}: {reason}")
            continue
        found += result.targets
        reports.append(f"## Part {name}\n\n{result.report}")
        absent += [result.absent] if result.absent else []
        sound = sound and result.sound
    if not found:
        raise UnsuitableError("; ".join(absent))
    minutes = (time.monotonic() - began) / 60
    lines = [
        f"{options.rounds} interleaved rounds (Django and clients at most {_FEWER}), windows of {options.seconds} s,"
        f" {minutes:.0f} minutes in all. Medians of the rounds, in brackets the lowest and highest.",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        targets.markdown(found),
        "\n".join(f"- Not measured: {reason}" for reason in absent) or "Everything was measured.",
        *reports,
    ]
    print("\n\n".join(lines))
    return 0 if sound else 1


def _applications(options: argparse.Namespace, cores: Cores) -> Part:
    names = (*variants.USUAL, "remote", *(("before",) if options.before else ()))
    # Each number of connections only where a figure asks for it: the run is long enough.
    only = {1: ("ours",), 64: ("ours", "published"), 256: ("ours",)}
    plan = rounds.Plan(names, options.rounds, options.seconds, (16, 1, 64, 256), only=only, steady=frozenset({64}))
    result = run.run(plan, cores, before=options.before)
    absent = "" if options.before else "embedded over embedded before: give an earlier checkout with --before DIR."
    return Part(targets.of_applications(Figures(result.windows)), result.markdown(), absent, not result.excess())


def _django(options: argparse.Namespace, cores: Cores) -> Part:
    kind = django.KINDS["gunicorn"]
    result = django.measured(
        "gunicorn", rounds.Plan(kind.variants, min(_FEWER, options.rounds), options.seconds, (16,)), cores
    )
    return Part(targets.of_django(Figures(result.windows)), django.markdown(result))


def _sidecars(options: argparse.Namespace, cores: Cores) -> Part:
    own = sidecar.parser().parse_args(["--connections", "16", "--rate", "0"])
    own.rounds, own.seconds, own.rust = options.rounds, options.seconds, options.rust
    result = sidecar.measure(own, cores)
    absent = f"the published sidecar in Rust: {result.absent}." if result.absent else ""
    return Part(
        targets.of_sidecars(result, (16,)), sidecar.markdown(result, own), absent, result.kept["ours"].everything
    )


def _bursts(options: argparse.Namespace, cores: Cores) -> Part:
    own = burst.parser().parse_args(["--variants", "bound,ours"])
    own.rounds, own.clients = min(_FEWER, options.rounds), options.clients
    results = burst.measure(own, cores)
    return Part(targets.of_bursts(results), burst.markdown(results, own))


def _routes(options: argparse.Namespace, cores: Cores) -> Part:
    found = routes.measure(min(_FEWER, options.rounds))
    return Part([routes.of_look_ups(found)], routes.markdown(found))


def _start(options: argparse.Namespace, cores: Cores) -> Part:
    found = start.measure(options.rounds)
    return Part(start.of_start(found), start.markdown(found))


PARTS: dict[str, Callable[[argparse.Namespace, Cores], Part]] = {
    "applications": _applications,
    "django": _django,
    "sidecars": _sidecars,
    "routes": _routes,
    "start": _start,
    "clients": _bursts,  # last: it leaves this process on one core
}


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
