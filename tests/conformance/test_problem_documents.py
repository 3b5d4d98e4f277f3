"""Refusals as problem documents (RFC 9457), in every framework: how a client requests one, and what never changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.testing import ScriptedSidecar
from tests.conformance.drivers import DRIVERS, Driver
from tests.faces.faces import Observation, pointing_at
from tests.hostile import BEHAVIOURS
from tests.support import Reply, connect, run

PROBLEM_JSON = "application/problem+json"
PAGE = "https://chio.internal/chio/viewer/"
STANDARD = {"type", "title", "status", "detail", "instance"}

# Without `add_chio` FastAPI itself writes the answer, around our document.
WRITTEN_BY_US = [driver for driver in DRIVERS.values() if driver.name not in ("capability-alone", "synchronous")]
each_framework = pytest.mark.parametrize("driver", WRITTEN_BY_US, ids=lambda driver: driver.name)

Ask = Callable[..., Observation]


@pytest.fixture(scope="module")
def sidecar() -> Iterator[ScriptedSidecar]:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        yield sidecar


@pytest.fixture
def ask(sidecar: ScriptedSidecar) -> Ask:
    def refused(driver: Driver, behaviour: str, accept: str | None = None, **settings: Any) -> Observation:
        sidecar.script = BEHAVIOURS[behaviour]
        headers = (("content-type", "application/json"), *((("accept", accept),) if accept is not None else ()))
        found = driver.run({**pointing_at(sidecar), **settings}, driver.request(headers))
        assert found.status >= 400
        assert found.seen == []
        return found

    return refused


def members_of(found: Observation) -> dict[str, Any]:
    """The members of a published document: those inside of `error` where the envelope is nested."""
    document = json.loads(found.body)
    error = document["error"]
    return error if isinstance(error, dict) else document  # type: ignore[no-any-return]


@each_framework
@pytest.mark.parametrize("accept", [None, "*/*", "application/json", f"{PROBLEM_JSON};q=0.5, */*"])
def test_a_refusal_stays_what_was_published_unless_something_else_is_wanted(
    driver: Driver, accept: str | None, ask: Ask
) -> None:
    found = ask(driver, "deny", accept)
    assert found.headers["content-type"] == "application/json"
    assert not {"title", "detail"} & set(json.loads(found.body)) | {"title", "detail"} & set(members_of(found))
    if "status" not in json.loads(found.body):
        assert list(json.loads(found.body)) == ["error"]


@each_framework
def test_a_client_that_accepts_problem_documents_gets_one_with_all_published_members(driver: Driver, ask: Ask) -> None:
    plain, found = ask(driver, "deny"), ask(driver, "deny", f"{PROBLEM_JSON}, application/json;q=0.9")
    assert found.headers["content-type"] == PROBLEM_JSON
    assert int(found.headers["content-length"]) == len(found.body)
    document = json.loads(found.body)
    assert set(document) >= STANDARD
    assert document["status"] == found.status == plain.status
    assert document["type"].startswith("urn:chio:problem:")
    assert document["title"]
    assert document["detail"] == members_of(found)["message"]
    assert document["instance"] == f"urn:chio:receipt:{found.headers['x-chio-receipt']}"
    published = json.loads(plain.body)
    assert set(published) <= set(document)
    changing = {"receipt_id", "instance", "explain"}
    for name, value in members_of(plain).items():
        assert name in changing or members_of(found)[name] == value


@each_framework
@pytest.mark.parametrize("accept", ["application/json", PROBLEM_JSON])
def test_a_refusal_is_not_stored_and_varies_by_accept(driver: Driver, accept: str, ask: Ask) -> None:
    for behaviour in ("deny", "status_500", "foreign_key"):
        found = ask(driver, behaviour, accept)
        assert found.headers["cache-control"] == "no-store"
        assert "accept" in found.headers["vary"].lower()


@each_framework
def test_a_refusal_without_a_receipt_names_the_evaluation(driver: Driver, sidecar: ScriptedSidecar, ask: Ask) -> None:
    members = members_of(ask(driver, "foreign_key"))
    assert members["instance"] == f"urn:chio:request:{sidecar.asked[-1].document['request_id']}"
    assert "receipt_id" not in members


@each_framework
def test_an_unreachable_sidecar_is_a_503_that_says_when_to_retry(driver: Driver, ask: Ask) -> None:
    found = ask(driver, "deny", PROBLEM_JSON, sidecar_url="http://127.0.0.1:9")
    assert (found.status, found.headers["retry-after"]) == (503, "1")
    assert json.loads(found.body)["instance"].startswith("urn:chio:request:")


@pytest.mark.parametrize("driver", [one for one in WRITTEN_BY_US if one.asks == "capability"], ids=lambda one: one.name)
def test_a_missing_capability_is_a_401_with_its_challenge(driver: Driver, ask: Ask) -> None:
    found = ask(driver, "allow_without_capability")
    assert (found.status, found.headers["www-authenticate"]) == (401, 'Chio realm="chio", header="X-Chio-Capability"')


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_a_refusal_with_a_receipt_links_to_the_page_that_explains_it(driver: Driver, ask: Ask) -> None:
    found = ask(driver, "deny", explain_url=PAGE)
    link = f"{PAGE}#{found.headers['x-chio-receipt']}"
    assert found.headers["link"] == f'<{link}>; rel="help"'
    assert f'"explain_url": "{link}"' in json.dumps(json.loads(found.body))


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_nothing_is_linked_without_the_setting_or_without_a_receipt(driver: Driver, ask: Ask) -> None:
    for found in (ask(driver, "deny"), ask(driver, "foreign_key", explain_url=PAGE)):
        assert "link" not in found.headers
        assert b"explain_url" not in found.body


def test_a_refused_handshake_has_the_accepted_form(sidecar: ScriptedSidecar) -> None:
    async def refused(accept: str) -> Reply:
        sidecar.script = BEHAVIOURS["deny"]
        options = ChioASGIConfig(
            _env_file=None, sidecar_url=sidecar.url, trusted_kernel_keys=[sidecar.public_key], explain_url=PAGE
        )
        async with ChioClient(options) as client:
            return await connect(ChioASGIMiddleware(FastAPI(), client=client), "/ws", headers=[("accept", accept)])

    for accept, kind in ((PROBLEM_JSON, PROBLEM_JSON), ("*/*", "application/json")):
        reply = run(refused(accept))
        assert reply.header("content-type") == kind
        assert ("title" in reply.json()) == (kind == PROBLEM_JSON)
        assert reply.header("link") == f'<{PAGE}#{reply.receipt}>; rel="help"'
        assert (reply.header("vary"), reply.header("cache-control")) == ("Accept", "no-store")
