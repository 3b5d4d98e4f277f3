"""Measure the bare application, this middleware and the published one in one run, and print one table.

    python -m benchmarks                                        a few minutes, all variants
    python -m benchmarks --variants bare,ours --rounds 1        a quick look
    python -m benchmarks --connections 1,64,256                 does governance grow with the connections?

The table goes to standard output, the progress to standard error. Exit status 1: governance
takes more processor time than `CEILING` allows, in multiples of the bare application's. 2: this machine cannot measure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, targets, variants
from benchmarks.figures import Figures
from benchmarks.options import new_parser, numbers, positive, speaking_plainly, variant_names
from benchmarks.rounds import Plan
from benchmarks.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = new_parser("benchmarks", __doc__)
    parser.add_argument("--variants", type=variant_names, default=variants.USUAL, metavar="LIST")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one window")
    parser.add_argument("--connections", type=numbers, default=(16, 1), metavar="LIST")
    parser.add_argument("--receipts", choices=("full", "short"), default="full", help="metadata of the receipts")
    parser.add_argument("--before", type=Path, metavar="DIR", help="the checkout of the variant `before`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every window of the run there")
    options = parser.parse_args(arguments)
    if "before" in options.variants and options.before is None:
        parser.error("the variant `before` needs --before DIR")
    plan = Plan(options.variants, options.rounds, options.seconds, options.connections)
    result = run(plan, machine.two_cores(), options.receipts, options.before)
    print(result.markdown() + "\n\n" + targets.markdown(targets.of_applications(Figures(result.windows))))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 1 if result.excess() else 0


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
