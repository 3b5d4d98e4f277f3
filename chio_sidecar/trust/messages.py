"""Request bodies of the trust service: camelCase outside, the scope inside as in a token (section 9.5)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from chio_core.models.base import U64, Text
from chio_core.models.capability import ChioScope


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
    """Body of `POST /v1/revocations`."""

    capability_id: Text


class RevocationQuery(Message):
    """Query of `GET /v1/revocations`; the limit is kept between 1 and 200."""

    capability_id: str | None = None
    limit: int = Field(50, ge=0)


class ReceiptsQuery(Message):
    """Query of `GET /v1/receipts/query`; times in seconds, the cursor is a row number."""

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
