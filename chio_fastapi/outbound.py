"""OutboundClient: a dependency that provides an httpx client whose every send is governed.

    payments = OutboundClient("payments", "charge")

    @app.post("/pay")
    async def pay(client: Annotated[httpx.AsyncClient, Depends(payments)]) -> dict:
        return (await client.post("https://pay.example.com/v1/charges", json={"amount": 5})).json()

Outgoing calls have the caller, the capability and the trace of the incoming request. All requests of an event loop
share connections; the application's lifespan closes them (`async with payments: yield`), or else the end of the loop.
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from chio_asgi.view import ASGIGuardRequest
from chio_core.concurrency.loop_thread import at_loop_end
from chio_core.errors import ConfigurationError
from chio_core.evaluation.precheck import presented_token
from chio_core.names import TRACEPARENT
from chio_core.outbound.extras.cookies import no_cookies
from chio_core.outbound.govern import GovernOutbound, Tools
from chio_core.outbound.hop import OutboundDenied
from chio_core.outbound.member import MiddlewareChain
from chio_core.outbound.transport import OF_THE_TRANSPORT, PASSES_BY, Borrowed, ChioTransport
from chio_fastapi.shared import ChioDenied, caller_of, client_of, request_of

Narrow = Callable[[str, Any], Any]
"""Takes the token of the incoming request and the outgoing request; returns the token to present, or awaits it."""


class OutboundClient:
    """Provides an `httpx.AsyncClient` to a route: `Depends(OutboundClient("payments", "charge"))`.

    Args:
        server, tool: the tool of every send; see `chio_core.outbound.GovernOutbound`.
        tools: instead of these, a mapping from hosts to pairs, or a function.
        members: further members: one, a chain, or a list. All requests share them, including a `Cache`.
        narrow: derives the token to present from the incoming one, for example with `chio_core.outbound.attenuate`;
            the incoming token is presented by default.
        arguments, forward_to: see `GovernOutbound`.
        transport: makes the sending transport, once for each event loop.
        client_options: further options of `httpx.AsyncClient`.

    Raises:
        ConfigurationError: only one of server and tool is given, or both they and tools, or the members' order cannot
            work.
    """

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        tools: Tools = None,
        members: Any = None,
        narrow: Narrow | None = None,
        arguments: Callable[[Any], Any] | None = None,
        forward_to: Collection[str] = (),
        transport: Callable[[], httpx.AsyncBaseTransport] = httpx.AsyncHTTPTransport,
        **client_options: Any,
    ) -> None:
        if (server is None) != (tool is None) or (server is not None and tools is not None):
            raise ConfigurationError("OutboundClient needs server and tool, or tools, or none of them")
        if taken := sorted(client_options.keys() & PASSES_BY):
            raise ConfigurationError(f"OutboundClient cannot take {taken[0]}: it would pass the decision by")
        if taken := sorted(client_options.keys() & OF_THE_TRANSPORT):
            raise ConfigurationError(f"write OutboundClient(transport=lambda: httpx.AsyncHTTPTransport({taken[0]}=…))")
        self._tools: Tools = (server, tool) if server is not None and tool is not None else tools
        self._members = MiddlewareChain(members)
        self._members.freeze()
        self._narrow = narrow
        self._arguments = arguments
        self._forward_to = forward_to
        self._make = transport
        self._options = client_options
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncBaseTransport] = (
            weakref.WeakKeyDictionary()
        )
        self._endings: weakref.WeakKeyDictionary[Any, AsyncGenerator[None]] = weakref.WeakKeyDictionary()

    async def __call__(self, connection: HTTPConnection) -> AsyncIterator[httpx.AsyncClient]:
        """Yield the client for one request.

        Raises:
            ChioDenied: a send was refused and the route did not catch it: the refusal is the route's response.
        """
        view = ASGIGuardRequest(connection.scope)
        chio = client_of(connection)
        token, narrow = presented_token(view, chio.settings), self._narrow
        carried = request_of(connection).governed.carried
        if token is None and carried is not None:
            token = carried.token
        govern = GovernOutbound(
            chio,
            tool=self._tools,
            arguments=self._arguments,
            capability=token if narrow is None or token is None else lambda request: narrow(token, request),
            forward_to=self._forward_to,
            caller=caller_of(connection),
        )
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            self._open[loop] = self._make()
            self._endings[loop] = await at_loop_end(self._close)  # for applications without a lifespan
        trace = view.header_values(TRACEPARENT)
        headers = {TRACEPARENT: trace[0]} if len(trace) == 1 else {}
        options: Mapping[str, Any] = {**self._options, "headers": {**headers, **self._options.get("headers", {})}}
        transport = ChioTransport(Borrowed(self._open[loop]), govern, self._members)
        async with httpx.AsyncClient(transport=transport, cookies=no_cookies(), **options) as client:
            try:
                yield client
            except OutboundDenied as error:
                raise ChioDenied(error.denial) from error

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        ending = self._endings.pop(asyncio.get_running_loop(), None)
        if ending is not None:
            await ending.aclose()

    async def _close(self) -> None:
        transport = self._open.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.aclose()

    async def __aenter__(self) -> "OutboundClient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
