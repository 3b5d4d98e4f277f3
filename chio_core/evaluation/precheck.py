"""Checks of a request that need neither its body nor the sidecar, what it presents, and whether it is only observed.

`precheck` refuses a request that could mean two things. It returns the credentials that it has read, so the values
that were checked are the values that are sent. It is no policy: it decides nothing about capabilities, and the checks
of the body follow when the body is read (`body_limits`, `amounts`).

`refused_unread` finds the refusals that no body can change: such a request is evaluated without its body, which stays
unread. Reading a body costs memory, temporary files and time, and its sender decides how long it takes. So a request
whose route requires a capability is refused before its body is read if

1. it presents none;
2. what it presents is no capability;
3. the capability expired so long ago that an allow would be rejected: the receipt of a sidecar to whose clock it
   still counts is outside `receipt_tolerance` (`chio_core.receipts`);
4. the capability states another holder than the caller.

`chio_core.evaluation.conclude` refuses each of these whatever the sidecar answers, so the evaluation only makes the
receipt. It binds no body: `body_hash` is null in its content hash (wire protocol, section 3.4). What only a sidecar
knows, whether it trusts the issuer for example, is decided when the body is there, because the protocol has no
question that is no decision: an allow would be on record, and spend a use, for a request that did not run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from chio_core.canonical import canonical_json, parse_json
from chio_core.capabilities.constraints import HOLDER
from chio_core.capabilities.scope import holders_of, is_of_another
from chio_core.capabilities.tokens import parse_capability
from chio_core.errors import InvalidDocument
from chio_core.evaluation.requirements import RequirementSource
from chio_core.models.capability import CapabilityToken
from chio_core.models.request import METHODS, SAFE_METHODS, CallerIdentity
from chio_core.names import APPROVAL_HEADER, CAPABILITY_QUERY
from chio_core.refusals.response import RequestRefused, bad_request
from chio_core.request import RequestView, Requirement, query_map, single_headers
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

_UNREADABLE: Final = frozenset({""})


@dataclass
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

    @cached_property
    def capability(self) -> CapabilityToken | None:
        """The parsed token, not verified; None without a token, or if it cannot be parsed. It is parsed once."""
        try:
            return None if self.token is None else parse_capability(self.token)
        except InvalidDocument:
            return None

    @property
    def holders(self) -> frozenset[str]:
        """The holders that the token states, see `chio_core.capabilities.scope`; empty if anyone may present it.

        A text that may state one but cannot be read here is of a holder that is no caller: another sidecar may be able
        to read it.
        """
        # Without the word, and without an escape that could spell it, there is no holder: most tokens are not read.
        if self.token is None or (HOLDER not in self.token and "\\u" not in self.token):
            return frozenset()
        return _UNREADABLE if self.capability is None else holders_of(self.capability)


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


def refused_unread(view: RequestView, presented: Presented, caller: CallerIdentity, settings: ChioSettings) -> bool:
    """Return True if a request to a route that requires a capability is refused whatever its body says.

    See the rules at the top of this module.

    Args:
        presented: what the request presents, the token that it carries beside its header included.
    """
    if presented.token is None:
        return True
    # The usual GET has no body to wait for, and its token is not read here.
    framed = view.header_values("content-length") or view.header_values("transfer-encoding")
    if view.method in SAFE_METHODS and not framed:
        return False
    if (token := presented.capability) is None:
        return True
    # A receipt's time may differ by one second more, because it is in whole seconds.
    expired = token.expires_at + settings.receipt_tolerance + 1 < time.time()
    return expired or is_of_another(token, caller)


def can_be_evaluated(view: RequestView) -> bool:
    """Return True if a sidecar can evaluate a request that `precheck` refuses, without what the request presents."""
    path = view.route_path
    is_unicode = not any("\ud800" <= char <= "\udfff" for char in path)
    return view.method in METHODS and len(path) <= MAX_PATH_CHARACTERS and is_unicode


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

    __slots__ = ("_below", "_methods", "_paths")

    def __init__(self, settings: ChioSettings) -> None:
        self._methods = settings.exclude_methods
        self._paths = frozenset((*settings.exclude_paths, *settings.exclude_prefixes))
        self._below = tuple(f"{prefix}/" for prefix in settings.exclude_prefixes)

    def cover(self, method: str, path: str) -> bool:
        """Return True if a request is excluded.

        Args:
            method: as it was sent; `get` is not `GET`.
            path: the string that the router matches, so another spelling of an excluded path stays governed.
        """
        return path in self._paths or path.startswith(self._below) or method in self._methods


def is_among(path: str, paths: Collection[str], prefixes: Collection[str]) -> bool:
    """Return True if a path is one of `paths`, or equal to or below one of `prefixes`."""
    if path in paths:
        return True
    return bool(prefixes) and any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def is_observed(
    settings: ChioSettings,
    path: str,
    requirement: Requirement | None = None,
    sources: Sequence[RequirementSource] = (),
    *,
    by_path: bool = True,
) -> bool:
    """Return True if a refusal of a request is only recorded.

    In observe mode every request is evaluated, its decision verified and recorded, and a refusal is not enforced:
    `Decision.withhold` turns it into a mark. What is refused before an evaluation otherwise (400, 408, 411, 413,
    503) is evaluated without what the request presents, and the receipt states that refusal (`refused`). A method
    or a path that no evaluation can name (405, 414) runs without a receipt. A request that a guard refuses stays
    refused, and so does one whose body never arrives. Handlers get no receipt for an observed refusal. Each is one
    warning in the log of decisions (`chio_core.telemetry.log`) and one count (`chio_core.telemetry.metrics`).

    | | fail-open | observe |
    |---|---|---|
    | is for | a sidecar that is down | finding out what enforcing would do |
    | lets pass | no connection, no answer in time | every refusal |
    | where a capability is required | never | too |
    | mark (`chio_passthrough.mode`) | `allow_without_receipt` | `observe` |

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
