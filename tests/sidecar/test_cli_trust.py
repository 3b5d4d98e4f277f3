"""`trust revoke` and `trust status` on a file (wire protocol, section 10.4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chio_sidecar.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_revoke_and_status_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--capability-id", "cap-1", "--revocation-db", tmp_path / "r.db")
    assert run(capsys, "trust", "revoke", *place) == (
        "capability_id: cap-1\nrevoked:       true\nnewly_revoked: true\nbackend:       sqlite\n"
    )
    assert run(capsys, "trust", "revoke", *place).splitlines()[2] == "newly_revoked: false"
    assert run(capsys, "trust", "status", *place) == (
        "capability_id: cap-1\nrevoked:       true\nbackend:       sqlite\n"
    )


def test_revoke_and_status_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--json", "--capability-id", "cap-1", "--revocation-db", tmp_path / "r.db")
    before = {"capability_id": "cap-1", "revoked": False, "revocation_backend": "sqlite"}
    assert json.loads(run(capsys, "trust", "status", *place)) == before
    assert json.loads(run(capsys, "trust", "revoke", *place)) == {
        "capability_id": "cap-1",
        "revoked": True,
        "newly_revoked": True,
        "revocation_backend": "sqlite",
    }


def test_a_blank_id_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "revoke", "--capability-id", " ", "--revocation-db", str(tmp_path / "r.db")]) == 1
    assert "--capability-id is blank" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.db").write_text("no database " * 100)
    assert main(["trust", "status", "--capability-id", "c", "--revocation-db", str(tmp_path / "r.db")]) == 1
    assert "r.db (--revocation-db) as a database" in capsys.readouterr().err
