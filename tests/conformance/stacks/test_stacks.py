"""Five stacks on real sockets: the same bytes lead to the same evaluation and decision, or a table says why.

FastAPI and Starlette under uvicorn, Django under gunicorn and under uvicorn, Flask under gunicorn; each runs as a
process with its own sidecar, which signs what a script says and keeps every evaluate request.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import pytest

from chio_core.names import CAPABILITY_QUERY
from chio_core.testing import behaviours
from tests.conformance import table
from tests.conformance.stacks import differences, wire
from tests.conformance.stacks.differences import Difference
from tests.conformance.stacks.drivers import DRIVERS, REFERENCE
from tests.conformance.stacks.facets import code_of, differing, facets
from tests.conformance.stacks.running import MAX_BODY, ROOT, TOKEN, Outcome, Stack, Stacks, new_trace, running
from tests.faces.contract import EXCLUDED, STREAM, TEMPLATES
from tests.hostile import BEHAVIOURS
from tests.mutations import mutated

NAMES = [driver.name for driver in DRIVERS]
WEBSOCKETS = ("fastapi", "starlette")
WITH_TOKEN = f"X-Chio-Capability: {TOKEN}"
HELLO = wire.request("hello", "GET /hello HTTP/1.1")
TRANSFER = wire.request("transfer", "POST /accounts/7/transfer HTTP/1.1", [WITH_TOKEN], body="{}")

Outcomes = Mapping[str, Mapping[str, Outcome]]
"""By request, then by stack."""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    with running(tmp_path_factory.mktemp("stacks")) as found:
        yield found


@pytest.fixture(scope="module")
def outcomes(stacks: Stacks) -> Outcomes:
    """Every request of `requests.jsonl`, sent to every stack."""
    wires = wire.read(TOKEN)
    found = stacks.each(lambda stack: [stack.send(one) for one in wires])
    return {one.name: {name: found[name][at] for name in found} for at, one in enumerate(wires)}


def _found(outcomes: Outcomes) -> list[Difference]:
    return [
        Difference(request, name, facet)
        for request, by_stack in outcomes.items()
        for name, outcome in by_stack.items()
        for facet in sorted(differing(facets(by_stack[REFERENCE]), facets(outcome)))
    ]


# The same bytes


def test_every_request_was_answered_by_every_stack(outcomes: Outcomes) -> None:
    assert len(outcomes) >= 400
    silent = [
        f"{request} · {name}" for request, all_ in outcomes.items() for name in all_ if not all_[name].answer.status
    ]
    assert silent == []


@pytest.fixture
def _versions_of_the_table() -> None:
    others = {name: metadata.version(name) for name, version in differences.versions().items()}
    others = {name: version for name, version in others.items() if not _is(version, differences.versions()[name])}
    if others:
        pytest.skip(f"the table of docs/frameworks.md is about other versions than {others}")


def _is(version: str, wanted: str) -> bool:
    return version == wanted or version.startswith(f"{wanted}.")


def test_the_table_is_about_the_versions_that_are_locked() -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    found = {package["name"]: package["version"] for package in locked if "version" in package}
    for name, version in differences.versions().items():
        assert _is(found[name], version), f"{name} {found[name]}: run this suite with it and correct docs/frameworks.md"


@pytest.mark.usefixtures("_versions_of_the_table")
def test_a_difference_between_stacks_is_in_the_table_of_the_documentation(outcomes: Outcomes) -> None:
    assert list(map(str, differences.unexplained(_found(outcomes), differences.read()))) == []


@pytest.mark.usefixtures("_versions_of_the_table")
def test_the_table_of_the_documentation_claims_no_difference_that_does_not_exist(outcomes: Outcomes) -> None:
    assert list(map(str, differences.outdated(_found(outcomes), differences.read()))) == []


def test_the_table_gives_each_difference_a_reason() -> None:
    for row in differences.read():
        assert row.requests, row
        assert set(row.stacks) <= set(NAMES), row
        assert row.facets, row
        assert len(row.why.split()) > 5, row


def test_two_hundred_and_fifty_requests_are_the_same_evaluation_hash_by_hash(outcomes: Outcomes) -> None:
    same = 0
    for by_stack in outcomes.values():
        questions = [facets(one) for one in by_stack.values() if len(one.asked) == 1]
        bound = {(one["caller_hash"], one["content_hash"]) for one in questions}
        parts = {
            json.dumps({k: v for k, v in one.items() if k.startswith("question.")}, sort_keys=True) for one in questions
        }
        same += len(questions) == len(DRIVERS) and len(bound) == len(parts) == 1
    assert same >= 250


def runs_as_evaluated(outcome: Outcome, request: str) -> bool:
    """Return True if a governed handler ran: that of its receipt, with the same method, query and body."""
    found = facets(outcome)
    if found["handler"] is None:
        return False
    # Another spelling of an excluded path is governed, also where the router takes it (`/healthz%0A`).
    if found["handler"] in EXCLUDED and not found["asked"]:
        assert (found["receipt"], found["passthrough"]) == ("none", None), request
        return False
    websocket = found["handler"] == "ws"  # not every server sends Chio's header with an upgrade; the handler has it
    assert (found["asked"], found["receipt"]) == (1, "named") or websocket, request
    assert found["question.route_pattern"] == TEMPLATES[found["handler"]], request
    assert found.get("question.body_hash") == found["read"], request
    saw = outcome.answer.document
    assert found["question.method"] == saw["method"], request
    # Of repeated fields the last is evaluated, and the parameter that holds a capability is left out.
    fields = {name: value for name, value in saw["query"] if name != CAPABILITY_QUERY}
    assert found.get("question.query", {}) == fields, request
    return True


@pytest.mark.parametrize("name", NAMES)
def test_no_handler_runs_but_the_one_that_its_receipt_is_about(outcomes: Outcomes, name: str) -> None:
    ran = [request for request, by_stack in outcomes.items() if runs_as_evaluated(by_stack[name], request)]
    assert len(ran) >= 200


@pytest.mark.slow  # 60 requests to each stack, and 10,000 at full size
def test_no_changed_bytes_run_a_handler_that_its_receipt_is_not_about(stacks: Stacks, full_size: bool) -> None:
    spelled = json.loads((ROOT / "tests" / "asgi" / "spellings.json").read_text())["targets"]
    targets = [target for group in spelled.values() for target in group]
    targets += [
        f"{path}{query}" for path in sorted(TEMPLATES.values()) for query in ("", "?a=1&b=%C3%A4", "?a=x;b=+&a")
    ] * 6
    rest = f" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{WITH_TOKEN}\r\n\r\n"
    known = [f"{method} {path}{rest}".encode("latin-1") for method in ("GET", "POST") for path in targets]
    chance, ran = random.Random(6), Counter[str]()
    for _ in range(10_000 if full_size else 60):
        data = mutated(chance, chance.choice(known))
        for name, outcome in stacks.send(wire.Wire("changed", data.partition(b" ")[0].decode("latin-1"), data)).items():
            ran[name] += runs_as_evaluated(outcome, f"{name}: {data!r}")
    assert min(ran[name] for name in NAMES) >= 5, "handlers ran"


@pytest.mark.parametrize("name", NAMES)
def test_the_api_key_that_a_handler_reads_is_the_one_that_was_evaluated(outcomes: Outcomes, name: str) -> None:
    for request, by_stack in outcomes.items():
        found = facets(by_stack[name])
        if found["handler"] is None or found["handler"] in EXCLUDED:
            continue
        method = found["question.caller"]["auth_method"]
        if method["method"] == "api_key":
            assert hashlib.sha256((found["key"] or "").encode()).hexdigest() == method["key_hash"], request
        if method["method"] == "anonymous":
            assert not found["key"], request


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_counted_as_it_came(outcomes: Outcomes, name: str) -> None:
    for request, by_stack in outcomes.items():
        found = facets(by_stack[name])
        if found["asked"] and found["question.body_length"]:
            assert found["question.headers"]["content-length"] == str(found["question.body_length"]), request


def test_a_claimed_receipt_is_not_believed(outcomes: Outcomes) -> None:
    assert {facets(one)["receipt"] for one in outcomes["answer/claimed receipt"].values()} == {"named"}


def test_a_stream_comes_as_it_is_and_with_its_receipt(outcomes: Outcomes) -> None:
    for name, outcome in outcomes["answer/stream"].items():
        assert outcome.answer.body == "".join(STREAM).encode(), name
        assert facets(outcome)["receipt"] == "named", name


def test_no_response_shows_how_the_server_is_built(outcomes: Outcomes) -> None:
    for request, by_stack in outcomes.items():
        for name, outcome in by_stack.items():
            assert b"Traceback" not in outcome.answer.body, (request, name)


# The table of outcomes

AWAY = {one.name for one in BEHAVIOURS.values() if one.slow or one.refuses}
QUICK = [cell for cell in table.read() if cell.behaviour not in AWAY]


def _holds(cell: table.Cell, name: str, outcome: Outcome) -> None:
    found, document = facets(outcome), outcome.answer.document or {}
    assert (found["status"], found["handler"] is not None) == (cell.status, bool(cell.handler)), name
    if not cell.handler:
        wanted = {cell.code, "chio_sidecar_unreachable"} if cell.code == "chio_timeout" else {cell.code}
        assert code_of(document) in wanted, name  # the nested envelope has one code for the two
    assert document.get("passthrough") == cell.passthrough, name
    assert found["receipt"] == ("named" if cell.receipt else "none"), name


@pytest.mark.parametrize("cell", [cell for cell in QUICK if cell.asks == "middleware"], ids=str)
def test_a_behaviour_of_the_sidecar_has_the_outcome_of_the_table(stacks: Stacks, cell: table.Cell) -> None:
    with stacks.following(BEHAVIOURS[cell.behaviour]):
        for name, outcome in stacks.send(HELLO, fail_open=cell.fail_open).items():
            _holds(cell, name, outcome)


@pytest.mark.parametrize("cell", [cell for cell in QUICK if cell.asks == "capability"], ids=str)
def test_the_same_where_a_capability_is_required(stacks: Stacks, cell: table.Cell) -> None:
    with stacks.following(BEHAVIOURS[cell.behaviour]):
        for name, outcome in stacks.send(TRANSFER, fail_open=cell.fail_open).items():
            if name != "starlette":  # which has no decorator and no dependency to ask with
                _holds(cell, name, outcome)


@pytest.mark.parametrize("behaviour", [behaviours.REFUSE, behaviours.HANG], ids=str)
def test_a_sidecar_that_is_away_or_silent_has_the_outcome_of_the_table(
    stacks: Stacks, behaviour: behaviours.Behaviour
) -> None:
    cells = {(cell.asks, cell.fail_open): cell for cell in table.read() if cell.behaviour == behaviour.name}

    def ask(stack: Stack) -> dict[tuple[str, bool], Outcome]:
        sent = {"middleware": HELLO, "capability": TRANSFER}
        with ThreadPoolExecutor(len(cells)) as pool:  # so that the waiting times do not add up
            answers = pool.map(lambda key: stack.send(sent[key[0]], fail_open=key[1]), cells)
            return dict(zip(cells, answers, strict=True))

    with stacks.following(behaviour):
        for name, found in stacks.each(ask).items():
            for key, outcome in found.items():
                if key[0] == "middleware" or name != "starlette":
                    _holds(cells[key], name, outcome)


def test_all_stacks_recover_when_the_sidecar_comes_back(stacks: Stacks) -> None:
    with stacks.following(behaviours.REFUSE):
        assert {one.answer.status for one in stacks.send(HELLO).values()} == {503}
    assert {one.answer.status for one in stacks.send(HELLO).values()} == {200}


# Bodies


def _bodies(seed: int) -> Iterator[wire.Wire]:
    chosen = random.Random(seed)
    for number in range(12):
        body = chosen.randbytes(chosen.choice([1, 2, 50, 4_000, 20_000, 120_000]))
        split = chosen.choice([None, 1, 7, 1_000]) if len(body) < 5_000 else chosen.choice([None, 1_000, 9_999])
        line = "POST /anything HTTP/1.1"
        yield wire.request(f"length {number}", line, [WITH_TOKEN], body=body, split=split)
        cuts = sorted(chosen.sample(range(1, len(body)), min(len(body) - 1, chosen.randrange(6))))
        text = body.decode("latin-1")
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        yield wire.request(f"chunks {number}", line, [WITH_TOKEN], chunks=chunks, split=split)


@pytest.mark.parametrize("seed", range(3))
def test_however_a_body_is_cut_what_is_hashed_is_what_is_read(stacks: Stacks, seed: int) -> None:
    wires = list(_bodies(seed))
    found = stacks.each(lambda stack: [facets(stack.send(one)) for one in wires])
    for at, one in enumerate(wires):
        seen = {(found[name][at]["question.body_hash"], found[name][at]["read"]) for name in NAMES}
        assert len(seen) == 1, one
        assert len(set(seen.pop())) == 1, one
        assert len({found[name][at]["content_hash"] for name in NAMES}) == 1, one


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused_with_and_without_fail_open(stacks: Stacks, chunked: bool) -> None:
    too_much = "x" * (MAX_BODY + 1)
    framing = {"chunks": [too_much[:1000], too_much[1000:]]} if chunked else {"body": too_much}
    one = wire.request("large", "POST /anything HTTP/1.1", [WITH_TOKEN], **framing)  # type: ignore[arg-type]
    for fail_open in (False, True):
        for name, outcome in stacks.send(one, fail_open=fail_open).items():
            assert outcome.asked == [], name
            assert (outcome.answer.status, code_of(outcome.answer.document)) == (413, "chio_body_too_large"), name


def test_a_client_that_leaves_before_the_end_of_the_body_causes_no_evaluation(stacks: Stacks) -> None:
    def leave_and_come_back(stack: Stack) -> tuple[int, int, int | None]:
        trace = new_trace()
        for framing in (["Content-Length: 100"], ["Transfer-Encoding: chunked"]):
            lines = ["Host: a", f"traceparent: {trace}", WITH_TOKEN, *framing]
            head = wire.request("left", "POST /anything HTTP/1.1", lines, bare=True)
            with socket.create_connection(("127.0.0.1", stack.ports[False])) as connection:
                connection.sendall(head.data + b"5\r\nabcde\r\n")
        after = stack.send(HELLO)
        return len(stack.asked(trace)), len(after.asked), after.answer.status

    assert stacks.each(leave_and_come_back) == dict.fromkeys(NAMES, (0, 1, 200))


def test_a_request_that_is_refused_whatever_its_body_says_is_answered_before_it_is_there(stacks: Stacks) -> None:
    def send_half(stack: Stack) -> tuple[int | None, int, str | None] | None:
        if stack.name in ("starlette", "django-asgi"):  # no route requires anything; Django reads all of it first
            return None
        lines = ["Host: a", "Connection: close", "Content-Length: 1000000"]
        outcome = stack.send(wire.request("half", "POST /accounts/7/transfer HTTP/1.1", lines, body="x", bare=True))
        return (
            outcome.answer.status,
            len(outcome.answer.lines("x-chio-receipt")),
            outcome.asked[0].document.get("body_hash"),
        )

    found = {name: answer for name, answer in stacks.each(send_half).items() if answer is not None}
    assert found == dict.fromkeys(("fastapi", "django-wsgi", "flask"), (401, 1, None))


def test_requests_on_one_connection_are_evaluated_one_by_one(stacks: Stacks) -> None:
    def talk(stack: Stack) -> list[tuple[int, str, str | None]]:
        trace = new_trace()
        connection = http.client.HTTPConnection("127.0.0.1", stack.ports[False], timeout=30)
        found = []
        for number in range(8):
            body = b"%d" % number * number
            headers = {"traceparent": trace, **({"X-Chio-Capability": TOKEN} if number % 2 else {})}
            connection.request("POST", "/anything", body, headers)
            answer = connection.getresponse()
            document = json.loads(answer.read())
            found.append((answer.status, document.get("read"), answer.getheader("X-Chio-Receipt")))
        connection.close()
        assert len({receipt for _, _, receipt in found}) == len(found)
        assert [one.document["body_length"] for one in stack.asked(trace)] == list(range(8))
        return [(status, read, None) for status, read, _ in found]

    for name, found in stacks.each(talk).items():
        hashes = [hashlib.sha256(b"%d" % number * number).hexdigest() for number in range(8)]
        assert [status for status, _, _ in found] == [403, 200] * 4, name
        assert [read for _, read, _ in found][1::2] == hashes[1::2], name


# Websockets


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (behaviours.ALLOW, 101, None),
        (behaviours.DENY, 403, "chio_access_denied"),
        (behaviours.status(500), 502, "chio_evaluation_failed"),
        (behaviours.REFUSE, 503, "chio_sidecar_unreachable"),
    ],
    ids=str,
)
def test_a_handshake_is_governed_where_there_are_websockets(
    stacks: Stacks, behaviour: behaviours.Behaviour, status: int, code: str | None
) -> None:
    with stacks.following(behaviour):
        found = {name: facets(one) for name, one in stacks.send(wire.handshake()).items()}
    for name in WEBSOCKETS:
        assert (found[name]["status"], found[name]["code"]) == (status, code), name
        assert (found[name]["handler"] == "ws") == (status == 101), name
    assert differing(*(found[name] for name in WEBSOCKETS)) == set()


def test_a_handshake_never_reaches_a_handler_where_there_are_none(stacks: Stacks) -> None:
    for name, outcome in stacks.send(wire.handshake()).items():
        if name not in WEBSOCKETS:
            assert (facets(outcome)["handler"], outcome.answer.status in (404, 500)) == (None, True), name
