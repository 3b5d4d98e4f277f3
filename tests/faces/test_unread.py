"""A request that is refused whatever its body says is refused before its body is there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from chio_core.capabilities.scope import bound
from chio_core.models.request import CallerIdentity
from chio_core.testing import behaviours
from tests.faces.faces import ALONE, FACES, Face, Governed, Observation
from tests.faces.wire import Wire, request
from tests.tokens import token

# Under ASGI Django reads the whole body before any middleware runs.
ASKING = [face for face in FACES if face.asks]
WAITING = [face for face in ASKING if face.name != "django-async"]
each_face = pytest.mark.parametrize("face", ASKING, ids=str)
each_waiting_face = pytest.mark.parametrize("face", WAITING, ids=str)
each_way = pytest.mark.parametrize("face", [*WAITING, *ALONE], ids=str)

PLACE = "/accounts/7/transfer"
GRANT = {"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}
NOW = int(time.time())
OF_ALICE = token(bound(GRANT, str(CallerIdentity.bearer("alice-token").holder)))

HOPELESS = {
    "none": (None, 401),
    "unreadable": ('{"id": "cap-1"}', 403),
    "expired": (token(GRANT, now=NOW - 3600, ttl_seconds=60), 403),
    "of another": (OF_ALICE, 403),
}
"""What is presented, and the status, whatever the sidecar says and whatever the body is."""

each_hopeless = pytest.mark.parametrize(("capability", "status"), HOPELESS.values(), ids=HOPELESS)


def half(capability: str | None, **headers: str) -> Wire:
    """A request of which the end of the body never comes."""
    presented = {} if capability is None else {"X-Chio-Capability": capability}
    sent = request("POST", PLACE, {**presented, **headers})
    return Wire(sent.method, sent.target, sent.headers, (b"half",), breaks=True)


def is_refused_unread(governed: Governed, found: Observation) -> bool:
    (asked,) = governed.asked
    return "body_hash" not in asked and asked["body_length"] == 0 and found.seen == []


@each_way
@each_hopeless
def test_it_has_its_receipt_although_its_body_is_not_there(face: Face, capability: str | None, status: int) -> None:
    with face.governed() as governed:
        found = governed.wire(half(capability))
    assert (found.status, found.problem["receipt_id"] is not None) == (status, True)
    assert is_refused_unread(governed, found)


@each_face
@each_hopeless
def test_its_answer_does_not_depend_on_its_body(face: Face, capability: str | None, status: int) -> None:
    presented = {} if capability is None else {"X-Chio-Capability": capability}
    with face.governed(max_body_bytes=10) as governed:
        found = [governed.send("POST", PLACE, presented, body) for body in (b"", b"x", b"x" * 11, [b"x", b"y"])]
    assert {one.status for one in found} == {status}
    assert {asked.get("body_hash") for asked in governed.asked} == {None}


@each_face
@each_hopeless
def test_it_never_fails_open(face: Face, capability: str | None, status: int) -> None:
    with face.governed(behaviours.REFUSE, fail_open=True) as governed:
        found = governed.send("POST", PLACE, {} if capability is None else {"X-Chio-Capability": capability}, b"x")
    assert (found.status, found.seen) == (503, [])


@each_waiting_face
@pytest.mark.parametrize(
    "capability",
    [token(GRANT), token(GRANT, now=NOW - 3600, ttl_seconds=3590), token(("other", "tool"))],
    ids=["valid", "expired by this clock", "other scope"],
)
def test_what_the_sidecar_has_to_decide_waits_for_the_body(face: Face, capability: str) -> None:
    with face.governed(receipt_tolerance=3000) as governed:  # the sidecar's clock may differ by so much
        assert governed.wire(half(capability)).status == 400
        assert governed.asked == []
        governed.send("POST", PLACE, {"X-Chio-Capability": capability}, b"whole")
    assert governed.asked[0]["body_length"] == 5


@each_waiting_face
def test_observe_mode_reads_the_body_first(face: Face) -> None:
    with face.governed(observe=True) as governed:
        assert governed.wire(half(None)).status == 400
        assert governed.send("POST", PLACE, body=b"whole").seen[0].body == b"whole"
    (asked,) = governed.asked
    assert asked["body_length"] == 5


@each_face
def test_observe_mode_states_the_refusal_that_enforcing_gives_not_that_of_the_body(face: Face) -> None:
    with face.governed(observe=True, max_body_bytes=4) as governed:
        bare = governed.send("POST", PLACE, body=b"whole")
        presented = governed.send("POST", PLACE, {"X-Chio-Capability": token(GRANT)}, b"whole")
    marks = [one.seen[0].passthrough for one in (bare, presented)]
    assert [mark and mark.error for mark in marks] == ["chio_capability_required", "chio_body_too_large"]


@each_waiting_face
def test_a_cookie_without_a_capability_is_found_before_the_body(face: Face) -> None:
    with face.governed(capability_source="cookie:pass") as governed:
        found = governed.wire(half(None, Cookie=f"pass={OF_ALICE}"))
    assert found.status == 401
    assert is_refused_unread(governed, found)


def reads_all(view: Any) -> CallerIdentity | None:
    """An extractor that does not ask the view for the body."""
    READ.append(view.environ["wsgi.input"].read())
    return None


READ: list[bytes] = []


@pytest.mark.parametrize("face", [face for face in WAITING if face.threaded], ids=str)
def test_an_extractor_that_reads_the_stream_leaves_the_body_and_has_its_limit(face: Face) -> None:
    READ.clear()
    presented = {"X-Chio-Capability": token(GRANT)}
    with face.governed(extractor=reads_all, max_body_bytes=1000) as governed:
        found = governed.send("POST", PLACE, presented, b"x" * 1000)
        assert (READ, found.seen[0].body) == ([b"x" * 1000], b"x" * 1000)
        for headers in (presented, {}):
            assert governed.send("POST", PLACE, headers, b"x" * 1001).status == 413
    assert (len(READ), len(governed.asked)) == (1, 1)


@pytest.mark.parametrize("face", [face for face in FACES if face.asks and face.threaded], ids=str)
def test_an_extractor_that_reads_the_stream_of_a_route_without_requirement_leaves_the_body(face: Face) -> None:
    READ.clear()
    with face.governed(extractor=reads_all) as governed:
        found = [governed.send("POST", "/anything", {}, body) for body in (b"", b"x", b"x" * 100_000)]
    assert [one.seen[0].body for one in found] == READ == [b"", b"x", b"x" * 100_000]
    assert [asked["body_length"] for asked in governed.asked] == [0, 1, 100_000]


@pytest.mark.parametrize("face", [face for face in WAITING if face.threaded], ids=str)
def test_an_extractor_leaves_a_body_of_unclear_length_that_is_only_observed_with_the_server(face: Face) -> None:
    with face.governed(extractor=lambda view: None, observe=True) as governed:
        found = governed.send("POST", "/anything", {"Transfer-Encoding": "chunked"}, b"whole")
    assert len(found.seen) == len(governed.asked) == 1
