"""One Chio inside of another: both ask, on purpose, but people are told what that does to budgets and approvals."""

from __future__ import annotations

from typing import Any, Final

from chio_asgi.types import Scope
from chio_core.names import SCOPE_JUDGED

EFFECT: Final = "each request is judged twice, spends each budget twice and cannot use an approval"
"""What it comes to where two of them ask about one request."""

REMEDY: Final = "leave the inner one out, or exclude its paths from the outer one (exclude_prefixes)"
"""What to do about it."""


def mark_judged(scope: Scope, by: object) -> None:
    """Note that the sidecar was asked about the request of this very scope.

    Args:
        by: who has asked.
    """
    # The id, because a handler may copy the scope and hand another request to the application.
    scope[SCOPE_JUDGED] = (id(scope), by, scope.get("app"))


def nested_in(scope: Scope, by: object) -> str | None:
    """Return one sentence when somebody else further out has asked about this very request.

    Args:
        by: who is about to ask.
    """
    known = scope.get(SCOPE_JUDGED)
    if known is None or known[0] != id(scope) or known[1] is by:
        return None
    inner, outer = scope.get("app"), known[2]
    if inner is outer:
        return f"{named(inner)} has Chio twice: {EFFECT}; leave one out"
    # Inside of a mount with parameters this is what a client has written.
    root = scope.get("root_path") if not scope.get("path_params") else None
    place = f" at {root!r}" if root else ""
    return f"{named(inner)}{place} stands inside of {named(outer)}, and both have Chio: {EFFECT}; {REMEDY}"


def named(app: Any) -> str:
    """Return how to name an application to a person."""
    title = getattr(app, "title", None)
    if isinstance(title, str) and title:
        return f"application {title!r}"
    return "the application" if app is None else f"the {type(app).__name__} application"
