"""The small window through which the table of outcomes looks at every framework."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from chio_core.refusals.problems import flat
from chio_core.refusals.response import Denial
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


def taken(seen: list[Seen]) -> list[Seen]:
    """Return what a handler has seen since the last time."""
    found = list(seen)
    seen.clear()
    return found


@contextmanager
def loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Keep an event loop; gives a function that runs a coroutine in it, in a context of its own."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield lambda coroutine: runner.run(coroutine, context=copy_context())


Send = Callable[[Sent], Observation]
"""Sends one request to an application that is open."""


class Driver(ABC):
    """One framework, set up in one way.

    Attributes:
        name: how tests call it.
        asks: `middleware`, or `capability` where the route requires one.
        tags_success: the receipt header is on successful answers too.
    """

    name: str
    asks = "middleware"
    tags_success = True

    @abstractmethod
    def opened(self, settings: Mapping[str, Any]) -> AbstractContextManager[Send]:
        """Build the application with these settings, and close everything at the end."""

    def run(self, settings: Mapping[str, Any], request: Sent) -> Observation:
        """Build the application with these settings, send one request, close everything."""
        with self.opened(settings) as send:
            return send(request)

    def code(self, wire_code: str) -> str:
        """Return how this framework's envelope spells a wire code."""
        return str(flat(Denial(code=wire_code, message=""))["error"])
