"""Under ASGI Chio enters no thread, stops no loop, and leaves nothing when the client is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings

from chio_core.client.client import ChioClient
from chio_core.testing import Behaviour, EvaluateRequest, ScriptedSidecar, behaviours
from tests.django.asgi import call
from tests.django.project import SHARING, governed_async
from tests.tokens import with_token


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts how often work is handed to a thread, as `sync_to_async` and `to_thread` do."""

    def __init__(self) -> None:
        super().__init__()
        self.handed_over = 0

    def run_in_executor(self, *args: Any) -> Any:
        self.handed_over += 1
        return super().run_in_executor(*args)


def handed_over(path: str, **more: Any) -> tuple[int, int]:
    """Send a request; return the status and how often work was handed to a thread."""
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        reply = runner.run(call(ASGIHandler(), path=path, **more))
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        return reply.status, loop.handed_over


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/ahello", {}),
        ("/astream", {}),
        ("/ahello", {"method": "POST", "body": b"x" * 2_000_000}),
        ("/ahello", {"method": "POST", "body": [b"x" * 70_000] * 5}),
        ("/nowhere", {}),
    ],
)
def test_a_governed_request_enters_no_thread_that_the_bare_one_does_not(path: str, more: dict[str, Any]) -> None:
    with override_settings(MIDDLEWARE=["tests.django.middleware.no_chio"]):
        bare = handed_over(path, **more)
    with governed_async() as sidecar:
        governed = handed_over(path, **more)
    assert governed == bare
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("path", ["/atransfer", "/async-vault"])
def test_a_required_capability_enters_none_either(path: str, excluded: bool) -> None:
    headers = [("host", "testserver"), *with_token(("payments", "transfer"), ("vault", "open")).items()]
    with governed_async(exclude_paths=[path] if excluded else []) as sidecar:
        assert handed_over(path, headers=headers) == handed_over("/ahello")
    assert len(sidecar.asked) == 2


def test_refusals_enter_no_thread() -> None:
    with governed_async(behaviours.DENY):
        denied = handed_over("/ahello")
    with override_settings(MIDDLEWARE=["tests.django.middleware.denies"]):
        denied_by_django = handed_over("/ahello")
    assert denied == denied_by_django
    assert denied[0] == 403


def test_many_requests_are_evaluated_at_the_same_time() -> None:
    async def main() -> list[int]:
        app = ASGIHandler()
        replies = await asyncio.gather(*(call(app, path="/ahello") for _ in range(50)))
        return [reply.status for reply in replies]

    with governed_async() as sidecar:
        assert asyncio.run(main()) == [200] * 50
    assert len({asked.document["request_id"] for asked in sidecar.asked}) == 50


def test_a_client_that_goes_away_takes_only_its_own_request_with_it() -> None:
    async def main() -> tuple[int, list[dict[str, Any]]]:
        asked_about = asyncio.Event()

        def script(asked: EvaluateRequest) -> Behaviour:
            asked_about.set()
            return behaviours.HANG if asked.path == "/ahello" else behaviours.ALLOW

        sidecar = ScriptedSidecar(script)
        async with sidecar.serving(), ChioClient(sidecar.settings()) as chio:
            with override_settings(MIDDLEWARE=[SHARING], TEST_CLIENT=chio):
                app, leaves = ASGIHandler(), asyncio.Event()
                waiting = asyncio.ensure_future(call(app, path="/ahello", leaves=leaves))
                await asked_about.wait()
                leaves.set()
                left = await waiting
                after = await call(app, path="/astream")
                return after.status, left.messages

    assert asyncio.run(main()) == (200, [])
