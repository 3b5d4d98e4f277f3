"""`capability issue`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import verify_capability
from chio_core.signing import SigningKey
from chio_sidecar.cli import main
from chio_sidecar.trust.authorities import SqliteAuthority
from tests.sidecar.control_tools import NOBODY, evaluate, sidecars

GRANT = ("capability", "issue", "--server", "http-sidecar-client", "--tool", "hello_write")


def issue(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*GRANT, *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert text.count("\n") == 1
    assert " " not in text
    token: dict[str, Any] = json.loads(text)
    return token


def test_a_token_signed_with_the_sidecars_key_opens_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "receipts.sqlite3"
    for option in ("--embedded", "--receipt-store", "--receipt-db"):
        token = issue(capsys, option, store)
        with sidecars() as create:
            assert evaluate(create(store_path=store), token, request_id=option)["verdict"] == {"verdict": "allow"}
    assert stat.S_IMODE((tmp_path / "receipts.sqlite3.key").stat().st_mode) == 0o600


def test_a_new_key_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = tmp_path / "seed"
    assert main([*GRANT, "--authority-seed-file", str(seed)]) == 0
    captured = capsys.readouterr()
    key = SigningKey.from_seed_hex(seed.read_text())
    assert captured.err == f"created signing key {seed}, public key {key.public_hex}\n"
    assert key.seed_hex() not in captured.err + captured.out


def test_the_defaults_are_one_hour_invoke_and_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = issue(capsys, "--authority-seed-file", tmp_path / "seed")
    assert token["subject"] == NOBODY
    assert token["expires_at"] - token["issued_at"] == 3600
    assert token["scope"] == {
        "grants": [{"server_id": "http-sidecar-client", "tool_name": "hello_write", "operations": ["invoke"]}]
    }


def test_every_option_is_in_the_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constraint = {"type": "path_prefix", "value": "/ä"}
    options: list[object] = ["--operation", "invoke", "--operation", "read", "--max-invocations", 3, "--ttl", 7]
    options += ["--constraint", json.dumps(constraint, separators=(",", ":")), "--subject", "0x" + "A" * 64]
    token = issue(capsys, "--authority-seed-file", tmp_path / "seed", "--for-newer", *options)
    own, newer = token["scope"]["grants"]
    assert own["operations"] == ["invoke", "read"]
    assert (own["constraints"], own["max_invocations"]) == ([constraint], 3)
    assert newer == {
        "server_id": "chio_http_authority",
        "tool_name": "authorize_http_request",
        "operations": ["invoke"],
    }
    assert (token["subject"], token["expires_at"] - token["issued_at"]) == ("a" * 64, 7)
    key = SigningKey.from_seed_hex((tmp_path / "seed").read_text())
    verify_capability(token, trusted_issuers={key.public_hex}, accept_schema_form=False)


def test_an_authority_database_signs_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRANT, "--authority-db", str(tmp_path / "a.db")]) == 1
    assert "there is no authority database" in capsys.readouterr().err
    authority = SqliteAuthority(tmp_path / "a.db")
    token = issue(capsys, "--authority-db", tmp_path / "a.db")
    verify_capability(token, trusted_issuers=authority.status().trusted_keys)
    authority.close()


@pytest.mark.parametrize("arguments", [[], ["--embedded", "a", "--authority-seed-file", "b"]])
def test_exactly_one_issuer_must_be_named(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main([*GRANT, *arguments]) == 1
    assert "exactly one issuer must be named" in capsys.readouterr().err


@pytest.mark.parametrize("constraint", ['{"type":"nonsense"}', '{"type":"max_length","value":"x"}'])
def test_a_constraint_of_another_form_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], constraint: str
) -> None:
    assert main([*GRANT, "--embedded", str(tmp_path / "s"), "--constraint", constraint]) == 1
    assert "the grant cannot be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = tmp_path / "seed"
    seed.write_text("ab" * 32 + "\n")
    seed.chmod(0o644)
    assert main([*GRANT, "--authority-seed-file", str(seed)]) == 1
    error = capsys.readouterr().err
    assert "chmod 600" in error
    assert "ab" * 32 not in error
