"""Libraries that record or replace HTTP in tests (vcrpy, respx, responses) see none of the calls of a sidecar."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
from tests.core.views import View, question

TOLERANCE = 10.0**10

PATCHED = (
    (httpx.AsyncClient, "send"),
    (httpx.AsyncClient, "_send_single_request"),
    (httpx.AsyncHTTPTransport, "handle_async_request"),
    (httpx.Client, "send"),
    (httpx.Client, "_send_single_request"),
    (httpx.HTTPTransport, "handle_request"),
    (http.client.HTTPConnection, "request"),
)
"""What such libraries patch."""


async def loop(client: ChioClient) -> bool:
    async with client:
        return (await client.evaluate(question(View("GET")))).allowed


def embedded(folder: Path) -> bool:
    url = f"embedded:{folder}/receipts.sqlite3"
    return asyncio.run(loop(ChioClient(ChioSettings(sidecar_url=url, receipt_tolerance=TOLERANCE))))


def embedded_in_a_thread(folder: Path) -> bool:
    url = f"embedded:{folder}/receipts.sqlite3"
    with SyncChioClient(ChioSettings(sidecar_url=url, receipt_tolerance=TOLERANCE)) as client:
        return client.evaluate(question(View("GET"))).allowed


def over_http(folder: Path) -> bool:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        return asyncio.run(loop(ChioClient(sidecar.settings(receipt_tolerance=TOLERANCE))))


def over_http_in_a_thread(folder: Path) -> bool:
    with (
        ScriptedSidecar().serving_in_thread() as sidecar,
        SyncChioClient(sidecar.settings(receipt_tolerance=TOLERANCE)) as client,
    ):
        return client.evaluate(question(View("GET"))).allowed


def scripted(folder: Path) -> bool:
    return asyncio.run(loop(ScriptedSidecar().client(receipt_tolerance=TOLERANCE)))


WAYS = (embedded, embedded_in_a_thread, over_http, over_http_in_a_thread, scripted)


@pytest.mark.parametrize("evaluate", WAYS, ids=lambda one: one.__name__)
def test_a_call_of_the_sidecar_goes_through_nothing_that_tests_patch(
    evaluate: Callable[[Path], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def recording(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            raise ConnectionError("there is no recording of this request")

        return call

    for place, name in PATCHED:
        monkeypatch.setattr(place, name, recording(f"{place.__name__}.{name}"))
    assert evaluate(tmp_path)
    assert seen == []
