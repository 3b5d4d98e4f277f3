"""GuardRequest: the view of a request that every framework adapter implements, and the request made from it.

`to_chio_request` is the only function that turns a view into the sidecar's request, so all frameworks hash and
send the same for the same bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from chio_core.models.capability import Operation
from chio_core.models.demands import ApprovalDemand, BudgetDemand
from chio_core.models.request import METHODS, CallerIdentity, ChioHttpRequest
from chio_core.names import APPROVAL_HEADER, CAPABILITY_HEADER, CAPABILITY_QUERY

MAX_QUERY_FIELDS = 1000
"""Most fields that a query may have."""


@runtime_checkable
class GuardRequest(Protocol):
    """View of one HTTP request, for guards that work in every framework.

    Accessors are cheap and never raise. `headers` is case-insensitive and joins repeated lines with a comma; of
    repeated query parameters the last one counts.
    """

    @property
    def url_path(self) -> str:
        """Decoded path, without scheme, host and query."""
        ...

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        ...

    @property
    def url_full(self) -> str:
        """The whole URL with its query."""
        ...

    def url_replace_scheme(self, scheme: str) -> str:
        """Return the whole URL with another scheme; the request is not changed."""
        ...

    @property
    def method(self) -> str:
        """The method as the client sent it."""
        ...

    @property
    def client_host(self) -> str | None:
        """Address of the peer; None if the server does not report it."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers."""
        ...

    @property
    def query_params(self) -> Mapping[str, str]:
        """Decoded query parameters."""
        ...

    async def body(self) -> bytes:
        """Return the whole body, on every call.

        Raises:
            RequestRefused: 400, 411 or 413: it did not arrive completely, or is larger than `max_body_bytes`. A guard
                lets this exception pass, and the request is refused with it.
        """
        ...

    @property
    def state(self) -> Any:
        """Namespace shared by all guards and the handler of this request."""
        ...

    @property
    def scope(self) -> dict[str, Any]:
        """The framework's own description of the request (for ASGI the scope); may be empty."""
        ...


class Request(GuardRequest, Protocol):
    """The request as the guards of a chain get it: `GuardRequest` (the protocol of guard-core), and what may change."""

    @property
    def path(self) -> str:
        """The same as `url_path`."""
        ...

    def set_header(self, name: str, value: str) -> None:
        """Replace all lines of a request header by one, for the sidecar and the handler.

        A header that the decision depends on (content type, credentials) cannot change after it.
        """
        ...

    def replace_body(self, data: bytes) -> None:
        """Replace the body for the sidecar and the handler; possible until the decision.

        Raises:
            ConfigurationError: the body is already part of the decision.
        """
        ...


class RequestView(Request, Protocol):
    """A `Request` with the facts that a decision also needs and mappings lose."""

    @property
    def route_path(self) -> str:
        """The exact string that the framework's router matches."""
        ...

    @property
    def query_string(self) -> str:
        """The raw query."""
        ...

    def header_values(self, name: str) -> Sequence[str]:
        """Return the lines of the header `name` (lower case), not joined."""
        ...

    def repeated_headers(self) -> Collection[str]:
        """Return the names, in lower case, of headers that occur in more than one line."""
        ...

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the lines of those headers in `names` (lower case) that the request has, to compare them later."""
        ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a route requires: a capability, and the other demands of the same evaluation.

    Attributes:
        server, tool: what the token must grant; both None: any valid capability is enough.
        operations: operations that one grant must contain (wire protocol, section 5.1).
        arguments: JSON value against which the grant's constraints are checked; None without arguments.
        approval: an approval that the request needs, see `chio_core.models.demands`.
        budget: what the request spends, and its limits.
        observe: the decision is recorded and does not refuse.
        capability: False if no capability is required, for example by a route with only a budget.
    """

    server: str | None = None
    tool: str | None = None
    operations: tuple[Operation, ...] = ("invoke",)
    arguments: Any = None
    approval: ApprovalDemand | None = None
    budget: BudgetDemand | None = None
    observe: bool = False
    capability: bool = True

    @property
    def binding(self) -> bool:
        """True if a verified receipt must prove that a demand was met; such a route never fails open."""
        return self.capability or self.approval is not None or self.budget is not None

    @property
    def title(self) -> str:
        """Name in messages, for example `payments/transfer`."""
        return f"{self.server}/{self.tool}" if self.server is not None else "any capability"


NO_REQUIREMENT = Requirement(capability=False)
"""What a route requires that states nothing."""


def query_map(query_string: str) -> dict[str, str]:
    """Decode a query as the sidecar's own proxy does: form-decoded, of duplicates the last wins.

    The token's parameter is left out: it is a secret, and the query is hashed into the receipt.

    Raises:
        ValueError: more than `MAX_QUERY_FIELDS` fields.
    """
    if not query_string:
        return {}
    pairs = parse_qsl(query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    return {name: value for name, value in pairs if name != CAPABILITY_QUERY}


def to_chio_request(
    view: RequestView,
    *,
    request_id: str,
    timestamp: int,
    caller: CallerIdentity,
    template: str | None = None,
    query: Mapping[str, str] | None = None,
    body_hash: str | None = None,
    body_length: int = 0,
    requirement: Requirement | None = None,
    session_id: str | None = None,
    approval_token: Any = None,
    observe: bool = False,
    lacking: Sequence[str] = (),
    refused: str | None = None,
    place: Mapping[str, str] | None = None,
) -> ChioHttpRequest:
    """Describe a request for the sidecar (wire protocol, section 1.1).

    Args:
        template: path template of the route that will run; without one, the plain path is sent.
        query: decoded query; read from the view if left out.
        body_hash: SHA-256 hex over all bytes of the body, None for an empty one.
        body_length: bytes that were counted.
        timestamp: seconds since 1970.
        requirement: what the route requires.
        approval_token: what the caller presents; also without a demand of the route, because the sidecar's OpenAPI
            document may demand an approval too.
        observe: a refusal will only be recorded; the sidecar writes that into its receipt.
        lacking: operations that the route requires and the presented capability does not grant.
        place: in observe mode `framework` and `view` of the route, if they are known.
        refused: status and sentence of the refusal without an evaluation that observe mode withholds.

    Raises:
        ValueError: the protocol does not know the method.
    """
    method, path = view.method, view.route_path
    if method not in METHODS:
        raise ValueError(f"the protocol knows no method {method!r}")
    content_type = view.header_values("content-type")
    # An empty line counts as absent: WSGI servers do not distinguish the two.
    headers = {"content-type": content_type[0]} if content_type and content_type[0] else {}
    if body_length:
        headers["content-length"] = str(body_length)
    wanted = requirement if requirement is not None else NO_REQUIREMENT
    tool = wanted.server is not None
    return ChioHttpRequest.of_checked(
        {
            "request_id": request_id,
            "method": method,
            "route_pattern": template if template is not None else path,
            "path": path,
            "query": dict(query) if query is not None else query_map(view.query_string),
            "headers": headers,
            "caller": caller,
            "body_hash": body_hash,
            "body_length": body_length,
            "session_id": session_id,
            "capability_id": None,
            "tool_server": wanted.server,
            "tool_name": wanted.tool if tool else None,
            "arguments": wanted.arguments if tool else None,
            "model_metadata": None,
            "timestamp": timestamp,
            "governed_intent": wanted.approval.to_wire() if wanted.approval is not None else None,
            "approval_token": approval_token,
            "budget": wanted.budget.to_wire() if wanted.budget is not None else None,
            "further_to": None,
            "enforcement": _observed(wanted, lacking, refused, place) if observe else None,
        }
    )


def _observed(
    wanted: Requirement, lacking: Sequence[str], refused: str | None, place: Mapping[str, str] | None
) -> dict[str, str]:
    """Return what the receipt of an observed request states; see `to_chio_request`."""
    stated = {"mode": "observe"}
    # State the route's requirement too: the sidecar's own verdict ignores it, because it allows a GET without a token,
    # and checks no operation but `invoke`.
    if wanted.capability:
        stated["requires"] = wanted.title if wanted.server is not None else "any"
        if lacking:
            stated["lacks"] = ",".join(lacking)
    if refused is not None:
        stated["refused"] = refused
    return stated | dict(place or {})


def single_headers(capability: str = CAPABILITY_HEADER, api_key: str = "x-api-key") -> frozenset[str]:
    """Return the headers, in lower case, of which a request may have one line only: two could mean two things.

    Args:
        capability, api_key: the settings `capability_header` and `api_key_header`.
    """
    own = frozenset({capability.lower(), api_key.lower(), APPROVAL_HEADER.lower()})
    return own | {"authorization", "content-length", "content-type", "host"}


class HeaderLines(Mapping[str, str]):
    """A read-only, case-insensitive mapping over header lines.

    `lines["x-a"]` joins repeated lines with a comma and no space, as WSGI servers do before an application sees them;
    `lines.values_of("x-a")` returns them separately.

    Args:
        pairs: names and values in the order in which they were sent.

    Attributes:
        by_name: the lines of each header, by its name in lower case.
        repeated: names, in lower case, that occur in more than one line.
    """

    __slots__ = ("by_name", "repeated")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.by_name: dict[str, list[str]] = {}
        self.repeated: set[str] = set()
        known = self.by_name
        for name, value in pairs:
            lower = name.lower()
            if lower in known:
                known[lower].append(value)
                self.repeated.add(lower)
            else:
                known[lower] = [value]

    def select(self, names: Collection[str]) -> dict[str, Sequence[str]]:
        """Return the lines of those headers in `names` (lower case) that are there."""
        known = self.by_name
        if known.keys().isdisjoint(names):  # as of most requests
            return {}
        return {name: tuple(known[name]) for name in names if name in known}

    def values_of(self, name: str) -> Sequence[str]:
        """Return the lines of the header `name`; empty if it is absent."""
        return self.by_name.get(name.lower(), ())

    def __getitem__(self, name: str) -> str:
        return ",".join(self.by_name[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self.by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)
