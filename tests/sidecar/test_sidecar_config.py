"""Settings of the sidecar, and the embedded one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_sidecar.cli import build_parser
from chio_sidecar.cli.api_protect import configuration
from chio_sidecar.config import SidecarConfig, control_token_from, trusted_issuers_from
from chio_sidecar.embedded import check_embedded, open_embedded, own_key
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.control_tools import write_store
from tests.sidecar.sidecar_tools import AUTHORITY, KERNEL, NOW, STRANGER, capability, decision
from tests.viewer.records import receipt

A, B = AUTHORITY.public_hex, STRANGER.public_hex


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, set()),
        ({"CHIO_TRUSTED_ISSUER_KEY": A}, {A}),
        ({"CHIO_TRUSTED_ISSUER_KEY": f" 0x{A.upper()} "}, {A}),
        ({"CHIO_TRUSTED_ISSUER_KEYS": f"{A}, {B},"}, {A, B}),
        ({"CHIO_TRUSTED_ISSUER_KEY": A, "CHIO_TRUSTED_ISSUER_KEYS": B}, {A, B}),
        ({"CHIO_TRUSTED_ISSUER_KEY": "", "CHIO_TRUSTED_ISSUER_KEYS": " "}, set()),
    ],
)
def test_trusted_issuers_add_up(environ: dict[str, str], expected: set[str]) -> None:
    assert trusted_issuers_from(environ) == expected


@pytest.mark.parametrize("name", ["CHIO_TRUSTED_ISSUER_KEY", "CHIO_TRUSTED_ISSUER_KEYS"])
def test_a_bad_issuer_key_names_its_variable(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        trusted_issuers_from({name: "private-text"})
    assert caught.value.message.startswith(f"failed to parse {name} as a public key: ")
    assert "private-text" not in caught.value.message


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"CHIO_SIDECAR_CONTROL_TOKEN": " t "}, "t"),
        ({"CHIO_API_PROTECT_CONTROL_TOKEN": "u"}, "u"),
        ({"CHIO_SIDECAR_CONTROL_TOKEN": "t", "CHIO_API_PROTECT_CONTROL_TOKEN": "u"}, "t"),
        ({"CHIO_SIDECAR_CONTROL_TOKEN": " ", "CHIO_API_PROTECT_CONTROL_TOKEN": "u"}, None),
    ],
)
def test_the_control_token_has_an_older_name(environ: dict[str, str], expected: str | None) -> None:
    token = control_token_from(environ)
    assert (None if token is None else token.get_secret_value()) == expected


@pytest.mark.parametrize("url", ["trust:8940", "ftp://x", "http://", "", "http://x:port", "http://x:99999"])
def test_a_malformed_control_url_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="control_url must be"):
        SidecarConfig(store_path=tmp_path / "r", control_url=url)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"control_url": "http://name:canary@trust.test"}, "control_url holds a user name"),
        ({"control_url": "http://trust.test"}, "control_url needs control_carrier"),
        ({"control_service_token": SecretStr("canary\r\nx: y")}, "control_service_token must be printable ASCII"),
        ({"control_service_token": SecretStr("canary\u00e9")}, "control_service_token must be printable ASCII"),
    ],
)
def test_a_trust_service_that_cannot_be_asked_is_refused_without_the_secret(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        SidecarConfig(store_path=tmp_path / "r", **options)
    assert "canary" not in caught.value.message


def test_the_text_of_a_configuration_shows_no_secret(tmp_path: Path) -> None:
    config = SidecarConfig(
        store_path=tmp_path / "r",
        signing_key=KERNEL,
        control_token=SecretStr("control-secret"),
        control_service_token=SecretStr("service-secret"),
    )
    text = f"{config!r} {config}"
    assert "secret" not in text.replace("SecretStr", "")
    assert KERNEL.seed_hex() not in text


def test_at_least_one_evaluation_must_be_possible(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_pending is 0"):
        SidecarConfig(store_path=tmp_path / "r", max_pending=0)
    for name in ("max_per_second", "max_unknown_per_second"):
        with pytest.raises(ConfigurationError, match=f"{name} is 0"):
            SidecarConfig(store_path=tmp_path / "r", **{name: 0})


@pytest.mark.parametrize("described", [True, False])
def test_a_limit_of_unknown_paths_that_limits_nothing_is_named(
    described: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (spec := tmp_path / "openapi.json").write_text('{"openapi": "3.1.0", "info": {}, "paths": {}}')
    source = ["--spec", str(spec)] if described else ["--upstream", "http://127.0.0.1:1"]
    args = build_parser().parse_args(["api", "protect", *source, "--max-unknown-paths-per-second", "5"])
    assert configuration(args, tmp_path / "receipts.sqlite3").max_unknown_per_second == 5
    assert ("--max-unknown-paths-per-second limits nothing" in capsys.readouterr().err) is not described


async def test_an_embedded_sidecar_has_its_key_beside_its_store(tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite3"
    sidecar = open_embedded(str(path), environ={"CHIO_TRUSTED_ISSUER_KEY": A})
    try:
        receipt = (await decision(sidecar.app))["receipt"]
        assert receipt["kernel_key"] == sidecar.public_key
        token = capability(issued=receipt["timestamp"] - 5)
        assert (await decision(sidecar.app, token, method="POST", request_id="r2"))["verdict"]["verdict"] == "allow"
    finally:
        await sidecar.close()
    for name in ("receipts.sqlite3", "receipts.sqlite3.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    again = open_embedded(str(path), environ={})
    assert again.public_key == sidecar.public_key
    await again.close()
    assert receipt["timestamp"] > NOW


async def test_an_embedded_sidecar_reads_a_specification(tmp_path: Path) -> None:
    spec = tmp_path / "open api.yaml"
    text = "openapi: 3.0.3\ninfo: {}\npaths: {/pets/{p}: {get: {x-chio-side-effects: true}}}\n"
    spec.write_text(text.replace("/pets/{p}", "'/pets/{p}'"))
    sidecar = open_embedded(f"{tmp_path}/r.sqlite3?spec={str(spec).replace(' ', '%20')}", environ={})
    try:
        answer = await decision(sidecar.app)
        assert answer["verdict"]["verdict"] == "deny"
        assert answer["receipt"]["route_pattern"] == "/pets/{p}"
        assert answer["receipt"]["policy_hash"] == sha256_hex(spec.read_bytes())
    finally:
        await sidecar.close()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?spec=missing.yaml", "cannot read the OpenAPI document"),
        ("?spec=/", "cannot read the OpenAPI document"),
        ("?other=1", "takes one option"),
        ("?spec=a&spec=b", "takes one option"),
    ],
)
def test_a_bad_option_of_an_embedded_sidecar_is_named(query: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_embedded(f"{tmp_path}/r.sqlite3{query}", environ={})


@pytest.mark.parametrize("path", ["", "?spec=x"])
def test_an_embedded_sidecar_needs_a_path(path: str) -> None:
    with pytest.raises(ConfigurationError, match="needs the path"):
        open_embedded(path, environ={})


def test_an_embedded_sidecar_raises_at_once_for_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("this is no database, and it is long enough to be one " * 100)
    with pytest.raises(ConfigurationError, match=r"cannot use .* as a receipt store"):
        open_embedded(str(tmp_path / "r"), environ={})


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_file_of_another_program_that_is_named_as_store_is_left_as_it_is(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "app.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    path.chmod(mode)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="database of another program"):
        open_embedded(str(path), environ={})
    assert [one.name for one in tmp_path.iterdir()] == ["app.sqlite3"]
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (mode, before)


def test_a_text_file_that_is_named_as_store_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a store\n" * 100)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="not a database"):
        open_embedded(str(path), environ={})
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("path", [".", "/", "?spec=x"])
def test_a_folder_or_nothing_is_no_store(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no file; name one|needs the path of a receipt store"):
        open_embedded(path, environ={})


@pytest.mark.parametrize("start", [open_embedded, check_embedded, own_key], ids=["open", "check", "issue"])
def test_an_embedded_sidecar_refuses_to_replace_the_lost_key_of_its_receipts(
    start: Callable[[str], object], tmp_path: Path
) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt(1)])
    with pytest.raises(ConfigurationError) as caught:
        start(str(store))
    assert f"key file {store}.key is missing" in caught.value.message
    assert f"were signed with {receipt(1)['kernel_key']}; restore the file" in caught.value.message
    assert not Path(f"{store}.key").exists()


def test_a_damaged_newest_receipt_does_not_hide_that_the_key_is_lost(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.sqlite3", [receipt(1), receipt(2)])
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        of_receipts = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'http_receipts'"
        triggers = connection.execute(of_receipts).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE http_receipts SET receipt_json = '{' WHERE seq = 2")
        for _, statement in triggers:
            connection.execute(statement)
    with pytest.raises(ConfigurationError, match=f"were signed with {receipt(1)['kernel_key']}"):
        open_embedded(str(store))


def test_an_embedded_sidecar_makes_the_key_of_a_store_without_receipts(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.sqlite3", [])
    assert own_key(str(store)).public_hex == own_key(str(store)).public_hex
    assert Path(f"{store}.key").exists()
