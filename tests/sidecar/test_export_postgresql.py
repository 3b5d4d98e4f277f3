"""`receipt export` of a database: each log is a chain of its own, and none can be missing unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from chio_sidecar.config import options_of_place
from tests.sidecar.control_tools import CommandLine, key_file, sidecars
from tests.sidecar.postgres_tools import PostgresqlKit, Server
from tests.sidecar.sidecar_tools import AUTHORITY, KERNEL, NOW, capability, decision
from tests.support import run
from tests.viewer.records import KEY

KEYS = ("--trusted-key", KERNEL.public_hex, "--trusted-key", KEY.public_hex)


@pytest.fixture
def url(server: Server, tmp_path: Path) -> str:
    """A database with two logs, of two receipts and of one, a second apart, and the key of the first sidecar."""
    kit, token = PostgresqlKit(server), capability()
    clock = iter(range(NOW, NOW + 1_000))
    own = {**options_of_place(kit.server.place(kit.database)), "trusted_issuers": {AUTHORITY.public_hex}}

    async def fill(one: Any, two: Any) -> None:
        for app, name in ((one, "a"), (two, "b"), (one, "c")):
            await decision(app, token, method="POST", request_id=name)

    with sidecars() as create:
        run(fill(*(create(**own, clock=lambda: float(next(clock)), signing_key=key) for key in (KERNEL, KEY))))
    return f"{kit.url}&key={key_file(tmp_path / 'own.key')}"


@pytest.fixture
def export(url: str, tmp_path: Path, cli: CommandLine) -> Path:
    cli("receipt", "export", "--receipt-store", url, tmp_path / "export")
    return tmp_path / "export"


def test_each_log_is_a_chain_of_its_own_with_a_signed_head(export: Path, cli: CommandLine) -> None:
    out = cli("receipt", "verify", export, *KEYS)
    for line in ("log-1 rows 1 to 2", "log-2 rows 1 to 1", "deny      3"):
        assert line in out or line.replace("deny ", "allow") in out
    assert out.count(f", signed by {KERNEL.public_hex}") == 2
    assert "3 receipts: 3 valid, 0 invalid" in cli.err
    # A log is an export too, with the same format as of a file.
    assert "rows      1 to 2" in cli("receipt", "verify", export / "log-1", *KEYS)


def lose_log(folder: Path) -> None:
    shutil.rmtree(folder / "log-2")


def unlist_log(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["logs"]["log-2"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def swap_logs(folder: Path) -> None:
    for old, new in (("log-1", "x"), ("log-2", "log-1"), ("x", "log-2")):
        (folder / old).rename(folder / new)


def drop_receipt(folder: Path) -> None:
    texts = folder / "log-1" / "receipts.ndjson"
    texts.write_text("".join(texts.read_text().splitlines(keepends=True)[1:]))


def change_receipt(folder: Path) -> None:
    texts = folder / "log-2" / "receipts.ndjson"
    texts.write_text(texts.read_text().replace('"POST"', '"GET"'))


@pytest.mark.parametrize(
    ("edit", "status", "said"),
    [
        (lose_log, 3, "log-2, which manifest.json lists"),
        (unlist_log, 1, "the signed statement is about other logs"),
        (swap_logs, 1, "its head is not the one that manifest.json beside the logs states"),
        (drop_receipt, 3, "log-1: 1 of the receipts that chain.ndjson lists"),
        (change_receipt, 1, "INVALID signature"),
    ],
)
def test_what_is_missing_or_changed_is_refused(
    edit: Callable[[Path], None], status: int, said: str, export: Path, cli: CommandLine
) -> None:
    edit(export)
    assert said in cli("receipt", "verify", export, *KEYS, status=status) + cli.err


def test_a_time_exports_the_logs_that_have_receipts_of_it(url: str, tmp_path: Path, cli: CommandLine) -> None:
    times = [
        json.loads(line)["timestamp"] for line in cli("receipt", "list", "--json", "--receipt-store", url).splitlines()
    ]
    cli("receipt", "export", "--receipt-store", url, tmp_path / "last", "--since", max(times))
    assert [one.name for one in sorted((tmp_path / "last").iterdir())] == ["README.md", "log-1", "manifest.json"]
    assert "1 receipt: 1 valid" in cli("receipt", "verify", tmp_path / "last", *KEYS) + cli.err
    said = cli.fails("receipt", "export", "--receipt-store", url, tmp_path / "none", "--since", max(times) + 1)
    assert "has no receipt of that time" in said
    assert not (tmp_path / "none").exists()
