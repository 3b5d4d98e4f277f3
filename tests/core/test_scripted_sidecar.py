"""The scripted sidecar: four faces of one sidecar that really signs."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from chio_core import ChioClient, ConfigurationError, SyncChioClient
from chio_core.client.via_httpx import HttpxCarrier
from chio_core.errors import SidecarTimeout
from chio_core.evaluation.outcomes import Decision
from chio_core.signing import SigningKey
from chio_core.testing import KEY, Behaviour, EvaluateRequest, Reply, ScriptedSidecar, behaviour, behaviours, seal
from tests.core.views import NOW, View, question
from tests.hostile import BEHAVIOURS
from tests.hostile.faults import closed_at, reset_at

# httpx undoes a compression that was not requested; our own carriers do not.
FAST = [name for name, one in BEHAVIOURS.items() if not one.slow and name != "compressed"]


def now() -> float:
    return NOW


def ask(client: ChioClient) -> Decision:
    async def once() -> Decision:
        async with client:
            return await client.evaluate(question())

    return asyncio.run(once())


def result(decision: Decision) -> tuple[str, int | None, str | None]:
    denial = decision.denial
    return decision.verdict, denial.status if denial else None, denial.code if denial else None


def in_memory(sidecar: ScriptedSidecar, **options: Any) -> ChioClient:
    return ChioClient(sidecar.settings(**options), transport=sidecar.transport(), clock=lambda: NOW)


def test_it_allows_when_nothing_else_is_said_and_remembers_what_was_asked() -> None:
    sidecar = ScriptedSidecar(clock=lambda: NOW)
    decision = ask(in_memory(sidecar))
    assert decision.allowed
    assert decision.receipt is not None
    assert decision.receipt.kernel_key == sidecar.public_key == KEY.public_hex
    (asked,) = sidecar.asked
    assert (asked.method, asked.path, asked.capability_text) == ("POST", "/pets/7", None)


def test_its_client_pins_its_key() -> None:
    sidecar = ScriptedSidecar(key=SigningKey.generate())
    client = sidecar.client(timeout=1)
    assert client.settings.trusted_kernel_keys == (sidecar.public_key,)
    assert client.settings.timeout == 1


def test_a_script_may_choose_for_each_question_and_may_change() -> None:
    def choose(asked: EvaluateRequest) -> Behaviour:
        return behaviours.ALLOW if asked.method == "GET" else behaviours.deny("read only", status=405)

    sidecar = ScriptedSidecar(choose, clock=now)
    client = in_memory(sidecar)
    assert result(asyncio.run(client.evaluate(question()))) == ("deny", 405, "chio_access_denied")
    assert asyncio.run(client.evaluate(question(View("GET")))).allowed
    sidecar.script = behaviours.CANCEL
    assert result(asyncio.run(client.evaluate(question(View("GET"))))) == ("cancel", 403, "chio_access_denied")


@pytest.mark.parametrize("name", FAST)
def test_a_behaviour_is_the_same_in_memory_and_over_both_kinds_of_socket(name: str) -> None:
    sidecar = ScriptedSidecar(BEHAVIOURS[name], clock=now)
    found = [result(ask(in_memory(sidecar)))]
    with sidecar.serving_in_thread():
        found.append(result(ask(ChioClient(sidecar.settings(), clock=lambda: NOW))))
        with SyncChioClient(sidecar.settings(), clock=lambda: NOW) as client:
            found.append(result(client.evaluate(question())))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", [name for name, one in BEHAVIOURS.items() if one.slow])
def test_a_slow_behaviour_is_a_timeout_in_memory_too(name: str) -> None:
    decision = ask(in_memory(ScriptedSidecar(BEHAVIOURS[name], clock=now), timeout=0.05))
    assert result(decision) == ("error", 503, "chio_timeout")


def test_it_is_an_asgi_application() -> None:
    async def exchange() -> list[httpx.Response]:
        sidecar = ScriptedSidecar(clock=lambda: NOW)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(sidecar), base_url="http://sidecar") as client:
            answer = await client.post("/chio/evaluate", content=question().body)
            receipt = answer.json()["receipt"]
            return [
                answer,
                await client.post("/chio/verify", json=receipt),
                await client.post("/chio/verify", json={**receipt, "timestamp": 5}),
                await client.post("/chio/verify", content=b"{"),
                await client.get("/chio/health"),
                await client.get("/elsewhere"),
                await client.post("/chio/evaluate", content=b"not json"),
            ]

    answers = asyncio.run(exchange())
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 200, 404, 400]
    assert [answer.json() for answer in answers[1:3]] == [{"valid": True}, {"valid": False}]
    assert answers[4].json() == {"status": "healthy", "version": "0.1.0"}


@pytest.mark.parametrize("name", ["refuse_connections", "reset_at_12", "closed_in_body"])
def test_as_an_asgi_application_it_fails_where_a_connection_would_break(name: str) -> None:
    async def exchange() -> None:
        transport = httpx.ASGITransport(ScriptedSidecar(BEHAVIOURS[name]))
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as client:
            await client.post("/chio/evaluate", content=question().body)

    with pytest.raises(ConnectionError):
        asyncio.run(exchange())


async def test_closing_does_not_wait_for_ever_for_a_transport_without_timeouts() -> None:
    transport = httpx.ASGITransport(ScriptedSidecar(behaviours.HANG))
    carrier = HttpxCarrier("http://sidecar", transport, patience=0.01)
    with pytest.raises(SidecarTimeout):
        await carrier.post("/chio/evaluate", question().body, (), 0.01)
    await carrier.aclose()
    assert "closed" == "closed"


async def test_it_answers_the_lifespan() -> None:
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await ScriptedSidecar()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_it_keeps_a_connection_for_further_questions() -> None:
    with ScriptedSidecar(clock=now).serving_in_thread() as sidecar:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(sidecar.url).port or 0)
        for _ in range(3):
            connection.request("POST", "/chio/evaluate", question().body)
            answer = connection.getresponse()
            assert json.loads(answer.read())["verdict"] == {"verdict": "allow"}
        connection.close()
    assert len(sidecar.asked) == 3


def test_it_serves_in_the_running_loop() -> None:
    async def main() -> Decision:
        async with ScriptedSidecar(clock=now).serving() as sidecar, ChioClient(sidecar.settings()) as client:
            return await client.evaluate(question())

    # The client's clock is the real one, so the receipt is too old: both sides work.
    assert result(asyncio.run(main())) == ("error", 502, "chio_invalid_receipt")


def test_without_serving_it_has_no_address() -> None:
    sidecar = ScriptedSidecar()
    with pytest.raises(ConfigurationError, match="serving_in_thread"):
        assert sidecar.url
    with sidecar.serving_in_thread():
        assert sidecar.url.startswith("http://127.0.0.1:")
    with pytest.raises(ConfigurationError):
        assert sidecar.url


def test_a_behaviour_of_ones_own_is_one_object() -> None:
    teapot = Behaviour("teapot", "Is a teapot.", lambda asked: Reply(b"{}", 418))
    assert result(ask(in_memory(ScriptedSidecar(teapot)))) == ("error", 502, "chio_evaluation_failed")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (behaviours.status(301), ("error", 502, "chio_evaluation_failed")),
        (reset_at(7), ("error", 502, "chio_evaluation_failed")),
        (closed_at(7), ("error", 502, "chio_evaluation_failed")),
        (behaviours.deny("no", status=451), ("deny", 451, "chio_access_denied")),
        (behaviours.verdict("maybe", "Says maybe.", {"verdict": "maybe"}), ("maybe", 403, "chio_access_denied")),
        (behaviours.signed_wrongly("w", "Wrong.", method="PUT"), ("error", 502, "chio_invalid_receipt")),
        (
            behaviours.changed_after_signing("c", "Changed.", lambda receipt: receipt.update(policy_hash="00")),
            ("error", 502, "chio_invalid_receipt"),
        ),
    ],
    ids=str,
)
def test_further_behaviours_can_be_made(one: Behaviour, expected: tuple[str, int, str]) -> None:
    assert result(ask(in_memory(ScriptedSidecar(one, clock=now)))) == expected


def test_a_name_that_nobody_knows_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^no behaviour is called 'denny'; did you mean deny\?$"):
        behaviour("denny")


def test_every_behaviour_says_in_one_sentence_what_it_does() -> None:
    for name, one in BEHAVIOURS.items():
        assert one.name == name == str(one)
        assert one.summary.endswith("."), name
        assert "\n" not in one.summary


def test_sealing_gives_a_newer_receipt_the_id_of_its_content() -> None:
    asked = ScriptedSidecar(clock=now)
    ask(in_memory(asked))
    first = asked.asked[0].receipt(newer=True)
    second = seal({**first, "policy_hash": "00" * 32}, KEY)
    assert first["id"] != second["id"]
    assert len(second["id"]) == 64


def test_a_sidecar_that_stops_leaves_no_connection_open() -> None:
    """Also those that it accepts while it stops: asyncio would leave their sockets to the garbage collector."""
    for _ in range(30):
        with ScriptedSidecar().serving_in_thread() as sidecar:
            port = urlsplit(sidecar.url).port
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for client in clients:
            client.close()
    gc.collect()  # reports a socket that was not closed
