"""Inspection: a request that could mean two things is refused before its body is read, and before anybody is asked.

The same functions say what the caller presents, so that what was looked at is what is sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from chio_core.canonical import canonical_json, parse_json
from chio_core.errors import InvalidDocument
from chio_core.evaluation import outcomes as outcome
from chio_core.models.request import METHODS
from chio_core.names import APPROVAL_HEADER, CAPABILITY_QUERY
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, query_map, single_headers
from chio_core.settings import ChioSettings

MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARACTERS = 8 * 1024
"""A path is stored in the receipt for good; servers accept eight times as much."""

MAX_APPROVAL_CHARACTERS = 8 * 1024
"""Longest approval token as JSON; the protocol's own has about 700 characters."""

APPROVAL_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What an approval may be called."""


def singleton_headers(settings: ChioSettings) -> frozenset[str]:
    """Return the headers, in lower case, that may stand only once in a request."""
    return single_headers(settings.capability_header, settings.api_key_header)


def precheck(view: RequestView, settings: ChioSettings, singletons: frozenset[str]) -> Denial | None:
    """Return the refusal of a request that could mean two things, before its body is read; None if it is fine.

    Args:
        singletons: `singleton_headers(settings)`, computed once by the caller.
    """
    if view.method not in METHODS:
        allow = (("allow", ", ".join(sorted(METHODS))),)
        return outcome.bad_request("request method is none that Chio can judge", 405, allow)
    twice = singletons.intersection(view.repeated_headers())
    if twice:
        return outcome.bad_request(f"header {min(twice)} occurs more than once")
    if len(view.route_path) > MAX_PATH_CHARACTERS:
        return outcome.bad_request(f"path is longer than {MAX_PATH_CHARACTERS} characters", 414)
    return _inspect_capability(view, settings) or _inspect_approval(view) or _inspect_query(view)


def _inspect_capability(view: RequestView, settings: ChioSettings) -> Denial | None:
    token = capability_of(view, settings)
    if token is None:
        return None
    if len(token) > MAX_HEADER_BYTES:
        return outcome.bad_request(f"capability token is longer than {MAX_HEADER_BYTES} bytes")
    if not token.isascii() or not token.isprintable():
        return outcome.bad_request("capability token must be printable ASCII; escape other characters in its JSON")
    return None


def _inspect_approval(view: RequestView) -> Denial | None:
    try:
        approval_of(view)
    except InvalidDocument as exc:
        return outcome.bad_request(exc.message)
    return None


def _inspect_query(view: RequestView) -> Denial | None:
    try:
        query_map(view.query_string)
        view.route_path.encode()
    except ValueError:
        return outcome.bad_request("query or path cannot be decoded, or has too many fields")
    return None


def capability_of(view: RequestView, settings: ChioSettings) -> str | None:
    """Return the text of the capability token that the caller presented, or None; blank counts as none."""
    values = view.header_values(settings.capability_header.lower())
    token = values[0] if values else None
    if token is None and settings.capability_in_query:
        token = view.query_params.get(CAPABILITY_QUERY)
    return token.strip() or None if token is not None else None


def approval_of(view: RequestView) -> str | dict[str, Any] | None:
    """Return the approval that the caller presents: its id, or a token object; None for none, blank counts as none.

    Raises:
        InvalidDocument: the header is neither; the text names the header and repeats nothing of it.
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
    """The exclusions of some settings, to ask about every request.

    Args:
        settings: they are frozen, so what they name is taken out of them once.
    """

    __slots__ = ("_methods", "_paths", "_prefixes")

    def __init__(self, settings: ChioSettings) -> None:
        self._methods = settings.exclude_methods
        self._paths = settings.exclude_paths
        self._prefixes = settings.exclude_prefixes

    def cover(self, method: str, path: str) -> bool:
        """Tell whether a request is excluded; see `is_excluded`."""
        return method in self._methods or path in self._paths or is_among(path, (), self._prefixes)


def is_excluded(settings: ChioSettings, method: str, path: str) -> bool:
    """Tell whether a request is excluded.

    Args:
        method: as it was sent; `get` is not `GET`.
        path: the very string that the router matches, so that no other spelling of it is excluded too.
    """
    return Exclusions(settings).cover(method, path)


def is_among(path: str, paths: Collection[str], prefixes: Collection[str]) -> bool:
    """Tell whether a path is one of `paths`, or stands at or below one of `prefixes`."""
    if path in paths:
        return True
    return bool(prefixes) and any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
