"""A store that is gone takes no revocation, budget or approval back: no new one is made in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor.store import check_store
from chio_sidecar.embedded import check_embedded, open_embedded
from chio_sidecar.store import Revoked, StoreUnavailable
from chio_sidecar.store.live_state import mark_of
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.trust.stores import RevocationStore
from tests.sidecar.approval_tools import approved, pending_id
from tests.sidecar.control_tools import CommandLine
from tests.sidecar.fsck_tools import older
from tests.sidecar.sidecar_tools import KERNEL, SERVER, TOOL, capability, decision, grant, sidecar
from tests.sidecar.store_conformance import entry
from tests.sidecar.test_budgets import demand, spend
from tests.support import run


async def _use(app: Any) -> None:
    await decision(app, capability(grants=[grant(max_invocations=5)]), tool_server=SERVER, tool_name=TOOL)


STATE: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "a revocation": lambda app: app.state.sidecar.store.revoke("cap-1"),
    "a use of a limited grant": _use,
    "a charge": lambda app: spend(app, 1, demand(2, max_invocations=9)),
    "a pending approval": pending_id,
    "an approval": approved,
}


@pytest.mark.parametrize("kind", STATE)
async def test_a_sidecar_whose_store_was_moved_away_does_not_start(kind: str, tmp_path: Path) -> None:
    path, away, key = (tmp_path / name for name in ("receipts.sqlite3", "archive", "receipts.sqlite3.key"))
    async with sidecar(tmp_path) as app:
        await STATE[kind](app)
    key.touch(mode=0o600)
    key.write_text(KERNEL.seed_hex())
    path.rename(away)
    for empty in (False, True):
        if empty:
            path.touch(mode=0o600)
        with pytest.raises(ConfigurationError, match=r"is gone, and .*\.state says .* put the file or a backup back"):
            open_embedded(str(path), environ={})
    away.replace(path)
    open_embedded(str(path), environ={})
    path.unlink()
    mark_of(path).unlink()  # what the message says to start without them
    open_embedded(str(path), environ={})


async def test_a_token_that_was_revoked_stays_revoked_while_the_store_moves(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path)
    await store.revoke("cap-1")
    path.rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable, match="moved or replaced"):
        await store.append(entry(1, unless_revoked=("cap-1",)))
    await store.close()
    with pytest.raises(ConfigurationError, match="is gone"):
        SqliteReceiptStore(path)
    (tmp_path / "away").rename(path)
    store = SqliteReceiptStore(path)
    assert await store.append(entry(1, unless_revoked=("cap-1",))) == Revoked("cap-1")
    await store.close()


async def test_a_store_with_receipts_alone_may_be_moved_away(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        await decision(app)
    (tmp_path / "receipts.sqlite3").unlink()
    async with sidecar(tmp_path) as app:
        await decision(app)
    assert not mark_of(tmp_path / "receipts.sqlite3").exists()


async def test_nothing_is_revoked_if_the_mark_cannot_be_written(tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / ("r" * 235))  # which leaves no room for a longer name
    with pytest.raises(StoreUnavailable, match=r"\.state cannot be written: File name too long"):
        await store.revoke("cap-1")
    assert not await store.is_revoked("cap-1")
    await store.append(entry(1))
    await store.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_store_has_the_mark_once_a_sidecar_has_opened_it(version: int, tmp_path: Path) -> None:
    path = older(tmp_path / "r", version)
    run(SqliteReceiptStore(path).close())
    path.unlink()
    with pytest.raises(ConfigurationError, match="is gone"):
        SqliteReceiptStore(path)


def test_the_checks_before_a_start_say_that_the_store_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "r"
    mark_of(path).touch()
    with pytest.raises(ConfigurationError, match="is gone"):
        check_embedded(str(path), environ={})
    found = {check.name: check for check in check_store(path)}["store"]
    assert (found.status, found.text) == (
        "fail",
        f"{path} is gone, and {path}.state says that revocations, budgets or approvals were recorded in it",
    )


def test_a_trust_service_whose_revocations_were_moved_away_does_not_start(tmp_path: Path, cli: CommandLine) -> None:
    path = tmp_path / "revoked"
    store = RevocationStore(path)
    store.revoke("cap-1")
    store.close()
    path.rename(tmp_path / "away")
    for command in ("revoke", "status"):
        error = cli.fails("trust", command, "--capability-id", "cap-1", "--revocation-db", path)
        assert f"database of --revocation-db {path} is gone" in error
    (tmp_path / "away").rename(path)
    assert "true" in cli("trust", "status", "--capability-id", "cap-1", "--revocation-db", path)
