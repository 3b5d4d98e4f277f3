"""An answer that breaks off at any byte whatever opens nothing, and the next request is answered again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chio_asgi import ChioASGIMiddleware
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.testing import Behaviour, ScriptedSidecar, behaviours
from chio_core.testing.behaviours import allow_reply
from chio_core.testing.sidecar import head_of
from tests.core.views import NOW, asked, question
from tests.hostile.faults import closed_at, reset_at
from tests.support import call, run

Break = Callable[[int], Behaviour]

BREAKS = pytest.mark.parametrize("broken", [reset_at, closed_at], ids=["reset", "closed"])
STEP = 7


def lengths() -> range:
    """Each so many-th byte of an allow, its head included."""
    reply = allow_reply(asked(question()))
    return range(0, len(head_of(reply)) + len(reply.body), STEP)


@BREAKS
def test_a_response_cut_at_any_byte_is_a_502_and_the_next_connection_is_good(broken: Break) -> None:
    script = [behaviour for cut in lengths() for behaviour in (broken(cut), behaviours.ALLOW)]
    waiting = iter(script)
    sidecar = ScriptedSidecar(lambda _: next(waiting))
    handled = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        handled.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def many() -> list[int]:
        async with sidecar.serving(), ChioClient(sidecar.settings(fail_open=True)) as client:
            app = ChioASGIMiddleware(handler, client=client)
            return [(await call(app, "GET", "/")).status for _ in script]

    assert run(many()) == [502, 200] * len(lengths())
    assert len(handled) == len(lengths())


@BREAKS
def test_the_synchronous_client_sees_the_same(broken: Break) -> None:
    script = [behaviour for cut in lengths() for behaviour in (broken(cut), behaviours.ALLOW)]
    waiting = iter(script)
    one = question()
    sidecar = ScriptedSidecar(lambda _: next(waiting), clock=lambda: NOW)
    with sidecar.serving_in_thread(), SyncChioClient(sidecar.settings(fail_open=True), clock=lambda: NOW) as client:
        decisions = [client.evaluate(one) for _ in script]
    found = [decision.denial.status if decision.denial else 200 for decision in decisions]
    assert found == [502, 200] * len(lengths())
