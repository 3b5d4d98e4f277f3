"""The body that is hashed is the body that the handler reads: all of it, however it comes, on every face."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from typing import Any

import pytest

from chio_core import AnyResponse, Chain, Next
from chio_core.request import GuardRequest
from tests.faces.faces import FACES, Face, Governed
from tests.faces.wire import Wire
from tests.faces.wsgi import OneWay, environ

each_face = pytest.mark.parametrize("face", FACES, ids=str)
each_threaded_face = pytest.mark.parametrize("face", [face for face in FACES if face.threaded], ids=str)

LARGE = b"0123456789abcdef" * 20_000
"""320,000 bytes, more than one piece."""

FORM = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def part(disposition: str, content: bytes) -> bytes:
    return b"--x\r\ncontent-disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


def sha256(body: bytes) -> str | None:
    return hashlib.sha256(body).hexdigest() if body else None


def asked_about(governed: Governed) -> tuple[Any, int]:
    (asked,) = governed.asked
    return asked.get("body_hash"), asked["body_length"]


@each_face
@pytest.mark.parametrize("path", ["/anything", "/piecewise"])
@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\xff" * 40_000, LARGE], ids=["none", "small", "binary", "large"])
def test_the_handler_reads_what_was_hashed(face: Face, path: str, body: bytes) -> None:
    with face.governed(spool_bytes=100_000) as governed:
        found = governed.send("POST", path, {"content-type": "application/octet-stream"}, body)
    assert found.seen[0].body == body
    assert asked_about(governed) == (sha256(body), len(body))


@each_face
@pytest.mark.parametrize("spool_bytes", [0, 1, 10, 10**6])
def test_where_a_body_is_kept_does_not_change_its_hash(face: Face, spool_bytes: int) -> None:
    with face.governed(spool_bytes=spool_bytes) as governed:
        assert governed.send("POST", "/anything", body=LARGE).seen[0].body == LARGE
    assert asked_about(governed) == (sha256(LARGE), len(LARGE))


@each_face
@pytest.mark.parametrize("chunked", [False, True])
def test_forms_and_files_are_read_by_the_framework(face: Face, chunked: bool) -> None:
    upload = part('name="a"', b"1") + part('name="f"; filename="f.txt"', b"x" * 5000) + b"--x--\r\n"
    with face.governed(spool_bytes=1000) as governed:
        form = governed.send("POST", "/form", FORM, [b"a=1&b=", b"%C3%BC"] if chunked else b"a=1&b=%C3%BC")
        files = governed.send("POST", "/form", MULTIPART, [upload[:3000], upload[3000:]] if chunked else upload)
    assert form.json == {"fields": {"a": "1", "b": "ü"}, "files": {}}
    assert files.json == {"fields": {"a": "1"}, "files": {"f": "x" * 5000}}
    assert [asked["body_hash"] for asked in governed.asked] == [sha256(b"a=1&b=%C3%BC"), sha256(upload)]


@each_face
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_body_above_the_limit_is_413_without_an_evaluation(face: Face, fail_open: bool) -> None:
    with face.governed(max_body_bytes=10, fail_open=fail_open) as governed:
        for too_much in (b"x" * 11, [b"x" * 6, b"x" * 5]):
            found = governed.send("POST", "/anything", body=too_much)
            assert (found.status, found.code, found.seen) == (413, face.code("chio_body_too_large"), [])
            assert found.receipt is None
        assert governed.asked == []
        for enough in (b"x" * 10, [b"x" * 6, b"x" * 4], b""):
            assert governed.send("POST", "/anything", body=enough).status == 200
    with face.governed(max_body_bytes=0) as governed:
        assert [governed.send("POST", "/anything", body=body).status for body in (b"", b"x")] == [200, 413]


@each_face
@pytest.mark.parametrize("path", ["/anything", "/piecewise"])
def test_a_chunked_body_is_evaluated_and_read_whole(face: Face, path: str) -> None:
    with face.governed() as governed:
        found = governed.send("POST", path, FORM, [b"a=1&", b"b=", b"2"])
    assert found.seen[0].body == b"a=1&b=2"
    assert asked_about(governed) == (sha256(b"a=1&b=2"), 7)


async def reads_body(request: GuardRequest) -> None:
    READ.append(len(await request.body()))


async def reads_body_in_time(request: GuardRequest) -> None:
    READ.append(len(await asyncio.wait_for(request.body(), 30)))


READ: list[int] = []
"""Lengths that these guards have read."""

each_reading_guard = pytest.mark.parametrize("guard", [reads_body, reads_body_in_time])


@each_face
@each_reading_guard
def test_a_guard_outside_the_decision_reads_a_body_within_the_limit(face: Face, guard: Any) -> None:
    READ.clear()
    with face.governed(guards=[guard], max_body_bytes=1000) as governed:
        found = governed.send("POST", "/anything", body=b"x" * 1000)
    assert (READ, len(found.seen[0].body)) == ([1000], 1000)
    assert asked_about(governed) == (sha256(b"x" * 1000), 1000)


@each_face
@each_reading_guard
@pytest.mark.parametrize(
    ("wire", "statuses"),
    [
        (Wire("POST", b"/anything", (), (b"x" * 1001,)), (413,)),
        (Wire("POST", b"/anything", (), (b"x",), breaks=True), (400, 0)),  # Django itself ends it under ASGI
    ],
    ids=["too large", "broken off"],
)
def test_a_guard_sees_no_body_above_the_limit_and_none_that_breaks_off(
    face: Face, guard: Any, wire: Wire, statuses: tuple[int, ...]
) -> None:
    READ.clear()
    with face.governed(guards=[guard], max_body_bytes=1000) as governed:
        assert governed.wire(wire).status in statuses
    assert (READ, governed.asked) == ([], [])


async def reads_body_around(request: GuardRequest, next: Next) -> AnyResponse:
    READ.append(len(await request.body()))
    return await next(request)


@each_face
@pytest.mark.parametrize("priority", [-5, 5], ids=["outer", "inner"])
@pytest.mark.parametrize("guard", [reads_body, reads_body_in_time, reads_body_around])
def test_a_guard_has_the_same_limit_on_an_excluded_path_and_its_handler_does_not_run(
    face: Face, guard: Any, priority: int
) -> None:
    READ.clear()
    told: list[Any] = []
    chain = Chain().add(guard, priority=priority)
    options = {"exclude_paths": ["/healthz"], "max_body_bytes": 10, "on_decision": told.append}
    with face.governed(guards=chain, **options) as governed:
        for too_much in (b"x" * 11, [b"x" * 6, b"x" * 5]):
            found = governed.send("POST", "/healthz", body=too_much)
            assert (found.status, found.code, found.seen) == (413, face.code("chio_body_too_large"), [])
        assert governed.send("POST", "/healthz", body=b"x" * 10).seen[0].body == b"x" * 10
    assert ([decision.denial.status for decision in told], READ, governed.asked) == ([413, 413], [10], [])


@each_threaded_face
@pytest.mark.parametrize("more", [{"HTTP_TRANSFER_ENCODING": "chunked"}, {"CONTENT_LENGTH": "5,5"}, {}])
def test_a_guard_that_reads_a_body_of_unclear_length_on_an_excluded_path_ends_the_request(
    face: Face, more: dict[str, str]
) -> None:
    body = OneWay(b"hello", breaks=True)
    with face.governed(guards=[reads_body], exclude_paths=["/healthz"]) as governed:
        found = governed.wire.call(environ("POST", "/healthz", body, **(more or {"CONTENT_LENGTH": "9"})))
    assert (found.status, found.seen) == (411 if "HTTP_TRANSFER_ENCODING" in more else 400, [])


@each_threaded_face
def test_an_announced_length_above_the_limit_is_refused_unread(face: Face) -> None:
    body = OneWay(b"x" * 100)
    with face.governed(max_body_bytes=10) as governed:
        assert governed.wire.call(environ("POST", "/anything", body, CONTENT_LENGTH="100")).status == 413
    assert body.given == 0


@each_threaded_face
@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),  # without the server's word that it ends the stream
        ({"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}, 400),
        ({"CONTENT_LENGTH": "-5"}, 400),
        ({"CONTENT_LENGTH": "five"}, 400),
        ({"CONTENT_LENGTH": "5,5"}, 400),
        ({"CONTENT_LENGTH": "0" * 5000 + "9"}, 400),
        ({"CONTENT_LENGTH": "1" * 5000}, 413),
        ({"CONTENT_LENGTH": "0" * 30 + "1" * 20}, 400),
        ({"CONTENT_LENGTH": "9"}, 400),
        ({"CONTENT_LENGTH": "900000"}, 400),
        ({"CONTENT_LENGTH": "90000000"}, 413),
    ],
)
@pytest.mark.parametrize("breaks", [False, True], ids=["ends", "breaks off"])
def test_a_length_that_is_not_clear_or_not_reached_is_refused(
    face: Face, more: dict[str, str], status: int, breaks: bool
) -> None:
    with face.governed() as governed:
        found = governed.wire.call(environ("POST", "/anything", OneWay(b"hello", breaks=breaks), **more))
    assert (found.status, governed.asked) == (status, [])


@each_face
@pytest.mark.parametrize("catches", [False, True], ids=["lets it pass", "catches it"])
@pytest.mark.parametrize("whole", [False, True], ids=["prefix", "whole"])
def test_a_guard_that_catches_an_error_of_the_body_does_not_make_a_shorter_one_run(
    face: Face, catches: bool, whole: bool
) -> None:
    async def sniff(request: Any) -> None:
        try:
            await (request.body() if whole else request.read_body_prefix(10))
        except Exception:
            if not catches:
                raise

    sniff.priority = -5  # type: ignore[attr-defined]
    with face.governed(guards=[sniff]) as governed:
        found = governed.wire(Wire("POST", b"/anything", (), (b"x",), breaks=True))
        if face.threaded:
            found = governed.wire.call(
                environ("POST", "/anything", OneWay(b"hello", breaks=True), CONTENT_LENGTH="500000")
            )
    assert found.status in (400, 0)  # Django itself ends it under ASGI
    assert (found.seen, governed.asked) == ([], [])


@each_threaded_face
def test_temporary_files_are_removed_with_the_response(face: Face) -> None:
    with face.governed(spool_bytes=1000) as governed:
        for path in ("/anything", "/piecewise", "/hello", "/nowhere", "/fails"):
            environment = environ("POST", path, LARGE)
            governed.wire.call(environment)
            assert environment["chio.input"].closed
    gc.collect()  # reports a file that was not closed


@each_threaded_face
def test_a_request_without_a_body_costs_no_reading(face: Face) -> None:
    body = OneWay()
    with face.governed() as governed:
        governed.wire.call(environ("GET", "/hello", body))
    assert body.largest == 0
