"""For the same bytes on the wire every framework puts the same question, but for its id and time.

The few differences that servers and frameworks force are written down in docs/frameworks.md; each has a row here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faces.faces import FACES, Observation
from tests.faces.wire import Wire
from tests.tokens import with_token

TOKEN = with_token(("payments", "transfer"))["X-Chio-Capability"].encode()

TARGETS = (
    b"/hello", b"/", b"/pets/7", b"/pets/%37", b"/pets/a%20b", b"/pets/7/toys/old", b"/files/a/b/c", b"/nowhere",
    b"/hello/", b"/Hello", b"/pets/%E2%82%AC", b"/%C3%A4", b"/files/..%2Fadmin", b"/pets/7;v=1", b"/pets/a+b",
)  # fmt: skip
QUERIES = (
    b"", b"?a=1", b"?a=1&a=2", b"?b=%20&a=+", b"?%C3%A4=%E2%82%AC", b"?flag", b"?a=&b==&c=1=2",
    b"?chio_capability=x&a=1", b"?a=%", b"?a=%zz&b=%00", b"?a;b=1", b"?" + b"&".join(b"k%d=v" % n for n in range(50)),
)  # fmt: skip
HEADERS: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (),
    ((b"authorization", b"Bearer example-token"),),
    ((b"authorization", b"bearer   spaced  "),),
    ((b"authorization", b"Basic dXNlcjpwYXNz"),),
    ((b"authorization", b"Bearer t\xf6ken"),),
    ((b"x-api-key", b"k"),),
    ((b"cookie", b"a=1; session=s3cr3t"),),
    ((b"cookie", b'session="quo,ted"'),),
    ((b"x-api-key", b"k"), (b"authorization", b"Bearer wins"), (b"cookie", b"session=s")),
    ((b"content-type", b"application/json; charset=utf-8"), (b"x-chio-capability", TOKEN)),
    ((b"content-type", b'multipart/form-data; boundary="a,b"'),),
    ((b"content-type", b""),),
    ((b"x-a", b"1"), (b"x-a", b"2"), (b"accept", b"*/*"), (b"user-agent", b"t\xe9st")),
)
BODIES: tuple[tuple[bytes, ...], ...] = (
    (), (b"hello",), (b'{"a":1}',), (b"\x00\xff" * 100,), (b"he", b"", b"llo"), (b"x" * 70_000, b"y" * 70_000),
    (b"z" * 300_000,),
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")


def requests() -> Iterator[Wire]:
    """Every value of every part at least once, and then a fixed choice of combinations: 250 in all."""
    chosen = random.Random(20261121)
    parts = (METHODS, TARGETS, QUERIES, HEADERS, BODIES)
    for method, target, query, headers, body in itertools.islice(
        zip(*(itertools.cycle(part) for part in parts), strict=True), max(map(len, parts))
    ):
        yield Wire(method, target + query, headers, body)
    for _ in range(250 - max(map(len, parts))):
        yield Wire(
            chosen.choice(METHODS),
            chosen.choice(TARGETS) + chosen.choice(QUERIES),
            chosen.choice(HEADERS),
            chosen.choice(BODIES),
        )


def ask(wires: list[Wire], **options: Any) -> list[dict[str, tuple[Any, Observation]]]:
    """Send each request to each framework; return, by framework, the question and the observation."""
    found: list[dict[str, tuple[Any, Observation]]] = [{} for _ in wires]
    for face in FACES:
        with face.governed(**options) as governed:
            for wire, answers in zip(wires, found, strict=True):
                before = len(governed.asked)
                observation = governed.wire(wire)
                asked = governed.asked[before:]
                assert len(asked) <= 1
                question = comparable(asked[0]) if asked else None
                if question is not None and not face.knows_routes:
                    assert question["route_pattern"] == question["path"]
                    reference = next(iter(answers.values()))[0] or question
                    question["route_pattern"] = reference["route_pattern"]
                answers[face.name] = (question, observation)
    return found


def statuses(answers: dict[str, tuple[Any, Observation]]) -> dict[str, tuple[Any, int]]:
    """Return question and status by framework."""
    return {name: (question, found.status) for name, (question, found) in answers.items()}


def comparable(document: Any) -> dict[str, Any]:
    """A question without its id and time."""
    return {name: value for name, value in document.items() if name not in ("request_id", "timestamp")}


def test_two_hundred_and_fifty_requests_are_the_same_evaluation_everywhere() -> None:
    wires = list(requests())
    assert len(wires) == 250
    different = []
    for wire, answers in zip(wires, ask(wires, exclude_methods=[]), strict=True):
        questions = [answer[0] for answer in answers.values()]
        if any(question != questions[0] for question in questions):
            different.append((wire, statuses(answers)))
    assert different == []


def test_the_evaluated_body_is_the_body_that_handlers_read() -> None:
    wires = [Wire("POST", b"/anything", (), body) for body in BODIES]
    for wire, answers in zip(wires, ask(wires), strict=True):
        assert {(found.status, found.seen[0].body) for _, found in answers.values()} == {(200, wire.body)}


@pytest.mark.parametrize(
    "headers",
    [
        ((b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")),
        ((b"x-chio-capability", TOKEN), (b"x-chio-capability", TOKEN)),
        ((b"x-chio-capability", b""), (b"x-chio-capability", TOKEN)),
        ((b"x-api-key", b"a"), (b"x-api-key", b"b")),
        ((b"x-chio-approval", b"a"), (b"x-chio-approval", b"b")),
        ((b"host", b"a"), (b"host", b"b")),
        ((b"authorization", b"Digest a=1"), (b"authorization", b"Bearer b")),
    ],
)
def test_a_repeated_security_header_is_400_everywhere(headers: Any) -> None:
    (answers,) = ask([Wire(headers=headers)])
    assert statuses(answers) == dict.fromkeys(answers, (None, 400))


@pytest.mark.parametrize(
    ("wire", "options", "status"),
    [
        (Wire("TRACE", b"/hello"), {}, 405),
        (Wire("PROPFIND", b"/hello"), {}, 405),
        (Wire("get", b"/hello"), {}, 405),
        (Wire("POST", b"/hello", (), (b"x" * 11,)), {"max_body_bytes": 10}, 413),
        (Wire("POST", b"/hello", (), (b"x" * 6, b"x" * 5)), {"max_body_bytes": 10}, 413),
        (Wire(target=b"/hello?" + b"&".join(b"a=1" for _ in range(1001))), {}, 400),
        (Wire(headers=((b"x-chio-capability", b"\xff{}"),)), {}, 400),
    ],
    ids=["trace", "propfind", "lower case", "large", "large in chunks", "many fields", "token not ASCII"],
)
def test_what_is_refused_without_an_evaluation_is_refused_everywhere(
    wire: Wire, options: dict[str, Any], status: int
) -> None:
    (answers,) = ask([wire], **options)
    assert statuses(answers) == dict.fromkeys(answers, (None, status))


@pytest.mark.parametrize(
    ("wire", "excluded"),
    [
        (Wire(target=b"/hello"), True),
        (Wire(target=b"/%68ello"), True),
        (Wire(target=b"/hello/"), False),
        (Wire(target=b"/HELLO"), False),
        (Wire(target=b"/hello?x=/hello"), True),
        (Wire(target=b"/files/../hello"), False),
        (Wire(target=b"/pets/hello"), False),
        (Wire("OPTIONS", b"/pets/7"), True),
        (Wire("options", b"/pets/7"), False),
    ],
)
def test_the_same_requests_are_excluded_everywhere(wire: Wire, excluded: bool) -> None:
    (answers,) = ask([wire], exclude_paths=["/hello"])
    governed = {name: question is not None or found.code is not None for name, (question, found) in answers.items()}
    assert governed == dict.fromkeys(governed, not excluded)


TWO_TYPES = Wire("POST", b"/hello", ((b"content-type", b"a/b"), (b"content-type", b"c/d")), (b"x",))

DIFFERENCES = {
    "path that is not UTF-8": (Wire(target=b"/pets/%FF"), {
        "django": {"path": "/pets/%FF"},
    }),
    "several slashes at the start": (Wire(target=b"//hello"), {
        "flask": {"path": "/hello", "route_pattern": "/hello"},
    }),
    "several slashes inside": (Wire(target=b"/files//x"), {
        "flask": {"path": "/files//x", "route_pattern": "/files//x"},
    }),
    "repeated cookie lines": (Wire(headers=((b"cookie", b"a=1"), (b"cookie", b"session=s"))), {
        "django": {"caller": "anonymous"},
        "flask": {"caller": "anonymous"},
        "wsgi": {"caller": "anonymous"},
    }),
    "repeated content type": (TWO_TYPES, {
        "django": {"headers": {"content-type": "c/d", "content-length": "1"}},
        "flask": {"headers": {"content-type": "c/d", "content-length": "1"}},
        "wsgi": {"headers": {"content-type": "c/d", "content-length": "1"}},
    }),
    "comma in an API key": (Wire(headers=((b"x-api-key", b"a,b"),)), {
        "django": None,
        "flask": None,
        "wsgi": None,
    }),
}  # fmt: skip
"""Name of the difference, a request that shows it, and the frameworks whose question is another one (None: 400)."""


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_as_documented(name: str) -> None:
    wire, others = DIFFERENCES[name]
    (answers,) = ask([wire])
    common = answers["starlette"][0]
    for framework, (question, status) in statuses(answers).items():
        if framework not in others:
            assert question == common, framework
        elif others[framework] is None:
            assert (question, status) == (None, 400)
        else:
            for member, value in (others[framework] or {}).items():
                found = question[member] if member != "caller" else question["caller"]["subject"]
                assert found == value, framework
    assert name in (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
