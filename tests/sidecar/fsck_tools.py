"""Stores that a sidecar filled, and what somebody else does to them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from chio_sidecar.records.fsck import Finding, Inspection, Summary
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.approval_tools import approved, ask, pay, pending_id
from tests.sidecar.sidecar_tools import KERNEL, SERVER, TOOL, capability, decision, grant, run, sidecar
from tests.sidecar.test_budgets import demand, spend


def fill(folder: Path, plain: int) -> Path:
    """Let a sidecar answer so many plain requests, and some that leave a row in each other table; return the store."""

    path = folder / "receipts.sqlite3"

    async def main() -> None:
        async with sidecar(folder) as app:
            approval = await approved(app)
            await pay(app, "paid", approval)
            await ask(app, "asked-again")
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
    """Return everything that fsck says; the file must be signed by the sidecar of `fill`."""
    inspection = Inspection(path, trusted_keys={KERNEL.public_hex} if trusted is None else trusted, kept=kept)
    with closing(inspection):
        return list(inspection.findings()), inspection.summary


def select(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def tamper(path: Path, *statements: str) -> None:
    """Do what the triggers forbid, as somebody who may write the file can, and leave the triggers as they were."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in (*statements, *(sql for _, sql in triggers)):
            connection.execute(statement)
        connection.commit()
