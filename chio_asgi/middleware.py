"""ChioASGIMiddleware: every request and websocket handshake is evaluated before the application sees it.

Pure ASGI. With request-only guards, or none, no task is made, and nothing is between the application and the
server but the receipt header. `lifespan` is passed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chio_asgi.body import once
from chio_asgi.config import settings_for
from chio_asgi.decide import ASGIRequest, Decide
from chio_asgi.driver import Application
from chio_asgi.listing import count_governed, mount_templates, observed_routes
from chio_asgi.routing import RouteResolver, own_root_path
from chio_asgi.send import LINGER_SECONDS, HeaderSend, has_own_500, leaves_body, send_answer, send_plain_error
from chio_asgi.types import ASGIApp, Message, Receive, Scope, Send
from chio_asgi.view import ASGIGuardRequest, session_of
from chio_core.client.client import ChioClient
from chio_core.client.in_process import check_files
from chio_core.concurrency.processes import require_asyncio
from chio_core.errors import ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.evaluation.sources import CapabilityFunction
from chio_core.guards.chain import Chain, Guard, around
from chio_core.guards.run import ChainRun, failed
from chio_core.identity import Extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.names import LOGGER
from chio_core.refusals.problems import RefusalPage
from chio_core.refusals.response import AnyResponse, Downstream, misconfigured
from chio_core.request import GuardRequest
from chio_core.settings import ChioSettings
from chio_core.settings_report import report_settings

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
        capability: returns the token of a request that has none in its header, or None; instead of the setting
            `capability_source`, see `chio_core.evaluation.sources`.
        on_decision: called with each `Decision`; sync or async. What it raises is logged and changes nothing.
        on_receipt: the same, called with each verified `HttpReceipt`.
        refusal_page: `def page(request, refusal) -> str` makes the HTML page that a browser gets for a refusal.

    Raises:
        ConfigurationError: the environment, the keywords, or a store, key or document that they name cannot be used,
            or the order of guards cannot work. If the application makes its middleware only while it starts
            (`add_middleware`), the start fails instead.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ChioSettings | None = None,
        *,
        guards: Chain | Sequence[Guard | Chain] = (),
        client: ChioClient | None = None,
        extractor: Extractor | None = None,
        capability: CapabilityFunction | None = None,
        on_decision: Callable[[Decision], Awaitable[None] | None] | None = None,
        on_receipt: Callable[[HttpReceipt], Awaitable[None] | None] | None = None,
        refusal_page: RefusalPage | None = None,
    ) -> None:
        self.app = app
        self._fault: ConfigurationError | None = None
        try:
            self.settings: ChioSettings = settings_for(config, client)
            if client is None:
                check_files(self.settings)  # not every server runs a lifespan, which would open them
            self.client = client if client is not None else ChioClient(self.settings)
            report, warn = self.client.telemetry.refused, self.client.telemetry.warn
            hooks = (extractor, on_decision, on_receipt, refusal_page)
            source: dict[str, Any] = {"capability": capability, "session": session_of}
            pipeline = Pipeline(self.settings, *hooks, report=report, warn=warn, **source)
            self._limits = pipeline.limits
            self._resolver = RouteResolver(app)
            self._decide = Decide(pipeline, self.client, self._resolver)
            self.chain = around(guards, self._decide)
            self._members = self.chain.freeze()
        except ConfigurationError as exc:
            if not _is_starting(app):
                raise
            log.critical("chio: this application cannot start: %s", exc.message)
            self._fault = exc
            return
        self._header = self.settings.receipt_header.lower().encode("ascii")
        self._placed = False
        self._alone = len(self._members) == 1
        self._wrapped = any(member.wraps for member in self._members)
        seen = log.isEnabledFor(logging.INFO)  # counting thousands of routes takes time
        report_settings(self.settings, routes=count_governed(app, self.settings) if seen else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        kind = scope["type"]
        if self._fault is not None:
            await _fail(self._fault, scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            if kind != "lifespan":
                raise ConfigurationError(f"ASGI scope type {kind!r} cannot be governed, so it is not passed on")
            await self._lifespan(scope, receive, send)
            return
        if not self._placed:
            require_asyncio("ChioASGIMiddleware")  # a server without a lifespan
            # Only a request shows where an application is mounted; a mounted one has no lifespan either.
            self._placed, self.client.mounts = True, mount_templates(scope, self.app)
        router = self._resolver.router
        if router is not None and (root := own_root_path(router)):
            scope["root_path"] = root  # the application sets it too; the evaluated path must be the routed one
        if kind == "http":
            # A copy: uvicorn appends the trailer fields of a chunked body to its list, and the application must not
            # read headers that were not evaluated.
            scope["headers"] = list(scope.get("headers", ()))
            view = ASGIGuardRequest(scope, receive, self._limits)
            replay = view.replay
        else:
            opening = await receive()
            if opening["type"] != "websocket.connect":
                return
            view, replay = ASGIGuardRequest(scope, None), lambda: once(opening, receive)
        request = self._decide.begin(scope)
        if not self._alone:
            self._decide.show_route(scope)
        tagged = HeaderSend(send, self._header, scope, request.governed)
        try:
            if self._wrapped:
                await self._run_wrapped(view, request, receive, tagged.send, replay)
            elif (response := await self._run_plain(view, request)) is not None:
                await self._respond(response, view, receive, tagged.send)
            else:
                await self.app(view.scope, replay(), tagged.send)
        except Exception:
            # Starlette answers outside of us, without the receipt header. If it would only say "Internal Server
            # Error", say it here with the header; the exception is raised again to be logged.
            if kind == "http" and not tagged.started and not has_own_500(scope.get("app")):
                await send_plain_error(tagged.send)
            raise
        finally:
            request.scope_id = None  # another scope may get this id
            view.close()
            tagged.finish()

    async def _run_plain(self, view: ASGIGuardRequest, request: ASGIRequest) -> AnyResponse | None:
        """Run a chain in which no guard takes `next`; return the response of a guard or of the decision."""
        evidence = request.governed.evidence
        if not self._alone:
            response = await ChainRun(self._members, None, evidence, self.chain.slow_guard_ms).before(view)
            return response if response is not None else self._decide.check_unchanged(view)
        try:
            return await self._decide.govern(view)
        except Exception:  # noqa: BLE001 - logged there, and the request is refused
            return failed(self._members[0], evidence)

    async def _run_wrapped(
        self, view: ASGIGuardRequest, request: ASGIRequest, receive: Receive, send: Send, replay: Callable[[], Receive]
    ) -> None:
        """Run a chain with `next`-style guards around the application."""
        application = Application(self.app, view.scope, replay, send)

        async def handler(_: GuardRequest) -> AnyResponse:
            return self._decide.check_unchanged(view) or await application(view)

        try:
            evidence = request.governed.evidence
            response = await ChainRun(self._members, handler, evidence, self.chain.slow_guard_ms)(view)
            if isinstance(response, Downstream) and application.started:
                await application.release(response)
                return
        finally:
            # Also if a guard has failed after the head: the application still waits to be released.
            await application.cancel()
        await self._respond(response, view, receive, send, refused=not application.started)

    async def _respond(
        self, response: AnyResponse, view: ASGIGuardRequest, receive: Receive, send: Send, *, refused: bool = True
    ) -> None:
        linger = None
        if refused:
            await self._decide.refuse(view, response)
            linger = min(LINGER_SECONDS, self._limits.timeout or LINGER_SECONDS) if leaves_body(view) else None
        await send_answer(response, view.scope, receive, send, linger)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.client.aclose()
                await self.chain.aclose()
            await send(message)

        try:
            require_asyncio("ChioASGIMiddleware")
            self.client.open()
        except ConfigurationError as exc:
            await _fail(exc, scope, receive, send)
        if observed := sorted(observed_routes(self.app)):
            log.warning(
                "chio: observe mode: what is refused on these routes is recorded and runs: %s", ", ".join(observed)
            )
        await self.app(scope, receive, closing)


def _is_starting(app: ASGIApp) -> bool:
    """Return True if a framework makes its middleware around `app` in a running server.

    An exception would come out of the application's lifespan there. uvicorn takes that for an application without a
    lifespan, starts, and every request fails.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    # Around an application with routes the module is being imported, and an exception ends the server.
    return getattr(app, "routes", None) is None


async def _fail(fault: ConfigurationError, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the start fail, or refuse a request if the server has no lifespan.

    Raises:
        ConfigurationError: after `lifespan.startup.failed`, as Starlette does: its TestClient would take a plain return
            for a start.
    """
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": f"chio: {fault.message}"})
        raise fault
    await send_answer(misconfigured(), scope, receive, send)
