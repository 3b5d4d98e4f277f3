"""The small window through which the table of outcomes looks at every framework."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.support import Headers

PATH = "/transfers/7"
TEMPLATE = "/transfers/{transfer_id}"
SERVER, TOOL = "payments", "transfer"


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str = "POST"
    path: str = PATH
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b'{"amount":5}'


@dataclass
class Seen:
    """What the handler saw on one run."""

    receipt: Any = None
    passthrough: Any = None
    decision: Any = None


@dataclass
class Observation:
    """What came out of one request.

    Attributes:
        seen: one entry for each time that the handler ran.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seen: list[Seen] = field(default_factory=list)

    @property
    def code(self) -> str | None:
        """The code that the body states: of a flat envelope, a nested one, or FastAPI's `detail`."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return None
        if not isinstance(document, dict):
            return None
        document = document.get("detail", document)
        error = document.get("error")
        return error.get("code") if isinstance(error, dict) else error


class Driver(Protocol):
    """One framework, set up in one way.

    Attributes:
        name: how tests call it.
        asks: `middleware`, or `capability` where the route requires one.
        tags_success: the receipt header is on successful answers too.
    """

    name: str
    asks: str
    tags_success: bool

    def run(self, settings: Mapping[str, Any], request: Sent) -> Observation:
        """Start the application with these settings, send one request, close everything."""
        ...

    def code(self, wire_code: str) -> str:
        """Return how this framework's envelope spells a wire code."""
        ...
