"""What an application says of its settings at its start: what governs, unsafe choices, and unknown `CHIO_*` names."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from pydantic_settings import DotEnvSettingsSource

from chio_core.endpoint import is_this_machine
from chio_core.names import LOGGER
from chio_core.settings import ChioSettings
from chio_core.telemetry.notices import announce

log = logging.getLogger(LOGGER)

FOREIGN_NAMES = frozenset({
    "CHIO_API_PROTECT_CONTROL_TOKEN", "CHIO_BIN", "CHIO_GUARDS", "CHIO_SERVICE_TOKEN", "CHIO_SIDECAR_CONTROL_TOKEN",
    "CHIO_SIDECAR_EVALUATE_TOKEN", "CHIO_TEST_STORE", "CHIO_TRUSTED_APPROVERS", "CHIO_TRUSTED_ISSUER_KEY",
    "CHIO_TRUSTED_ISSUER_KEYS", "CHIO_VIEW_POLICIES",
})  # fmt: skip
"""`CHIO_*` names of the sidecar, its command line, tests and the examples, which are no options."""


def report_settings(
    settings: ChioSettings, environ: Mapping[str, str] | None = None, *, routes: int | None = None
) -> list[str]:
    """Announce what governs, and log a warning for each unsafe choice and each unknown `CHIO_*` name.

    Args:
        settings: the settings.
        environ: environment to check; by default that of the process, and the file `.env`.
        routes: number of the application's governed routes; None if it is unknown.

    Returns:
        The logged warnings; they contain no secrets.
    """
    announce(start_line(settings, routes))
    found = list(unsafe_options(settings).values())
    if environ is None:
        # The source returns the names of the file in lower case.
        environ = {name.upper(): "" for name in DotEnvSettingsSource(ChioSettings).env_vars} | dict(os.environ)
    for name in unknown_names(environ):
        near = nearest_name(name)
        hint = f"did you mean {near}?" if near else "is it misspelled?"
        found.append(f"environment variable {name} is not an option of Chio; {hint}")
    for sentence in found:
        log.warning("chio settings: %s", sentence)
    return found


def start_line(settings: ChioSettings, routes: int | None = None) -> str:
    """Return in one line the sidecar, the trusted keys, and what is not governed or not enforced.

    Args:
        settings: the settings.
        routes: number of governed routes; None if it is unknown.
    """
    own = "its own" if settings.sidecar_url.startswith("embedded:") else "first key seen"
    open_doors = {*settings.exclude_paths, *(f"{p}/…" for p in settings.exclude_prefixes), *settings.exclude_methods}
    observed = _observed(settings)
    parts = [
        f"requests are evaluated by the sidecar {settings.sidecar_url}",
        f"key: {', '.join(settings.trusted_kernel_keys) or own}",
        f"governed routes: {routes}" if routes is not None else "",
        f"not governed: {', '.join(sorted(open_doors))}" if open_doors else "",
        f"observe mode {observed}" if observed else "",
        "fail_open is on" if settings.fail_open else "",
    ]
    return "; ".join(part for part in parts if part)


def unsafe_options(settings: ChioSettings) -> dict[str, str]:
    """Return the options that weaken governance, each with one sentence about its effect."""
    found = {}
    if settings.fail_open and not settings.sidecar_url.startswith("embedded:"):
        found["fail_open"] = (
            "fail_open is on: while the sidecar is unreachable or too slow, requests run without a decision, also"
            " those that a slow sidecar denies afterwards"
        )
    if observed := _observed(settings):
        found["observe"] = f"observe mode: what Chio refuses is recorded and runs nevertheless, {observed}"
    if not settings.trusted_kernel_keys and not settings.sidecar_url.startswith("embedded:"):
        found["trusted_kernel_keys"] = (
            "no trusted_kernel_keys are pinned: the first key that signs a good receipt is trusted by this process"
        )
    places = [("sidecar_url", one, "tokens and decisions") for one in settings.sidecar_urls]
    for name, value, what in (
        *places,
        ("trust_url", settings.trust_url or "", "trust_token and issued tokens"),
    ):
        url = urlsplit(value)
        if url.scheme == "http" and not is_this_machine(url.hostname or ""):
            found[name] = f"{name} is plain http to another machine: {what} can be read on the way"
    if settings.capability_in_query:
        found["capability_in_query"] = (
            "capability_in_query is on: tokens in URLs end up in access logs and Referer headers"
        )
    if ungoverned := sorted(settings.exclude_methods - {"OPTIONS"}):
        found["exclude_methods"] = (
            f"exclude_methods lets every {' and '.join(ungoverned)} request run without a decision"
        )
    return found


def _observed(settings: ChioSettings) -> str:
    if settings.observe:
        return "on every path"
    parts = sorted({*settings.observe_paths, *(f"{prefix}/…" for prefix in settings.observe_prefixes)})
    return f"on {', '.join(parts)}" if parts else ""


def nearest_name(name: str, more: Iterable[str] = FOREIGN_NAMES) -> str | None:
    """Return the `CHIO_*` name that `name` may be misspelled from; None if no name is similar.

    Args:
        more: names that the caller reads besides the options.
    """
    # Compare without the prefix, which makes all names similar.
    options = [field.upper() for field in ChioSettings.model_fields]
    others = sorted(one.removeprefix("CHIO_") for one in more)
    near = difflib.get_close_matches(name.removeprefix("CHIO_"), [*options, *others], n=1)
    return f"CHIO_{near[0]}" if near else None


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Return the `CHIO_*` names in `environ` that are neither options nor in `FOREIGN_NAMES`."""
    known = {f"CHIO_{name.upper()}" for name in ChioSettings.model_fields} | FOREIGN_NAMES
    return sorted(name for name in environ if name.startswith("CHIO_") and name not in known)
