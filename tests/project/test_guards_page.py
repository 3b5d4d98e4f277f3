"""docs/guards.md is executed: its code runs, and what it shows is what is printed."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.faces.faces import FastAPIFace
from tests.guards.tools import Door
from tests.project.tree import ROOT

TEXT = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(SHOWN,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)


def test_the_first_block_prints_the_chain_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(CODE[0], {"__name__": "page"})
    assert printed.getvalue() == SHOWN


def test_the_guards_of_the_second_block_answer_with_events_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed.html").write_text("<p>closed")
    names: dict[str, object] = {}
    exec(CODE[1], names)
    with FastAPIFace().governed(guards=[names["progress"], names["maintenance"]]) as governed:
        events, closed = governed.get("/progress"), governed.get("/hello", {"x-closed": "1"})
    assert events.body.startswith(b'event: step\nid: 0\ndata: {"done":0}\n\nevent: step\nid: 1\n')
    assert (closed.status, closed.body, closed.headers["content-length"]) == (503, b"<p>closed", "9")


def test_the_guard_of_the_third_block_leaves_its_header_and_learns_the_end() -> None:
    names: dict[str, object] = {}
    exec(CODE[2], names)
    printed = StringIO()
    with redirect_stdout(printed):
        reply = Door(names["version"]).knock()
    assert (reply.header("x-version"), printed.getvalue()) == ("7", "answered 200\n")


def test_the_table_of_priorities_is_that_of_the_code() -> None:
    from chio_core.guards import IpAllow, IpBlock, JwtAuth, RateLimit, RequestId, SecurityHeaders, Stopwatch
    from chio_core.guards.chain import DEFAULT_PRIORITY

    secret = "s" * 32
    made = {
        "Stopwatch": Stopwatch(),
        "RequestId": RequestId(),
        "SecurityHeaders": SecurityHeaders(),
        "IpBlock": IpBlock([]),
        "IpAllow": IpAllow([]),
        "RateLimit": RateLimit("1/minute"),
        "JwtAuth": JwtAuth(key=secret, algorithms=["HS256"]),
        'RateLimit(key="caller")': RateLimit("1/minute", key="caller"),
    }
    table = {
        name: int(number.replace("−", "-"))
        for number, members in re.findall(r"^\| ([−\d]+) \| (.*?) \|", TEXT, re.MULTILINE)
        for name in re.findall(r"`([A-Z][^`]*)`", members)
    }
    assert table == {name: guard.priority for name, guard in made.items()}
    own, inside = f"yours ({DEFAULT_PRIORITY})", RateLimit("1/minute", key="capability").priority
    assert f'| above | {own}, and `RateLimit(key="capability")` ({inside}), which requires `decision` |' in TEXT
