"""A function of the application that holds the event loop is named; the decision, which is none, never is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from chio_core.concurrency.loop_thread import SLOW_MS
from chio_core.guards import SecurityHeaders
from chio_core.identity import default_extractor
from chio_core.models.request import CallerIdentity
from chio_core.request import RequestView
from chio_core.testing import ScriptedSidecar
from chio_core.testing.behaviours import ALLOW, Behaviour
from chio_core.testing.exchange import EvaluateRequest
from chio_fastapi import RequireCapability, add_chio
from tests.faces.faces import FACES, ASGIFace, Face


def hold() -> None:
    end = time.perf_counter() + 2 * SLOW_MS / 1000
    while time.perf_counter() < end:
        pass


def slow_hook(value: Any) -> None:
    hold()


async def slow_async_hook(value: Any) -> None:
    await asyncio.sleep(0)
    hold()


async def patient_hook(value: Any) -> None:
    await asyncio.sleep(2 * SLOW_MS / 1000)


def slow_extractor(view: RequestView) -> CallerIdentity:
    hold()
    return default_extractor()(view)


def late_allow(asked: EvaluateRequest) -> Behaviour:
    hold()  # the sidecar has a thread of its own
    return ALLOW


@contextmanager
def warnings_of(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "chio"):
        yield lambda: [one.getMessage() for one in caplog.records if "blocked the event loop" in one.getMessage()]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"on_decision": slow_hook}, "hook slow_hook"),
        ({"on_receipt": slow_async_hook}, "hook slow_async_hook"),
        ({"extractor": slow_extractor}, "extractor slow_extractor"),
        ({"on_decision": patient_hook}, None),
        ({}, None),
    ],
    ids=["hook", "async hook", "extractor", "hook that waits", "sidecar that is slow"],
)
@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_function_that_holds_the_loop_is_named(
    face: Face, options: dict[str, Any], name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with face.governed(late_allow, guards=[SecurityHeaders()], **options) as governed, warnings_of(caplog) as warned:
        assert governed.get("/hello").status == 200
    if name is None or not isinstance(face, ASGIFace):
        assert warned() == []
    else:
        (warning,) = warned()
        assert warning.startswith(f"chio: {name} blocked the event loop for ")


def slow_arguments(params: Any) -> dict[str, str]:
    hold()
    return {}


def test_a_function_for_arguments_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.get("/")
    def view(receipt: Annotated[Any, Depends(RequireCapability("a", "b", arguments=slow_arguments))]) -> None: ...

    add_chio(app, client=ScriptedSidecar().client())
    with warnings_of(caplog) as warned:
        assert TestClient(app).get("/").status_code == 401
    assert warned()
    assert all(one.startswith("chio: function for arguments slow_arguments blocked") for one in warned())
