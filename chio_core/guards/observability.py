"""RequestId: one id for the logs of this request, taken from the caller or made, and returned."""

from __future__ import annotations

import re
import uuid

from chio_core.names import STATE_REQUEST_ID
from chio_core.guards.response_hooks import outgoing
from chio_core.request import GuardRequest

_GOOD = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


class RequestId:
    """Puts an id on `request.state.request_id` and on the answer.

    It is for correlation only: the id of the evaluation, which a receipt is bound to, is never the caller's choice.

    Args:
        header: request and response header.
        trust_incoming: take the caller's id if it is well-formed (1 to 128 of `A-Z a-z 0-9 . _ -`).
        priority: place in the chain.
    """

    name = "request_id"
    provides = frozenset({"request_id"})
    waits = False

    def __init__(self, header: str = "X-Request-ID", *, trust_incoming: bool = True, priority: int = -95) -> None:
        self.priority = priority
        self.enabled = True
        self._header = header
        self._trust = trust_incoming

    async def __call__(self, request: GuardRequest) -> None:
        """Note the id; never refuses."""
        given = request.headers.get(self._header.lower(), "") if self._trust else ""
        value = given if _GOOD.match(given) else str(uuid.uuid4())
        setattr(request.state, STATE_REQUEST_ID, value)
        outgoing(request).add_header(self._header, value)
