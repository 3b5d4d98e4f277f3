"""Shared by the commands of this folder: the parser, option types, and errors in one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection

from benchmarks.machine import UnsuitableError
from benchmarks.variants import MEANING


def speaking_plainly(main: Callable[[], int]) -> int:
    """Run a command; return its exit status, 2 if the machine cannot measure, 130 if interrupted."""
    try:
        return main()
    except UnsuitableError as reason:
        print(f"benchmarks: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted, nothing is reported.", file=sys.stderr)
        return 130


def new_parser(module: str, documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help text is the documentation of a module of this folder."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m {module}", description=documentation, formatter_class=form)


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number above 0")
    return int(text)


def share(text: str) -> float:
    """Parse a share of one processor, from 0.001 (a limit of the kernel) to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a share from 0.001 to 1")
    return value


def numbers(text: str) -> tuple[int, ...]:
    """Parse a comma list of whole numbers above 0."""
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def names(what: str, known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of a comma list of known names.

    Args:
        what: a name is of, for messages.
        known: the names to choose from.
    """

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} `{name}`: choose from {', '.join(known)}")
        return chosen

    return parse


variant_names = names("variant", MEANING)
"""Parses a comma list of variants."""
