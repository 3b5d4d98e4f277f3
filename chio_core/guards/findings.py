"""Findings about an application's governance, for a check before it is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chio_core.guards.chain import Chain, Finding
from chio_core.settings import ChioSettings
from chio_core.settings_report import unsafe_options

NOT_GOVERNED = Finding("ERROR", "not_governed", "this application has no Chio middleware, so nothing is governed")


def csrf_findings(settings: ChioSettings, has_csrf: bool, remedy: str) -> Iterator[Finding]:
    """Yield a finding if browsers send the capability by themselves, and the framework's CSRF protection is absent.

    Args:
        has_csrf: the application has the protection.
        remedy: how to add it.
    """
    if settings.capability_source != "header" and not has_csrf:
        text = (
            f"capability_source is {settings.capability_source}, which browsers send by themselves, and there is no"
            f" CSRF protection besides Chio's check of Origin and Sec-Fetch-Site: {remedy}"
        )
        yield Finding("WARN", "no_csrf", text)


def check_governed(chain: Chain, settings: ChioSettings, *, inside: Sequence[str] = ()) -> list[Finding]:
    """Return findings about the guards, the exclusions, unsafe settings and the order of middleware.

    Args:
        chain: the whole chain, `decide` included.
        inside: class names of the middleware between Chio and the routes, outermost first.
    """
    found = chain.check()
    # An exclusion is the only success without a decision, so it is listed although it was configured.
    kinds = (
        ("excluded_methods", "methods", settings.exclude_methods),
        ("excluded_paths", "paths", settings.exclude_paths),
        ("excluded_prefixes", "paths with all below", settings.exclude_prefixes),
    )
    for category, kind, names in kinds:
        if names:
            text = f"{kind} that run without a decision: {', '.join(sorted(names))}"
            found.append(Finding("INFO", category, text))
    for name, text in unsafe_options(settings).items():
        found.append(Finding("WARN", f"setting_{name}", text))
    if "CORSMiddleware" in inside:
        text = "CORSMiddleware is inside Chio: refusals reach browsers without CORS headers; add it after Chio"
        found.append(Finding("WARN", "cors_inside", text))
    return found
