"""A body that comes once can be read again and again, and no more of it is fetched than is read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random

import pytest

from chio_core.evaluation.body_limits import BodyLimits
from chio_core.evaluation.governed import KnownBody
from chio_core.evaluation.precheck import singleton_headers
from chio_core.refusals.response import RequestRefused
from chio_core.settings import ChioSettings
from chio_core.threads.body import MeasureSteps, is_kept, keep, measure, read_from_start
from chio_core.threads.wsgi_view import EnvironView, environ_key
from tests.faces.wsgi import OneWay

DATA = bytes(range(256)) * 3000
SMALL = BodyLimits(spool_bytes=1000)


def pieces(seed: int) -> list[bytes]:
    """Cut the data anywhere."""
    cuts = sorted(random.Random(seed).sample(range(len(DATA)), 20))
    return [DATA[start:end] for start, end in zip([0, *cuts], [*cuts, len(DATA)], strict=True)]


@pytest.mark.parametrize("length", [None, len(DATA)])
@pytest.mark.parametrize("spool_bytes", [0, 1000, 10**9])
@pytest.mark.parametrize("seed", range(3))
def test_any_way_of_reading_gives_the_same_bytes(length: int | None, spool_bytes: int, seed: int) -> None:
    chosen, expected = random.Random(seed), io.BytesIO(DATA)
    with keep(OneWay(*pieces(seed)), length, BodyLimits(spool_bytes=spool_bytes)) as file:
        assert is_kept(file)
        for _ in range(200):
            where, whence = chosen.choice([(chosen.randrange(len(DATA)), 0), (0, 2), (0, 1)])
            count = chosen.choice([0, 1, 10, 5000, 400_000])
            assert file.seek(where, whence) == expected.seek(where, whence)
            assert file.read(count) == expected.read(count)
            assert file.readline(100) == expected.readline(100)
            assert file.tell() == expected.tell()
            prefix = chosen.randrange(1, 1000)
            assert read_from_start(file, prefix) == DATA[:prefix]
            assert file.tell() == expected.tell()
        assert read_from_start(file) == DATA


def test_measuring_counts_and_hashes_and_leaves_the_file_at_its_start() -> None:
    with keep(OneWay(*pieces(1)), None, SMALL) as file:
        found: list[KnownBody] = []

        def noting() -> MeasureSteps:
            found.append((yield from measure(file, BodyLimits(len(DATA)))))
            return found[0]

        assert len(list(noting())) == len(DATA) // (256 * 1024)
        assert found == [KnownBody(len(DATA), hashlib.sha256(DATA).hexdigest())]
        assert file.read() == DATA


def test_no_more_is_taken_from_a_client_who_sends_too_much() -> None:
    source = OneWay(*[b"x" * 1000] * 5000)
    with keep(source, None, SMALL) as file, pytest.raises(RequestRefused) as refused:
        list(measure(file, BodyLimits(10_000)))
    assert refused.value.denial.status == 413
    assert source.given < 300_000


def test_a_body_that_ends_too_early_is_reported_as_such() -> None:
    with keep(OneWay(b"abc"), 5, SMALL) as file, pytest.raises(RequestRefused) as refused:
        list(measure(file, BodyLimits(10_000)))
    assert refused.value.denial.status == 400


class Malformed(Exception):
    """What a server raises for a malformed chunked body; gunicorn's is no OSError either."""


@pytest.mark.parametrize("announced", ["", "5"])
def test_a_body_that_the_server_cannot_read_is_400_whatever_it_raises(announced: str) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise Malformed

    environ = {"CONTENT_LENGTH": announced, "wsgi.input": Broken(), "wsgi.input_terminated": True}
    view = EnvironView(environ, limits=BodyLimits(100, 100))
    with pytest.raises(RequestRefused) as refused:
        list(view.measure())
    assert refused.value.denial.status == 400


@pytest.mark.parametrize("spool_bytes", [10, 10**9], ids=["no room", "broken off"])
def test_a_body_of_which_a_piece_was_lost_cannot_be_read_any_more(spool_bytes: int) -> None:
    """A guard that catches the first error would read a body with a hole, or one that is too short."""

    class Hiccup(OneWay):
        def read(self, size: int = -1) -> bytes:
            if self.given == 512 * 1024 and spool_bytes > 10:
                self.given += 1
                raise Malformed
            return super().read(size)

    limits = BodyLimits(spool_bytes=spool_bytes, max_spooled=600_000)
    limits.take(400_000)
    with keep(Hiccup(DATA), None, limits) as file:
        for _ in range(2):
            with pytest.raises((RequestRefused, OSError)):
                file.read()
            limits.give_back(400_000)  # now there is room
            file.seek(0)
        with pytest.raises(RequestRefused) as refused:
            list(measure(file, BodyLimits(len(DATA))))
        assert refused.value.denial.status == (503 if spool_bytes == 10 else 400)
        for count in (-1, 1, 1000):
            with pytest.raises(RequestRefused):
                read_from_start(file, count)


@pytest.mark.parametrize("announced", ["", "5"])
@pytest.mark.parametrize("first", ["prefix", "whole"])
def test_an_error_at_the_first_byte_is_the_error_of_every_later_read(announced: str, first: str) -> None:
    """A server's stream that has failed once says that it is at its end."""

    class Once:
        failed = False

        def read(self, size: int = -1) -> bytes:
            if not self.failed:
                self.failed = True
                raise Malformed
            return b""

    environ = {"CONTENT_LENGTH": announced, "wsgi.input": Once(), "wsgi.input_terminated": True}
    view = EnvironView(environ, limits=BodyLimits(100, 100))
    for _ in range(2):
        with pytest.raises(RequestRefused) as refused:
            asyncio.run(view.read_body_prefix(3) if first == "prefix" else view.body())
        assert refused.value.denial.status == 400
    with pytest.raises(RequestRefused):
        list(view.measure())
    with pytest.raises(RequestRefused):
        environ["wsgi.input"].read()  # type: ignore[attr-defined]
    view.input().close()


@pytest.mark.parametrize("name", sorted(singleton_headers(ChioSettings())))
def test_a_view_that_is_made_by_hand_knows_the_headers_that_may_occur_only_once(name: str) -> None:
    assert EnvironView({environ_key(name): "a,b"}).repeated_headers() == [name]


@pytest.mark.parametrize("body", [b"", b"x", b"xy", DATA])
@pytest.mark.parametrize("spool_bytes", [0, 10, 10**9])
def test_a_body_of_no_announced_length_is_read_to_its_end_and_none_needs_no_file(body: bytes, spool_bytes: int) -> None:
    environ = {"wsgi.input": OneWay(*([body] if body else [])), "wsgi.input_terminated": True}
    view = EnvironView(environ, limits=BodyLimits(len(DATA), spool_bytes))
    found: list[KnownBody] = []

    def noting() -> MeasureSteps:
        found.append((yield from view.measure()))
        return found[0]

    list(noting())
    assert found == [KnownBody(len(body), hashlib.sha256(body).hexdigest() if body else None)]
    assert environ["wsgi.input"].read() == body  # type: ignore[attr-defined]
    assert is_kept(view.input()) == bool(body)
    view.input().close()


def test_streams_that_do_not_fit_in_files_together_are_503_and_room_is_given_back() -> None:
    limits = BodyLimits(spool_bytes=10, max_spooled=100)
    first = keep(OneWay(b"x" * 60), 60, limits)
    list(measure(first, BodyLimits(1000)))
    with keep(OneWay(b"x" * 60), 60, limits) as second, pytest.raises(RequestRefused) as refused:
        list(measure(second, BodyLimits(1000)))
    assert (refused.value.denial.status, refused.value.denial.code, limits.spooled) == (503, "chio_overloaded", 60)
    first.close()
    assert limits.spooled == 0
