"""Checks of a request that need neither its body nor the sidecar, and what it presents.

`precheck` refuses a request that could mean two things. It returns the credentials that it has read, so the values
that were checked are the values that are sent. It is no policy: it decides nothing about capabilities, and the checks
of the body follow when the body is read (`body_limits`, `amounts`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chio_core.canonical import canonical_json, parse_json
from chio_core.errors import InvalidDocument
from chio_core.models.request import METHODS
from chio_core.names import APPROVAL_HEADER, CAPABILITY_QUERY
from chio_core.refusals.response import RequestRefused, bad_request
from chio_core.request import RequestView, query_map, single_headers
from chio_core.settings import ChioSettings

MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARACTERS = 8 * 1024
"""Longest path. Receipts store it, so the limit is an eighth of what servers accept."""

MAX_APPROVAL_CHARACTERS = 8 * 1024
"""Longest approval token as JSON; the protocol's own has about 700 characters."""

APPROVAL_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Form of an approval's id."""

Approval = str | dict[str, Any]
"""An approval's id, or a GovernedApprovalToken as a JSON object."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request presents to the sidecar.

    Attributes:
        token: text of the capability token, a secret; None without one.
        approval: id or token of an approval; None without one.
        query: decoded query without the token parameter.
    """

    token: str | None = field(default=None, repr=False)
    approval: Approval | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)


def singleton_headers(settings: ChioSettings) -> frozenset[str]:
    """Return the headers, in lower case, that a request may carry only once."""
    return single_headers(settings.capability_header, settings.api_key_header)


def precheck(view: RequestView, settings: ChioSettings, singletons: frozenset[str]) -> Presented:
    """Return what a request presents.

    Args:
        singletons: `singleton_headers(settings)`, computed once by the caller.

    Raises:
        RequestRefused: 400, 405 or 414 for a request that could mean two things.
    """
    if view.method not in METHODS:
        allow = (("allow", ", ".join(sorted(METHODS))),)
        raise RequestRefused(bad_request("unsupported request method", 405, allow))

    # Two readers of a repeated header may each take another line.
    repeated = singletons.intersection(view.repeated_headers())
    if repeated:
        raise RequestRefused(bad_request(f"header {min(repeated)} occurs more than once"))
    if len(view.route_path) > MAX_PATH_CHARACTERS:
        raise RequestRefused(bad_request(f"path is longer than {MAX_PATH_CHARACTERS} characters", 414))

    # The token travels to the sidecar in a header, so it must be a valid header value.
    token = presented_token(view, settings)
    if token is not None:
        if len(token) > MAX_HEADER_BYTES:
            raise RequestRefused(bad_request(f"capability token is longer than {MAX_HEADER_BYTES} bytes"))
        if not token.isascii() or not token.isprintable():
            text = "capability token must be printable ASCII; escape other characters in its JSON"
            raise RequestRefused(bad_request(text))
    try:
        approval = presented_approval(view)
    except InvalidDocument as exc:
        raise RequestRefused(bad_request(exc.message)) from None
    try:
        query = query_map(view.query_string)
        view.route_path.encode()
    except ValueError:
        raise RequestRefused(bad_request("query or path cannot be decoded, or has too many fields")) from None
    return Presented(token, approval, query)


def can_be_evaluated(view: RequestView) -> bool:
    """Return True if a sidecar can evaluate a request that `precheck` refuses, without what the request presents."""
    return view.method in METHODS and len(view.route_path) <= MAX_PATH_CHARACTERS and _is_unicode(view.route_path)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def presented_token(view: RequestView, settings: ChioSettings) -> str | None:
    """Return the text of the capability token that a request presents; None for none, or a blank one."""
    values = view.header_values(settings.capability_header.lower())
    token = values[0] if values else None
    if token is None and settings.capability_in_query:
        token = view.query_params.get(CAPABILITY_QUERY)
    return token.strip() or None if token is not None else None


def presented_approval(view: RequestView) -> Approval | None:
    """Return the approval that a request presents; None for none, or a blank one.

    Raises:
        InvalidDocument: the header holds neither an id nor a token; the text names the header and repeats nothing.
    """
    values = view.header_values(APPROVAL_HEADER.lower())
    text = values[0].strip() if values else ""
    if not text:
        return None
    if not text.startswith("{"):
        if APPROVAL_ID.fullmatch(text):
            return text
        raise InvalidDocument(f"header {APPROVAL_HEADER} must be the id of an approval, or its token as compact JSON")
    if len(text) > MAX_APPROVAL_CHARACTERS or not text.isascii() or not text.isprintable():
        raise InvalidDocument(f"token in {APPROVAL_HEADER} must be printable ASCII, at most {MAX_APPROVAL_CHARACTERS}")
    try:
        token = parse_json(text)
        canonical_json(token)
    except InvalidDocument:
        raise InvalidDocument(f"token in header {APPROVAL_HEADER} is no JSON object with one reading") from None
    return token if isinstance(token, dict) else None


class Exclusions:
    """Methods, paths and prefixes that the settings exclude from governing.

    Args:
        settings: frozen, so the values are taken from them once.
    """

    __slots__ = ("_methods", "_paths", "_prefixes")

    def __init__(self, settings: ChioSettings) -> None:
        self._methods = settings.exclude_methods
        self._paths = settings.exclude_paths
        self._prefixes = settings.exclude_prefixes

    def cover(self, method: str, path: str) -> bool:
        """Return True if a request is excluded.

        Args:
            method: as it was sent; `get` is not `GET`.
            path: the string that the router matches, so another spelling of an excluded path stays governed.
        """
        return method in self._methods or path in self._paths or is_among(path, (), self._prefixes)


def is_among(path: str, paths: Collection[str], prefixes: Collection[str]) -> bool:
    """Return True if a path is one of `paths`, or equal to or below one of `prefixes`."""
    if path in paths:
        return True
    return bool(prefixes) and any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
