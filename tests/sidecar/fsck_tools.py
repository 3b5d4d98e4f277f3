"""Stores that a sidecar filled, or an older version, and changes that no sidecar makes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.fsck_chain import Finding, Heads, Summary
from chio_sidecar.store.driver import open_file, sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.approval_tools import approved, pay, pending_id, request_payment
from tests.sidecar.sidecar_tools import KERNEL, SERVER, TOOL, capability, decision, grant, sidecar
from tests.sidecar.test_budgets import demand, spend
from tests.support import run


def fill(folder: Path, plain: int) -> Path:
    """Let a sidecar decide so many plain requests, and some that leave a row in each other table; return the store."""
    path = folder / "receipts.sqlite3"

    async def main() -> None:
        async with sidecar(folder) as app:
            approval = await approved(app)
            await pay(app, "paid", approval)
            await request_payment(app, "asked-again")
            await pending_id(app, "open", path="/pay/8", route_pattern="/pay/8")
            for number in range(3):
                await spend(app, f"spent-{number}", demand(2 + number, max_invocations=9))
            token = capability(name="cap-limited", grants=[grant(max_invocations=5)])
            for number in range(2):
                await decision(app, token, tool_server=SERVER, tool_name=TOOL, request_id=f"limited-{number}")
            for number in range(plain):
                await decision(app, request_id=f"plain-{number}", path=f"/pets/{number}")
        store = SqliteReceiptStore(path)
        await store.revoke("cap-revoked")
        await store.close()

    run(main())
    return path


def inspect(path: Path, *, kept: str | None = None, trusted: set[str] | None = None) -> tuple[list[Finding], Summary]:
    """Return everything that fsck says; without `trusted`, receipts must be signed by the sidecar of `fill`."""
    keys = {KERNEL.public_hex} if trusted is None else trusted
    heads = Heads([] if kept is None else [kept])
    with closing(Inspection(path, trusted_keys=keys, heads=heads)) as inspection:
        return list(inspection.findings()), inspection.summary


def select(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(open_file(path, "mode=ro")) as connection:
        return connection.execute(sql).fetchall()


def alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def tamper(path: Path, *statements: str) -> None:
    """Do what the triggers forbid, as a process with write access can, and leave the triggers as they were."""
    triggers = select(path, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    drops = [f"DROP TRIGGER {name}" for name, _ in triggers]
    alter(path, "PRAGMA synchronous=OFF", *drops, *statements, *(str(sql) for _, sql in triggers))


def older(path: Path, version: int, *statements: str) -> Path:
    """Make a store as an older version did."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(__file__).with_name(f"store_version_{version}.sql").read_text(encoding="utf-8"))
    alter(path, *statements)
    path.chmod(0o600)
    return path
