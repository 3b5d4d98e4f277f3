"""Sender: makes one declared call of `FastHTTP`, from its hooks to its handler."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import json
import secrets
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import ValidationError

from chio_core.errors import ConfigurationError
from chio_core.names import HTTPX_CALL
from chio_core.outbound.extras.calls import Outcome
from chio_core.outbound.extras.cookies import has_no_domain
from chio_core.outbound.extras.middleware import UNCHANGEABLE
from chio_core.outbound.extras.response import HeaderDict, Response
from chio_core.outbound.fasthttp.auth import native_auth
from chio_core.outbound.fasthttp.exceptions import FastHTTPBadStatusError
from chio_core.outbound.fasthttp.middleware import RetryMiddleware
from chio_core.outbound.fasthttp.routing import Route

if TYPE_CHECKING:
    from chio_core.outbound.fasthttp.app import FastHTTP

_LOCAL = (".localhost", ".local", ".internal", ".intranet", ".private")
_BODY = ("content", "data", "files", "json")


class Sender:
    """Makes the calls of one run.

    Args:
        app: has the hooks and the options.
        client: sends.

    Attributes:
        raised: errors that `run` raises once all calls have ended.
    """

    def __init__(self, app: FastHTTP, client: httpx.AsyncClient) -> None:
        self._app = app
        self._manager = app.middleware_manager
        self._client = client
        self.raised: list[Exception] = []

    async def outcome(self, route: Route) -> Outcome:
        """Make one call. An error is kept in the outcome, also that of a hook or the handler."""
        body = route.json if route.json is not None else route.data
        if route.request_model is not None and body is not None:
            try:
                route.request_model.model_validate(body)
            except ValidationError as error:
                return Outcome(route, error=error)
        try:
            config = await self._prepared(route)
        except Exception as error:  # noqa: BLE001 - the other calls go on
            self.raised.append(error)
            return Outcome(route, error=error)

        response = None
        try:
            if self._app.security_enabled:
                await _check_address(httpx.URL(route.url).host, resolve=self._app.resolves)
            response = await self._sent(route, config)
            received = await self._manager.process_after_response(response, route, config)
            if response.status < 400:
                response = received
                for event in self._app.event_hooks.responses:
                    await event(response)
            elif not self._has_model(route, response):
                status = FastHTTPBadStatusError(
                    url=route.url, method=route.method, status_code=response.status, response_body=response.text
                )
                if self._app.raise_for_status or route.raise_for_status:
                    self.raised.append(status)
                raise status
            value = route.handler(response)
            value = await value if inspect.isawaitable(value) else value
        except Exception as error:  # noqa: BLE001 - the other calls go on
            await self._report(error, route, config)
            return Outcome(route, response=response, error=error)
        if isinstance(value, str):
            response.text = value
        return Outcome(route, value, value if isinstance(value, Response) else response)

    async def _prepared(self, route: Route) -> dict[str, Any]:
        """Return the arguments of a send: its configuration, after hooks, dependencies and events."""
        app, options = self._app, route.options
        config = {**app.request_configs.get(route.method, {}), **_chosen(options, "timeout")}
        headers = HeaderDict(config.get("headers") or {}) | (options.get("headers") or {})
        headers.setdefault("User-Agent", f"chio-frameworks/{_version()}")
        if app.startup_uuid:
            headers.setdefault("X-Request-ID", app.startup_uuid)
        config = await self._manager.process_before_request(route, {**config, "headers": headers})

        done: set[int] = set()
        for dependency in route.dependencies:
            if id(dependency.func) not in done:
                config = await dependency(route, config)
            if dependency.use_cache:
                done.add(id(dependency.func))
        if app.secret_key is not None:
            signed = _signature(app.secret_key, route)
            config["headers"] = HeaderDict(config.get("headers") or {}) | signed
        for event in app.event_hooks.requests:
            await event(route, config)
        if ignored := [name for name in UNCHANGEABLE if name in config]:
            app.logger.warning("%s %s: a hook has set %s, without an effect", route.method, route.url, ignored[0])
        return config

    async def _sent(self, route: Route, config: Mapping[str, Any]) -> Response:
        """Send, and repeat as a `RetryMiddleware` says; each send is evaluated."""
        retry = next((one for one in self._manager.active(route.method) if isinstance(one, RetryMiddleware)), None)
        attempt, result = 0, await self._attempt(route, config)
        while retry is not None and (pause := retry.pause(route.method, attempt, result)) is not None:
            await asyncio.sleep(pause)
            attempt, result = attempt + 1, await self._attempt(route, config)
        if isinstance(result, Exception):
            raise result

        made = Response.of(
            result, method=route.method, req_headers=config.get("headers"), query=route.params, req_json=route.json,
            req_data=route.data,
        )  # fmt: skip
        made.headers = HeaderDict(result.headers)
        made.declare(route.url, route.response_model)
        return made

    async def _attempt(self, route: Route, config: Mapping[str, Any]) -> httpx.Response | Exception:
        options = {name: value for name, value in route.options.items() if name not in ("headers", "timeout")}
        options |= _chosen(config, *_BODY)
        if options.keys().isdisjoint(_BODY) and route.json is not None:
            options["json"] = route.json
        elif options.keys().isdisjoint(_BODY) and route.data is not None:
            options["data" if isinstance(route.data, Mapping) else "content"] = route.data
        if route.auth is not None:
            options["auth"] = native_auth(route.auth)
        options["extensions"] = {**(options.get("extensions") or {}), HTTPX_CALL: route}
        headers, params = config.get("headers"), config.get("params", route.params)
        options |= _chosen(config, "timeout")
        try:
            return await self._client.request(route.method, route.url, headers=headers, params=params, **options)
        except Exception as error:  # noqa: BLE001 - it is raised again, or repeated
            return error

    def _has_model(self, route: Route, response: Response) -> bool:
        model = route.responses.get(response.status)
        model = model.get("model") if isinstance(model, Mapping) else model
        try:
            return model is not None and model.model_validate(response.json()) is not None
        except ValueError:
            return False

    async def _report(self, error: Exception, route: Route, config: Mapping[str, Any]) -> None:
        hooks = [] if isinstance(error, FastHTTPBadStatusError) else self._app.event_hooks.errors
        calls: list[tuple[Any, tuple[Any, ...]]] = [(hook, (error, route)) for hook in hooks]
        calls += [(one.on_error, (error, route, config)) for one in self._manager.active(route.method)]
        for hook, arguments in calls:
            try:
                await hook(*arguments)
            except Exception:
                self._app.logger.exception("a hook for errors failed; the others run, and the first error counts")


def _chosen(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if mapping.get(name) is not None}


def _version() -> str:
    try:
        return version("chio-frameworks")
    except PackageNotFoundError:
        return "0"


def _signature(key: bytes, route: Route) -> dict[str, str]:
    body = route.json if route.json is not None else route.data
    if isinstance(body, (dict, list)):
        body = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    text = body.decode() if isinstance(body, bytes) else body if isinstance(body, str) else ""
    now = str(int(time.time()))
    signature = hmac.new(key, f"{route.method}\n{route.url}\n{now}\n{text}".encode(), hashlib.sha256)
    return {"X-Signature": signature.hexdigest(), "X-Timestamp": now, "X-Nonce": secrets.token_hex(16)}


async def _check_address(host: str, *, resolve: bool) -> None:
    """Check that a host is not of this machine or a private network.

    Args:
        resolve: look its addresses up; not if the name is resolved elsewhere.

    Raises:
        ConfigurationError: it is.
    """
    found = [host.strip("[]")]
    if not has_no_domain(host) and resolve and not host.endswith(_LOCAL):
        try:
            looked_up = await asyncio.get_running_loop().getaddrinfo(host, None)
        except OSError:
            return  # there is nothing to connect to
        found = [str(info[4][0]) for info in looked_up]
    for address in found:
        try:
            refused = not ip_address(address.partition("%")[0]).is_global
        except ValueError:
            refused = has_no_domain(host) or host.endswith(_LOCAL)
        if refused:
            raise ConfigurationError(f"{host} is an address of this machine or of a private network (security=True)")
