"""GovernOutbound: the member that has every send evaluated by the sidecar.

Each network send is evaluated, also a redirect hop and a repetition by an outer member. The decision is made by
`chio_core.evaluation.pipeline`, as for incoming requests. It covers one send of exactly that request and is never
reused. The receipt is on the response: `receipt_of(response)`.
"""

from __future__ import annotations

import hashlib
import inspect as inspecting
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.body_limits import UNLIMITED
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import NO_MATCH, GovernedRequest, KnownBody, RouteMatch, run, run_async
from chio_core.evaluation.hooks import Hook
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.guards.chain import DECISION
from chio_core.models.capability import Operation
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import CallerIdentity
from chio_core.names import HTTPX_DECISION, HTTPX_TICKET
from chio_core.outbound.hop import OutboundDenied, copy_of, hop_of, shown
from chio_core.outbound.member import AsyncNext, DecidingMember, SyncNext
from chio_core.outbound.view import (
    OutgoingView,
    TooLarge,
    authority_of,
    read_body,
    read_body_now,
    wire_facts,
    wire_problem,
)
from chio_core.refusals.response import Denial, RequestRefused, bad_request, body_too_large
from chio_core.request import Requirement
from chio_core.settings import ChioSettings

Tool = tuple[str, str]
"""`server_id` and `tool_name` that the capability must grant."""

Tools = Tool | Mapping[str, Tool] | Callable[[Any], Tool | None] | None
"""One tool for every send, one for each host, or a function from the request to it."""

Capability = str | Callable[[Any], Any] | None
"""The token's text, or a function (it may be `async`) from the request to it."""

_FIXED = ("__enabled__", "__methods__", "__priority__", "enabled", "methods", "priority", "provides")


@dataclass(slots=True)
class Ticket:
    """One decision, good for one send.

    Attributes:
        identity: hash of the caller and the capability.
    """

    decision: Decision
    identity: str
    facts: dict[str, Any] = field(repr=False)
    used: bool = False

    def check(self, request: Any) -> None:
        """Check that a request is still the one of the decision.

        Raises:
            ConfigurationError: it would be written otherwise.
        """
        facts = wire_facts(request)
        if facts != self.facts:
            names = [name for name in {**self.facts, **facts} if facts.get(name) != self.facts.get(name)]
            raise ConfigurationError(
                f"a member has changed {', '.join(names)} after the decision; give it a priority below 0"
            )


class _Adapter:
    """A `chio_core.evaluation.governed.RequestAdapter` for one outgoing request whose body has been read."""

    def __init__(self, request: Any, body: bytes, presented: tuple[str, str] | None, client: Any) -> None:
        self.request = request
        self.view = OutgoingView(request, presented)
        self.governed = GovernedRequest()
        self.call: EvaluateCall | None = None
        self._body = body
        self._client = client

    def now(self) -> OutgoingView:
        return self.view

    def keep_body(self) -> None:
        """It is read already."""

    def read_body(self) -> Any:
        limit = self._client.settings.max_body_bytes
        refusal = body_too_large(limit) if len(self._body) > limit else None
        return KnownBody(len(self._body), sha256_hex(self._body) if self._body else None, refusal=refusal)

    def raw_body(self) -> Any:
        return self._body

    def body_hash(self) -> str | None:
        return self.governed.body.hash if self.governed.body is not None else None

    def locate(self) -> RouteMatch:
        return NO_MATCH

    def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        return function()

    def send(self, call: EvaluateCall) -> Any:
        self.call = call
        # To the caller of the library, a decision is a part of waiting for the response.
        return self._client.evaluate(call, timeout=(self.request.extensions.get("timeout") or {}).get("read"))

    def publish(self, decision: Decision) -> None:
        """Note the decision; the response carries it."""

    def call_hook(self, hook: Hook, value: Any) -> Any:
        """Outgoing requests have no hooks."""


class _AsyncAdapter(_Adapter):
    """The same for an event loop: the steps that `Pipeline.evaluate` yields give awaitables."""

    async def read_body(self) -> KnownBody:
        return _Adapter.read_body(self)  # type: ignore[no-any-return]


class GovernOutbound(DecidingMember):
    """Has every send evaluated by the sidecar, at priority 0; cannot be disabled or filtered by method.

    Args:
        client: a `ChioClient`, or a `SyncChioClient` for `SyncChioTransport`; it is not closed here.
        tool: the tool of a send, as `(server, tool)`; or a mapping from hosts (`api.example.com`, with a port that is
            not the default) to such pairs, and other hosts are refused without the sidecar; or a function from the
            request to a pair or None. A named tool requires a capability that grants it.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: function from the request to the JSON that the grant's constraints are checked with;
            by default `{"method": …, "url": …}`, so a `domain_exact` constraint binds the grant to a host.
        capability: the token to present, or a function from the request to it (or None). By default the token in
            the request's header is presented.
        forward_to: hosts that receive the token too, in the capability header; none by default.
        caller: the caller; read from the outgoing request by default.

    Raises:
        ConfigurationError: `tool` holds no pair, `forward_to` is one string, or `client` is no client.
    """

    __priority__ = 0
    provides = frozenset({DECISION})

    def __init__(
        self,
        client: ChioClient | SyncChioClient,
        *,
        tool: Tools = None,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Callable[[Any], Any] | None = None,
        capability: Capability = None,
        forward_to: Collection[str] = (),
        caller: CallerIdentity | None = None,
    ) -> None:
        settings = getattr(client, "settings", None)
        if not isinstance(settings, ChioSettings):
            kind = type(client).__name__
            raise ConfigurationError(f"GovernOutbound takes a ChioClient or a SyncChioClient first, not {kind}")
        self._client = client
        self._settings = settings
        self._tool = _tool_function(tool)
        self._operations = tuple(operations)
        self._arguments = arguments or (lambda request: {"method": request.method, "url": shown(request.url)})
        self._capability = capability
        if isinstance(forward_to, str):
            raise ConfigurationError("GovernOutbound(forward_to=…) takes a collection of hosts; write [host]")
        self._forward_to = frozenset(host.lower() for host in forward_to)
        extractor = None if caller is None else lambda view: caller
        self._pipeline = Pipeline(settings, extractor, report=client.telemetry.refused, incoming=False)

    @property
    def secret_headers(self) -> frozenset[str]:
        """Headers, in lower case, that never follow a redirect to another origin."""
        settings = self._settings
        named = (settings.capability_header, settings.api_key_header, *settings.credential_headers)
        return frozenset(name.lower() for name in named)

    def check_client(self, *, sync: bool) -> None:
        """Check that the client fits the transport.

        Raises:
            ConfigurationError: it is of the other kind.
        """
        wanted = SyncChioClient if sync else ChioClient
        if not isinstance(self._client, wanted):
            raise ConfigurationError(f"GovernOutbound needs a {wanted.__name__} in this transport")

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Evaluate a request, send it if it was allowed, and put the decision on the response.

        Raises:
            OutboundDenied: the send was refused, or the evaluation failed.
        """
        request, limit = copy_of(request), self._settings.max_body_bytes
        try:
            body = await read_body(request, UNLIMITED if self._settings.observe else limit)
        except TooLarge:
            raise self._refused(request, body_too_large(limit)) from None
        token = self._capability(request) if callable(self._capability) else self._capability
        token = await token if inspecting.isawaitable(token) else token
        adapter = _AsyncAdapter(request, body, self._presented(token), self._client)
        decision = await run_async(self._pipeline.evaluate(adapter, self._requirement(request, body)))
        return _marked(await following(self._allowed(adapter, decision, token)), decision)

    def sync(self, request: Any, following: SyncNext) -> Any:
        """Do the same in a thread."""
        request, limit = copy_of(request), self._settings.max_body_bytes
        try:
            body = read_body_now(request, UNLIMITED if self._settings.observe else limit)
        except TooLarge:
            raise self._refused(request, body_too_large(limit)) from None
        token = self._capability(request) if callable(self._capability) else self._capability
        adapter = _Adapter(request, body, self._presented(token), self._client)
        decision = run(self._pipeline.evaluate(adapter, self._requirement(request, body)))
        return _marked(following(self._allowed(adapter, decision, token)), decision)

    def _presented(self, token: Any) -> tuple[str, str] | None:
        if token is None:
            return None
        if not isinstance(token, str):
            raise ConfigurationError("GovernOutbound(capability=…) must give the token's text or None")
        return (self._settings.capability_header, token)

    def _requirement(self, request: Any, body: bytes) -> Requirement | None:
        """Return the requirement of a send.

        Raises:
            OutboundDenied: the request would be written otherwise than it is evaluated, or no tool is named for
                this host.
        """
        problem = wire_problem(request, body)
        if problem is not None:
            raise self._refused(request, bad_request(problem))
        try:
            pair = self._tool(request)
        except RequestRefused as exc:
            raise self._refused(request, exc.denial) from None
        if pair is None:
            return None
        return Requirement(pair[0], pair[1], self._operations, self._arguments(request))

    def _refused(self, request: Any, denial: Denial) -> OutboundDenied:
        """Record a refusal without an evaluation, and return it as an exception."""
        decision = Decision(verdict="refused", denial=denial)
        self._client.telemetry.refused(decision, request.method, OutgoingView(request).route_path)
        return _denied(request, decision, denial)

    def _allowed(self, adapter: _Adapter, decision: Decision, token: str | None) -> Any:
        """Return the request with the ticket for one send."""
        request, evaluated = adapter.request, adapter.governed.evaluated
        if not decision.allowed or evaluated is None or (adapter.call is None and not decision.observed):
            raise _denied(request, decision, decision.denial or Denial(message="there is no decision"))
        if token and authority_of(request.url).lower() in self._forward_to:  # removed again after a redirect
            request.headers[self._settings.capability_header] = token
        call = adapter.call
        caller = call.request.caller.identity_hash() if call is not None else ""
        presented = (call.presented.token if call is not None else token) or ""
        identity = hashlib.sha256(f"{caller}\n{presented}".encode()).hexdigest()
        request.extensions[HTTPX_TICKET] = Ticket(decision, identity, wire_facts(request))
        hop = hop_of(request)
        if hop is not None:
            hop.opened = True
        return request

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            raise ConfigurationError("GovernOutbound cannot be disabled, filtered or moved; remove the member instead")
        super().__setattr__(name, value)


def use_ticket(request: Any) -> None:
    """Use the decision for one send; the transport calls this right before the network.

    Raises:
        ConfigurationError: there is no decision for this request as it is now, or it was sent already.
    """
    ticket = request.extensions.get(HTTPX_TICKET)
    if not isinstance(ticket, Ticket):
        raise ConfigurationError("there is no decision for this request; send the one that GovernOutbound gave")
    ticket.check(request)
    if ticket.used:
        raise ConfigurationError(
            "a member has sent a request twice under one decision; give it a priority below 0, "
            "where each repetition is evaluated"
        )
    ticket.used = True


def decision_of(response: Any) -> Decision | None:
    """Return the decision under which a response was fetched; None for an ungoverned one."""
    found = response.extensions.get(HTTPX_DECISION)
    return found if isinstance(found, Decision) else None


def receipt_of(response: Any) -> HttpReceipt | None:
    """Return the verified receipt of a response's send; each redirect hop in `history` has another.

    Returns:
        None for an ungoverned response, and for a send that was only observed.
    """
    decision = decision_of(response)
    return decision.handler_receipt if decision is not None else None


def _marked(response: Any, decision: Decision) -> Any:
    response.extensions = {**response.extensions, HTTPX_DECISION: decision}
    return response


def _denied(request: Any, decision: Decision, denial: Denial) -> OutboundDenied:
    hop = hop_of(request)
    return OutboundDenied(
        decision, denial, method=request.method, target=shown(request.url), hop=hop.number if hop else 1
    )


def _tool_function(tool: Tools) -> Callable[[Any], Tool | None]:
    if tool is None:
        return lambda request: None
    if isinstance(tool, Mapping):
        pairs = {host.lower(): _pair(pair) for host, pair in tool.items()}

        def of_host(request: Any) -> Tool:
            pair = pairs.get(authority_of(request.url).lower())
            if pair is None:
                message = f"no tool is named for {authority_of(request.url)}; add it to GovernOutbound(tool=…)"
                raise RequestRefused(Denial(message=message, guard="local/GovernOutbound"))
            return pair

        return of_host
    if callable(tool):
        return lambda request: None if (pair := tool(request)) is None else _pair(pair)
    fixed = _pair(tool)
    return lambda request: fixed


def _pair(tool: Any) -> Tool:
    if not isinstance(tool, tuple) or len(tool) != 2 or not all(isinstance(part, str) and part for part in tool):
        raise ConfigurationError("GovernOutbound(tool=…) takes a pair (server, tool) of texts that are not empty")
    return tool
