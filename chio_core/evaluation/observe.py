"""Observe mode: every request is evaluated, its decision verified and recorded, and a refusal is not enforced.

`is_observed` says for which requests; `Decision.withhold` turns a refusal into a mark. What is refused before an
evaluation otherwise (400, 408, 411, 413, 503) is evaluated without what the request presents, and the receipt states
that refusal (`refused`). A method or a path that no evaluation can name (405, 414) runs without a receipt. A request
that a guard refuses stays refused, and so does one whose body never arrives. Handlers get no receipt for an observed
refusal. Each is one warning in the log of decisions (`chio_core.telemetry.log`) and one count
(`chio_core.telemetry.metrics`).

| | fail-open | observe |
|---|---|---|
| is for | a sidecar that is down | finding out what enforcing would do |
| lets pass | no connection, no answer in time | every refusal |
| where a capability is required | never | too |
| mark (`chio_passthrough.mode`) | `allow_without_receipt` | `observe` |
"""

from __future__ import annotations

from collections.abc import Sequence

from chio_core.errors import InvalidDocument
from chio_core.evaluation.precheck import is_among
from chio_core.evaluation.requirements import RequirementSource
from chio_core.request import Requirement
from chio_core.settings import ChioSettings


def is_observed(
    settings: ChioSettings,
    path: str,
    requirement: Requirement | None = None,
    sources: Sequence[RequirementSource] = (),
    *,
    by_path: bool = True,
) -> bool:
    """Return True if a refusal of a request is only recorded.

    Args:
        path: the string that the router matches.
        requirement: what the route requires.
        sources: what declares that.
        by_path: False for requests that the application sends: the settings do not name their paths.
    """
    if settings.observe or (requirement is not None and requirement.observe):
        return True
    if sources and any(source.chio_observes for source in sources):
        return True
    if not by_path or (not settings.observe_paths and not settings.observe_prefixes):
        return False
    return is_among(path, settings.observe_paths, settings.observe_prefixes)


def lacking(requirement: Requirement | None, token: str | None, holder: str | None = None) -> tuple[str, ...]:
    """Return the operations that a route requires and the presented token does not grant, sorted.

    A sidecar checks `invoke` only, so it allows such a request and this side refuses it. The result is empty without
    a token, or if none of its grants fits: then the sidecar's own verdict refuses.

    Args:
        holder: `CallerIdentity.holder` of the caller.
    """
    if requirement is None or token is None or requirement.server is None or requirement.tool is None:
        return ()
    if set(requirement.operations) <= {"invoke"}:
        return ()
    from chio_core.capabilities import match_grant, parse_capability

    try:
        scope = parse_capability(token).scope
        index = match_grant(scope, requirement.server, requirement.tool, requirement.arguments, holder=holder)
    except InvalidDocument:
        return ()
    return () if index is None else tuple(scope.grants[index].lacks(requirement.operations))
