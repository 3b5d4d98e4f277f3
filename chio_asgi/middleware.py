"""ChioASGIMiddleware: every request and websocket handshake is judged before the application sees it.

Pure ASGI: no response is buffered, no task is made, `lifespan` is passed on. The order of steps is the policy:

1. exclusions; 2. what could mean two things is refused (400, 405); 3. the route that will run, and what it asks
for; 4. the body, counted and hashed (413); 5. who is calling; 6. the sidecar's decision, verified; 7. the
outcome on the request's state; 8. the application, body replayed, or the refusal. The header with the receipt
id is on both.
"""

from __future__ import annotations

import inspect as inspecting
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from chio_asgi.body import BodyTooLarge, ClientDisconnected
from chio_asgi.config import ChioASGIConfig
from chio_asgi.routing import RouteResolver
from chio_asgi.send import HeaderSend, header_value, refuse_http, refuse_websocket, send_plain_error
from chio_asgi.types import ASGIApp, Message, Receive, Scope, Send
from chio_asgi.view import ASGIGuardRequest, route_path
from chio_core.client import ChioClient
from chio_core.decide import inspect, prepare, singleton_headers
from chio_core.decision import Decision, body_too_large
from chio_core.errors import ConfigurationError
from chio_core.exclusions import is_excluded
from chio_core.identity import default_extractor
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.names import LOGGER, STATE_CLIENT, STATE_DECISION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.request import RequestView
from chio_core.settings import ChioSettings, report_settings

log = logging.getLogger(LOGGER)

Hook = Callable[[Any], Awaitable[None] | None]


class ChioASGIMiddleware:
    """Governs an ASGI application.

    Args:
        app: the application inside.
        config: options; from the environment (`CHIO_*`) when left out.
        client: a client to share; one is made from `config` otherwise. Its connections are closed when the
            lifespan ends.
        extractor: finds out who is calling; `chio_core.identity.default_extractor` otherwise.
        on_decision: called with each `Decision`; sync or async. What it raises is logged and changes nothing.
        on_receipt: the same, called with each verified `HttpReceipt`.

    Raises:
        ConfigurationError: the environment or the keywords cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ChioSettings | None = None,
        *,
        client: ChioClient | None = None,
        extractor: Callable[[RequestView], CallerIdentity] | None = None,
        on_decision: Callable[[Decision], Awaitable[None] | None] | None = None,
        on_receipt: Callable[[HttpReceipt], Awaitable[None] | None] | None = None,
    ) -> None:
        settings = config if config is not None else client.settings if client is not None else ChioASGIConfig()
        self.app = app
        self.settings: ChioSettings = settings
        self.client = client if client is not None else ChioClient(settings)
        self._extract = extractor or default_extractor(settings.api_key_header, settings.session_cookie)
        self._on_decision = on_decision
        self._on_receipt = on_receipt
        self._resolve = RouteResolver(app)
        self._singletons = singleton_headers(settings)
        self._header = settings.receipt_header.lower().encode("ascii")
        report_settings(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            raise ConfigurationError(f"ASGI scope type {kind!r} cannot be governed, so it is not passed on")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_excluded(self.settings, scope["method"], route_path(scope)):
            await self.app(scope, receive, HeaderSend(send, self._header, None))
            return
        view = ASGIGuardRequest(scope, receive)
        try:
            decision = await self._judge(view)
            await self._publish(scope, decision)
            tagged = HeaderSend(send, self._header, header_value(decision.receipt.id if decision.receipt else None))
            if decision.denial is not None:
                await refuse_http(decision.denial, tagged)
            else:
                await self._run(scope, (await self._read(view)).replay(receive), tagged)
        except ClientDisconnected:
            return  # nobody is left to answer
        finally:
            view.close()

    async def _run(self, scope: Scope, receive: Receive, send: HeaderSend) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            # Starlette answers outside of us, without the receipt header. Where it would only say "Internal
            # Server Error", we say it here, header included; the exception goes on to be logged.
            if not send.started and not _has_own_500(scope.get("app")):
                await send_plain_error(send)
            raise

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_excluded(self.settings, "GET", route_path(scope)):
            await self.app(scope, receive, HeaderSend(send, self._header, None))
            return
        opening = await receive()
        if opening["type"] != "websocket.connect":
            return
        decision = await self._judge(ASGIGuardRequest(scope, None))
        await self._publish(scope, decision)
        tagged = HeaderSend(send, self._header, header_value(decision.receipt.id if decision.receipt else None))
        if decision.denial is not None:
            await refuse_websocket(decision.denial, scope, tagged)
        else:
            await self.app(scope, _again(opening, receive), tagged)

    async def _judge(self, view: ASGIGuardRequest) -> Decision:
        denial = inspect(view, self.settings, self._singletons)
        if denial is not None:
            return Decision(verdict="refused", denial=denial)
        try:
            body = await self._read(view) if view.has_body else None
        except BodyTooLarge:
            return Decision(verdict="refused", denial=body_too_large(self.settings.max_body_bytes))
        route = self._resolve(view.scope)
        question = prepare(
            view,
            self.settings,
            request_id=str(uuid.uuid4()),
            now=time.time(),
            caller=self._extract(view),
            template=route.template,
            body_hash=body.hash if body else None,
            body_length=body.length if body else 0,
            requirement=route.requirement() if route.sources else None,
        )
        return await self.client.decide(question)

    def _read(self, view: ASGIGuardRequest) -> Any:
        return view.read_body(self.settings.max_body_bytes, self.settings.spool_bytes)

    async def _publish(self, scope: Scope, decision: Decision) -> None:
        state = scope.setdefault("state", {})
        state[STATE_CLIENT] = self.client
        state[STATE_DECISION] = decision
        state[STATE_RECEIPT] = decision.receipt
        state[STATE_PASSTHROUGH] = decision.passthrough
        if self._on_decision is not None:
            await _call(self._on_decision, decision)
        if self._on_receipt is not None and decision.receipt is not None:
            await _call(self._on_receipt, decision.receipt)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.client.aclose()
            await send(message)

        await self.app(scope, receive, closing)


async def _call(hook: Hook, value: Any) -> None:
    try:
        result = hook(value)
        if inspecting.isawaitable(result):
            await result
    except Exception:
        log.exception("chio: hook %r failed; the request goes on", getattr(hook, "__qualname__", hook))


def _again(opening: Message, receive: Receive) -> Receive:
    pending: Message | None = opening

    async def replayed() -> Message:
        nonlocal pending
        if pending is not None:
            message, pending = pending, None
            return message
        return await receive()

    return replayed


def _has_own_500(app: Any) -> bool:
    handlers = getattr(app, "exception_handlers", None) or {}
    return bool(getattr(app, "debug", False)) or 500 in handlers or Exception in handlers
