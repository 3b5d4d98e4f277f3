"""A reader of Prometheus' text format 0.0.4 that refuses what a scraper or `promtool check metrics` would refuse.

Written from the description of the format: one HELP and one TYPE before the samples of a family, families in one piece,
no sample twice, labels quoted and escaped, histograms cumulative with `+Inf` equal to the count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HEAD = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)\Z")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)\Z")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|\Z)')

Labels = frozenset[tuple[str, str]]


@dataclass
class Family:
    """One metric as it was read."""

    kind: str = ""
    text: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def parse(page: str) -> Mapping[str, Family]:
    """Read a page; every rule that it breaks is an AssertionError."""
    assert page.endswith("\n")
    page.encode()
    families: dict[str, Family] = {}
    current = ""
    for line in page[:-1].split("\n"):
        if line.startswith("#"):
            found = _HEAD.match(line)
            assert found, line
            kind, name, text = found.groups()
            if kind == "HELP":
                assert name not in families, f"{name} stands in two places"
                families[name], current = Family(text=text), name
            else:
                assert name == current, f"TYPE of {name} stands apart from its HELP"
                assert not families[name].kind
                assert text in ("counter", "gauge", "histogram")
                families[name].kind = text
        else:
            _sample(line, current, families[current])
    for name, family in families.items():
        _check(name, family)
    return families


def value(families: Mapping[str, Family], name: str, **labels: str) -> float:
    """Return one sample; 0 where there is none."""
    family = families.get(name) or families[re.sub(r"_(bucket|sum|count)$", "", name)]
    return family.samples.get((name, frozenset(labels.items())), 0.0)


def _sample(line: str, current: str, family: Family) -> None:
    found = _SAMPLE.match(line)
    assert found, line
    name, inside, number = found.groups()
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    assert name in {current + suffix for suffix in suffixes}, f"{name} stands among the samples of {current}"
    pairs = _LABEL.findall(inside or "")
    assert sum(len(f'{key}="{text}"') for key, text in pairs) + max(0, len(pairs) - 1) == len(inside or ""), line
    assert len({key for key, _ in pairs}) == len(pairs), line
    key = (name, frozenset(pairs))
    assert key not in family.samples, f"{line} stands twice"
    family.samples[key] = float(number.replace("Inf", "inf"))


def _check(name: str, family: Family) -> None:
    assert family.kind, f"{name} has no TYPE"
    assert (family.kind == "counter") == name.endswith("_total"), name
    if family.kind == "counter":
        assert all(number >= 0 and number == int(number) for number in family.samples.values())
    if family.kind == "histogram":
        buckets = sorted(
            (float(dict(labels)["le"].replace("Inf", "inf")), number)
            for (sample, labels), number in family.samples.items()
            if sample == f"{name}_bucket"
        )
        counts = [number for _, number in buckets]
        assert counts == sorted(counts), f"{name} is not cumulative"
        assert buckets[-1] == (math.inf, family.samples[(f"{name}_count", frozenset())])
        assert (f"{name}_sum", frozenset()) in family.samples
