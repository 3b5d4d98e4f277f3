"""Who may use the control plane, and how its endpoints read and refuse (wire protocol, section 7.2).

With a control token every caller needs it, also on this machine. Without one only a loopback peer may call: the address
of the connection itself counts, 127.0.0.0/8 and ::1, also written as an IPv4-mapped IPv6 address.

A caller without an address is not a loopback caller: on a Unix socket the other end may be any container that sees the
file, and an application that embeds the sidecar passes its own visitors' requests on. A request that says that it was
forwarded, or that a web page made (it has an `Origin`), has its true source elsewhere. All of these need a token.

A browser on this machine is a loopback peer for whatever page it shows, so the peer's address proves little:

* another site's page may send a request, though it could not read the response: `Sec-Fetch-Site` refuses it before
  anything is read;
* another site may let its own name point to this machine (DNS rebinding), and its page is then of the same site.
  Without a token the Host header must therefore name this machine. With a token it need not: no such page has it.

One function checks all of this, for the control plane and for the viewer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chio_core.endpoint import is_this_machine
from chio_core.errors import ChioError, InvalidDocument
from chio_core.models.receipt import explain
from chio_sidecar.http import BodyError, parse_object, presents_bearer, read_body
from chio_sidecar.service.state import SidecarState

FORBIDDEN_WITH_TOKEN = "sidecar control endpoints require a loopback caller or valid bearer token"  # noqa: S105
FORBIDDEN = "sidecar control endpoints require a loopback caller"

MAX_BODY = 1024 * 1024
"""Largest body of `/v1/*`, in bytes."""

Audience = Literal["control", "data", "page"]
"""`control`: the control plane; `data`: receipts for the viewer's page; `page`: that page and its files."""

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

M = TypeVar("M", bound=BaseModel)

Handler = Callable[[dict[str, Any], bytes], Awaitable[Response]]
"""Responds to a request; takes the parsed JSON object and the body's bytes."""


class ControlError(Exception):
    """A refusal: HTTP status, error code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> Response:
        """Return the protocol's error document."""
        return JSONResponse({"error": self.code, "message": self.message}, self.status)


def bad_request(message: str) -> ControlError:
    """Return the refusal of a body that cannot be used."""
    return ControlError(400, "chio_bad_request", message)


def check_access(request: Request, token: SecretStr | None, *, audience: Audience = "control") -> None:
    """Return if this caller may use an endpoint.

    The viewer's page may state its own origin, which a page of the control plane does not have. With a token every
    caller gets the page, which holds no receipts: it is where the token is typed in. A link on another site may lead to
    it.

    Args:
        request: the request.
        token: the bearer token that callers need; None: loopback callers only.
        audience: what the endpoint is for.

    Raises:
        ControlError: 403, in the protocol's words.
    """

    def refused(message: str) -> ControlError:
        return ControlError(
            403, "chio_control_forbidden" if audience == "control" else "chio_viewer_forbidden", message
        )

    if token is not None:
        if audience == "page":
            return
        if not presents_bearer(request.scope["headers"], token):
            raise ControlError(403, "chio_control_forbidden", FORBIDDEN_WITH_TOKEN)
    # `none`: the user typed the address or opened a bookmark, or the caller is no browser.
    if audience != "page" and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise refused("this endpoint answers programs and its own page only, and another site has sent this request")
    if token is not None:
        return

    forbidden = ControlError(403, "chio_control_forbidden", FORBIDDEN)
    # The request may come from elsewhere through a peer on this machine: a proxy, or a browser.
    if any(name in request.headers for name in _FORWARDED):
        raise forbidden
    hosts = request.headers.getlist("host")
    if "origin" in request.headers:
        origins = request.headers.getlist("origin")
        own = len(origins) == len(hosts) == 1 and origins[0] in (f"http://{hosts[0]}", f"https://{hosts[0]}")
        if audience == "control" or not own:
            raise forbidden
    try:
        address = ipaddress.ip_address(request.client.host if request.client is not None else "")
    except ValueError:
        raise forbidden from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not (mapped or address).is_loopback:
        raise forbidden
    if len(hosts) != 1 or not names_this_machine(hosts[0]):
        raise refused(
            "without a control token this endpoint answers to the host names localhost, 127.0.0.1 and [::1] only;"
            " use one of them, or set CHIO_SIDECAR_CONTROL_TOKEN"
        )


def names_this_machine(host: str) -> bool:
    """Return True if a Host header names the loopback interface: by address, or as `localhost`."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
    else:
        name = host.partition(":")[0]
    return is_this_machine(name.lower())


def guarded_route(
    state: SidecarState,
    path: str,
    handler: Callable[[Request], Awaitable[Response]],
    *,
    failure: str,
    methods: tuple[str, ...] = ("GET",),
) -> Route:
    """Return a route that callers of the control plane may use.

    Args:
        state: the sidecar.
        path: path template.
        handler: called after access was checked; may raise `ControlError` and `ChioError`.
        failure: error code if the store fails, or the sidecar cannot be opened.
        methods: the methods.
    """

    async def respond(request: Request) -> Response:
        try:
            check_access(request, state.config.control_token)
            return await handler(request)
        except ControlError as exc:
            return exc.response()
        except ChioError as exc:
            return ControlError(500, failure, exc.message).response()

    return Route(path, respond, methods=list(methods))


def control_endpoint(state: SidecarState, path: str, handler: Handler, *, what: str, failure: str) -> Route:
    """Return the route of a POST endpoint that takes a JSON object.

    Args:
        state: the sidecar.
        path: path template.
        handler: called after access and body were checked; may raise `ControlError` and `ChioError`.
        what: name of the body in messages, for example `capability mint`.
        failure: error code if the store fails, or the sidecar cannot be opened.
    """

    async def read(request: Request) -> Response:
        try:
            body = await read_body(request, MAX_BODY)
            document = parse_object(body)
        except BodyError:
            raise bad_request(f"failed to read {what} body") from None
        except InvalidDocument as exc:
            raise bad_request(f"invalid {what} payload: {exc.message}") from None
        return await handler(document, body)

    return guarded_route(state, path, read, failure=failure, methods=("POST",))


def read_model(model: type[M], document: dict[str, Any], *, what: str) -> M:
    """Return the body as a model.

    Args:
        model: the expected shape.
        document: the parsed body.
        what: name of the body in the message, for example `capability mint`.

    Raises:
        ControlError: 400, naming the member that does not fit.
    """
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise bad_request(f"invalid {what} payload: {explain(exc)}") from None
