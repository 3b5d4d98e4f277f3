"""What an application's governance amounts to, in findings: for people who look before they deploy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chio_core.guards.chain import Chain, Finding
from chio_core.settings import ChioSettings, unsafe_options

NOT_GOVERNED = Finding("ERROR", "not_governed", "this application has no Chio middleware, so nothing is governed")

_CORS = "CORSMiddleware"


def check_governed(chain: Chain, settings: ChioSettings, *, inside: Sequence[str] = ()) -> list[Finding]:
    """Return what will run, what is not governed, and what is unsafe.

    Args:
        chain: the whole chain, `decide` included.
        inside: class names of the middleware between Chio and the routes, outermost first.
    """
    return [
        *chain.check(),
        *_exclusions(settings),
        *(Finding("WARN", f"setting_{name}", text) for name, text in unsafe_options(settings).items()),
        *_neighbours(inside),
    ]


def _exclusions(settings: ChioSettings) -> Iterator[Finding]:
    # An exclusion is the only success without a decision, so it is listed although it was asked for.
    kinds = (
        ("excluded_methods", "methods", settings.exclude_methods),
        ("excluded_paths", "paths", settings.exclude_paths),
        ("excluded_prefixes", "paths with all below", settings.exclude_prefixes),
    )
    for category, what, names in kinds:
        if names:
            yield Finding("INFO", category, f"{what} that run without a decision: {', '.join(sorted(names))}")


def _neighbours(inside: Sequence[str]) -> Iterator[Finding]:
    if _CORS in inside:
        text = "CORSMiddleware stands inside of Chio: refusals reach browsers without CORS headers; add it after Chio"
        yield Finding("WARN", "cors_inside", text)
