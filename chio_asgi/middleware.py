"""ChioASGIMiddleware: every request and websocket handshake is judged before the application sees it.

Pure ASGI. With request-only guards, or none, no task is made and nothing stands between the application and the
server but the receipt header. `lifespan` is passed on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from chio_asgi.config import settings_for
from chio_asgi.decide import Decide, DecisionHook, ReceiptHook
from chio_asgi.driver import Application
from chio_asgi.listing import count_governed, observed_routes
from chio_asgi.routing import RouteResolver, own_root_path, router_of
from chio_asgi.send import HeaderSend, accept_of, has_own_500, refuse_websocket, send_answer, send_plain_error
from chio_asgi.types import ASGIApp, Message, Receive, Scope, Send
from chio_asgi.view import ASGIGuardRequest
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.hooks import refused_locally
from chio_core.guards.chain import Chain, Guard, around
from chio_core.guards.run import ChainRun, failed
from chio_core.models.caller import CallerIdentity
from chio_core.names import LOGGER, STATE_DECISION
from chio_core.refusals.response import AnyResponse, Downstream
from chio_core.request import GuardRequest, RequestView
from chio_core.settings import ChioSettings, report_settings

log = logging.getLogger(LOGGER)


class ChioASGIMiddleware:
    """Governs an ASGI application.

    Args:
        app: the application inside.
        config: options; from the environment (`CHIO_*`) when left out.
        guards: guards around the decision, or a `Chain` of them; see `chio_core.guards.chain`. Those with an
            `async def aclose()` are closed when the lifespan ends.
        client: a client to share; one is made from `config` otherwise. Its connections are closed when the
            lifespan ends.
        extractor: finds out who is calling; `chio_core.identity.default_extractor` otherwise.
        on_decision: called with each `Decision`; sync or async. What it raises is logged and changes nothing.
        on_receipt: the same, called with each verified `HttpReceipt`.

    Raises:
        ConfigurationError: the environment or the keywords cannot be used, or the order of guards cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ChioSettings | None = None,
        *,
        guards: Chain | Sequence[Guard | Chain] = (),
        client: ChioClient | None = None,
        extractor: Callable[[RequestView], CallerIdentity] | None = None,
        on_decision: DecisionHook | None = None,
        on_receipt: ReceiptHook | None = None,
    ) -> None:
        settings = settings_for(config, client)
        self.app = app
        self.settings: ChioSettings = settings
        self.client = client if client is not None else ChioClient(settings)
        self._decide = Decide(settings, self.client, RouteResolver(app), extractor, on_decision, on_receipt)
        self.chain = around(guards, self._decide)
        self._header = settings.receipt_header.lower().encode("ascii")
        self._members = self.chain.freeze()
        self._alone = len(self._members) == 1
        self._wrapped = any(member.wraps for member in self._members)
        seen = log.isEnabledFor(logging.INFO)  # thousands of routes are not counted for nobody
        report_settings(settings, routes=count_governed(app, settings) if seen else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        router = router_of(self.app)
        if router is not None and (root := own_root_path(router)):
            scope["root_path"] = root  # as the application will do itself; what we judge is what it will match
        if kind == "http":
            # A copy: uvicorn appends the trailer fields of a chunked body to the list that it gave us, and the
            # application must not read headers that were not judged.
            scope["headers"] = list(scope.get("headers", ()))
            view = ASGIGuardRequest(scope, receive)
            replay = view.replay
        elif (opened := await _opened(receive)) is not None:
            view, replay = ASGIGuardRequest(scope, None), opened
        else:
            return
        tagged = HeaderSend(send, self._header, scope)
        try:  # not a coroutine of its own, which would cost every request a tenth of a microsecond
            if self._wrapped:
                await self._run_wrapped(view, tagged.send, replay)
            elif (answer := await self._judged(view)) is not None:
                await self._answer(answer, view, tagged.send)
            else:
                view.check_unmoved()
                await self.app(view.scope, replay(), tagged.send)
        except Exception:
            await _answer_failure(tagged, scope)
            raise
        finally:
            view.close()
            tagged.finish()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise ConfigurationError(f"ASGI scope type {scope['type']!r} cannot be governed, so it is not passed on")
        await self._lifespan(scope, receive, send)

    def _judged(self, view: ASGIGuardRequest) -> Awaitable[AnyResponse | None]:
        if self._alone:
            return self._only_decide(view)
        return ChainRun(self._members, None, view.evidence, self.chain.slow_guard_ms).before(view)

    async def _only_decide(self, view: ASGIGuardRequest) -> AnyResponse | None:
        try:
            return await self._decide(view)
        except Exception:  # noqa: BLE001 - logged there, and the request is refused
            return failed(self._members[0], view.evidence)

    async def _run_wrapped(self, view: ASGIGuardRequest, send: Send, replay: Callable[[], Receive]) -> None:
        application = Application(self.app, view.scope, replay, send)

        async def handler(request: GuardRequest) -> Downstream:
            view.check_unmoved()
            return await application(request)

        try:
            answer = await ChainRun(self._members, handler, view.evidence, self.chain.slow_guard_ms)(view)
            if isinstance(answer, Downstream) and application.started:
                await application.release(answer)
                return
        finally:
            # Also when a guard has failed after the head: the application still waits to be released.
            await application.cancel()
        await self._answer(answer, view, send, refused=not application.started)

    async def _answer(self, answer: AnyResponse, view: ASGIGuardRequest, send: Send, *, refused: bool = True) -> None:
        known = view.scope.get("state", {}).get(STATE_DECISION)
        decision = refused_locally(known, answer, view.evidence) if refused else None
        if decision is not None:
            # Before the sidecar was asked there is no receipt, but there is a trace.
            self.client.telemetry.refused(decision, view.method, view.route_path)
            await self._decide.publish(view, decision)
        if view.scope["type"] == "websocket":
            await refuse_websocket(answer, view.scope, send)
        else:
            await send_answer(answer, send, accept=accept_of(view.scope))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.client.aclose()
                await self.chain.aclose()
            await send(message)

        try:
            self.client.open()
        except ConfigurationError as exc:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"chio: {exc.message}"})
            raise  # as Starlette does: its TestClient would take a plain return for a start, and wait for the end of it
        if observed := sorted(observed_routes(self.app)):
            log.warning(
                "chio: observe mode: what is refused on these routes is recorded and runs: %s", ", ".join(observed)
            )
        await self.app(scope, receive, closing)


async def _answer_failure(tagged: HeaderSend, scope: Scope) -> None:
    # Starlette answers outside of us, without the receipt header. Where it would only say "Internal Server Error", we
    # say it here, header included; the exception goes on to be logged.
    if scope["type"] == "http" and not tagged.started and not has_own_500(scope.get("app")):
        await send_plain_error(tagged.send)


async def _opened(receive: Receive) -> Callable[[], Receive] | None:
    """Take the opening of a websocket; return what gives the `receive` to read it again, None without an opening."""
    opening = await receive()
    return (lambda: _again(opening, receive)) if opening["type"] == "websocket.connect" else None


def _again(opening: Message, receive: Receive) -> Receive:
    pending: Message | None = opening

    async def replayed() -> Message:
        nonlocal pending
        if pending is not None:
            message, pending = pending, None
            return message
        return await receive()

    return replayed
