"""Requests of the trust service: camelCase, except for the scope, which is as in a token (wire protocol, 9.5)."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from chio_core.errors import InvalidDocument
from chio_core.models.base import U64, Text
from chio_core.models.capability import ChioScope
from chio_core.models.receipt import explain
from chio_sidecar.http import BodyError, parse_object, read_body


class Message(BaseModel):
    """A camelCase document; unknown members are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class IssueRequest(Message):
    """Body of `POST /v1/capabilities/issue`; the lifetime is in seconds."""

    subject_public_key: Text
    scope: ChioScope
    ttl_seconds: U64
    runtime_attestation: Any = None


class RevokeRequest(Message):
    """Body of `POST /v1/revocations`.

    An extension: the withdrawal of a key names it a second time, so that no id of a capability can be one.
    """

    capability_id: Text
    issuer_public_key: Text | None = None


class RevocationQuery(Message):
    """Query of `GET /v1/revocations`; the limit is kept between 1 and 200."""

    capability_id: str | None = None
    limit: int = Field(50, ge=0)


class ReceiptsQuery(Message):
    """Query of `GET /v1/receipts/query`; times in seconds since 1970, the cursor is a row number."""

    capability_id: str | None = None
    tool_server: str | None = None
    tool_name: str | None = None
    outcome: str | None = None
    since: int | None = Field(None, ge=0)
    until: int | None = Field(None, ge=0)
    min_cost: int | None = Field(None, ge=0)
    max_cost: int | None = Field(None, ge=0)
    agent_subject: str | None = None
    cursor: int = Field(0, ge=0)
    limit: int = Field(50, ge=0)


MAX_BODY = 2 * 1024 * 1024
"""Largest request body in bytes."""

M = TypeVar("M", bound=BaseModel)


class RefusalError(Exception):
    """The response of a refused request."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def refuse(status: int, text: str) -> RefusalError:
    """Return a refusal with the service's error document, `{"error": text}`."""
    return RefusalError(JSONResponse({"error": text}, status))


async def read_message(request: Request, model: type[M]) -> M:
    """Read the JSON body as `model`.

    Raises:
        RefusalError: 413, 415, 400 or 422, in plain text.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _plain(415, "Expected a request with `Content-Type: application/json`")
    try:
        document = parse_object(await read_body(request, MAX_BODY))
    except BodyError as exc:
        if exc.too_large:
            raise _plain(413, f"The request body is larger than {MAX_BODY} bytes") from None
        raise _plain(400, "The request body did not arrive completely") from None
    except InvalidDocument as exc:
        status = 422 if exc.message == "a JSON object is expected" else 400
        raise _plain(status, f"The request body cannot be used: {exc.message}") from None
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise _plain(422, f"The request body does not have the expected shape: {explain(exc)}") from None


def read_query(request: Request, model: type[M]) -> M:
    """Read the query string as `model`.

    Raises:
        RefusalError: 400, in plain text.
    """
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as exc:
        raise _plain(400, f"The query does not have the expected shape: {explain(exc)}") from None


def _plain(status: int, text: str) -> RefusalError:
    return RefusalError(PlainTextResponse(text, status))
