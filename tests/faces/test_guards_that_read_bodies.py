"""A guard outside the decision that reads the body: the limits stay those of the settings, on every face."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from flask import Flask

from chio_asgi import ChioASGIMiddleware
from chio_core import GuardRequest
from chio_core.testing import ScriptedSidecar
from chio_flask import Chio
from tests.django.project import CHIO, SHARING, client
from tests.support import call, http_scope

LIMIT = 1000
READ: list[int] = []


async def reads_body(request: GuardRequest) -> None:
    READ.append(len(await request.body()))


async def reads_body_in_time(request: GuardRequest) -> None:
    READ.append(len(await asyncio.wait_for(request.body(), 30)))


def asgi(sidecar: ScriptedSidecar, guard: Any, body: bytes, length: str | None) -> int:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    governed = ChioASGIMiddleware(app, client=sidecar.client(max_body_bytes=LIMIT), guards=[guard])
    headers = [(b"content-length", length.encode())] if length is not None else []

    async def send_cut() -> int:
        # The client says that more will come, and goes away.
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await governed(http_scope("POST", "/", headers=headers), receive, send)
        return int(sent[0]["status"])

    if length is not None and int(length) > len(body):
        return asyncio.run(send_cut())
    return asyncio.run(call(governed, "POST", "/", body=body, headers=headers)).status or 0


def django_sync(sidecar: ScriptedSidecar, guard: Any, body: bytes, length: str | None) -> int:
    options = {"CHIO_SIDECAR_URL": sidecar.url, "CHIO_TRUSTED_KERNEL_KEYS": [sidecar.public_key]}
    with override_settings(MIDDLEWARE=[CHIO], CHIO_GUARDS=[guard], CHIO_MAX_BODY_BYTES=LIMIT, **options):
        more = {} if length is None else {"CONTENT_LENGTH": length}
        return int(client().generic("POST", "/echo", body, **more).status_code)


def flask(sidecar: ScriptedSidecar, guard: Any, body: bytes, length: str | None) -> int:
    app = Flask("guarded")
    options = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], "max_body_bytes": LIMIT}
    chio = Chio(app, guards=[guard], **options)
    app.add_url_rule("/", "view", lambda: "ok", methods=["POST"])
    try:
        more = {} if length is None else {"environ_overrides": {"CONTENT_LENGTH": length}}
        return app.test_client().post("/", data=body, **more).status_code
    finally:
        chio.close(app)


DRIVERS = [asgi, django_sync, flask]


@pytest.fixture
def sidecar() -> Iterator[ScriptedSidecar]:
    READ.clear()
    with ScriptedSidecar().serving_in_thread() as found:
        yield found


@pytest.mark.parametrize("drive", DRIVERS)
@pytest.mark.parametrize("guard", [reads_body, reads_body_in_time])
def test_a_body_within_the_limit_is_the_guard_s_and_the_handler_s(
    drive: Any, guard: Any, sidecar: ScriptedSidecar
) -> None:
    assert drive(sidecar, guard, b"x" * LIMIT, str(LIMIT)) == 200
    assert READ == [LIMIT]
    assert sidecar.asked[0].document["body_length"] == LIMIT


@pytest.mark.parametrize("drive", DRIVERS)
@pytest.mark.parametrize("guard", [reads_body, reads_body_in_time])
def test_a_body_above_the_limit_is_413_and_no_guard_sees_it(drive: Any, guard: Any, sidecar: ScriptedSidecar) -> None:
    assert drive(sidecar, guard, b"x" * (LIMIT + 1), str(LIMIT + 1)) == 413
    assert (READ, sidecar.asked) == ([], [])


@pytest.mark.parametrize("drive", DRIVERS)
@pytest.mark.parametrize("guard", [reads_body, reads_body_in_time])
def test_a_broken_body_is_the_client_s_fault(drive: Any, guard: Any, sidecar: ScriptedSidecar) -> None:
    assert drive(sidecar, guard, b"x" * 10, "20") == 400
    assert (READ, sidecar.asked) == ([], [])


def test_under_asgi_django_s_guards_have_the_same_limit(sidecar: ScriptedSidecar) -> None:
    from tests.django.project import arequest

    chio = sidecar.client(max_body_bytes=LIMIT)
    with override_settings(MIDDLEWARE=[SHARING], TEST_CLIENT=chio, CHIO_GUARDS=[reads_body]):
        response = arequest("post", "/echo", b"x" * (LIMIT + 1), content_type="text/plain")
    assert response.status_code == 413
    assert (READ, sidecar.asked) == ([], [])
