"""Who may use the control plane, and how its endpoints read and refuse (wire protocol, section 7.2).

With a control token every caller needs it, also one on this machine. Without one only a loopback peer may call:
the address of the connection itself counts, 127.0.0.0/8 and ::1, also written as an IPv4-mapped IPv6 address.

A caller without an address is not a loopback caller. That is the case on a Unix socket, whose other end may be
any container that sees the file, and for an application that embeds the sidecar and hands its own visitors'
requests on. Nor is a request that says that it was forwarded, or that a web page made (it has an `Origin`):
such a request has its true source elsewhere. All of them need a token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chio_core.errors import ChioError, InvalidDocument
from chio_core.models.receipt import explain
from chio_sidecar.bodies import BodyError, parse_object, read_body
from chio_sidecar.service.state import SidecarState

FORBIDDEN_WITH_TOKEN = "sidecar control endpoints require a loopback caller or valid bearer token"  # noqa: S105
FORBIDDEN = "sidecar control endpoints require a loopback caller"

MAX_BODY = 1024 * 1024
"""Largest body of `/v1/*`, in bytes."""

_SOURCE_ELSEWHERE = ("forwarded", "x-forwarded-for", "x-real-ip", "origin")

M = TypeVar("M", bound=BaseModel)

Handler = Callable[[dict[str, Any], bytes], Awaitable[Response]]
"""Answers a request; takes the parsed JSON object and the body's bytes."""


class ControlError(Exception):
    """An answer instead of the one that was asked for: status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def bad_request(message: str) -> ControlError:
    """Make the answer to a body that cannot be used."""
    return ControlError(400, "chio_bad_request", message)


def refusal(exc: ControlError) -> Response:
    """Render an error."""
    return JSONResponse({"error": exc.code, "message": exc.message}, exc.status)


def check_access(request: Request, token: SecretStr | None, *, own_page: bool = False) -> None:
    """Return if this caller may use the control plane.

    Args:
        request: the request.
        token: the bearer that callers need; None: loopback callers only.
        own_page: a page of this server's own may ask. That the Host header names this machine must be checked
            too, because it is what tells an own page from others.

    Raises:
        ControlError: 403, in the protocol's own words.
    """
    if token is not None:
        if not _bearer_matches(request.headers.getlist("authorization"), token):
            raise ControlError(403, "chio_control_forbidden", FORBIDDEN_WITH_TOKEN)
    elif not _is_local(request, own_page=own_page):
        raise ControlError(403, "chio_control_forbidden", FORBIDDEN)


def control_endpoint(
    state: SidecarState,
    path: str,
    handler: Handler,
    *,
    what: str,
    failure: str,
    limit: int = MAX_BODY,
    methods: tuple[str, ...] = ("POST",),
) -> Route:
    """Return the route of a guarded endpoint that takes a JSON object.

    Args:
        state: the sidecar.
        path: path template.
        handler: called after access and body were checked; may raise `ControlError` and `InvalidDocument`.
        what: name of the body in messages, for example `capability mint`.
        failure: error code when the store fails, or the sidecar cannot be opened.
        limit: largest body in bytes.
        methods: the methods.
    """

    async def answer(request: Request) -> Response:
        try:
            check_access(request, state.config.control_token)
            body = await _read(request, limit, what)
            return await handler(_parse(body, what), body)
        except ControlError as exc:
            return refusal(exc)
        except ChioError as exc:
            return refusal(ControlError(500, failure, exc.message))

    return Route(path, answer, methods=list(methods))


async def _read(request: Request, limit: int, what: str) -> bytes:
    try:
        return await read_body(request, limit)
    except BodyError:
        raise bad_request(f"failed to read {what} body") from None


def _parse(body: bytes, what: str) -> dict[str, Any]:
    try:
        return parse_object(body)
    except InvalidDocument as exc:
        raise bad_request(f"invalid {what} payload: {exc.message}") from None


def read_model(model: type[M], document: dict[str, Any], *, what: str) -> M:
    """Return the body as a model.

    Args:
        model: what it must be.
        document: the parsed body.
        what: name of the body in the message, for example `capability mint`.

    Raises:
        ControlError: 400, naming the member that does not fit.
    """
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise bad_request(f"invalid {what} payload: {explain(exc)}") from None


def _bearer_matches(values: list[str], token: SecretStr) -> bool:
    if len(values) != 1:
        return False
    scheme, _, presented = values[0].partition(" ")
    expected = token.get_secret_value().encode()
    matches = hmac.compare_digest(presented.strip().encode("latin-1", "replace"), expected)
    return matches and scheme.lower() == "bearer"


def _is_local(request: Request, *, own_page: bool) -> bool:
    elsewhere = {name for name in _SOURCE_ELSEWHERE if name in request.headers}
    if own_page and _is_own_page(request):
        elsewhere.discard("origin")
    if request.client is None or elsewhere:
        return False
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _is_own_page(request: Request) -> bool:
    origins, hosts = request.headers.getlist("origin"), request.headers.getlist("host")
    return len(origins) == len(hosts) == 1 and origins[0] in (f"http://{hosts[0]}", f"https://{hosts[0]}")
