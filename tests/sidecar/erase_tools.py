"""A store in a file and one in a database, for what an erasure does alike in both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from chio_sidecar.store.erase import Erased, Sign, erase, signer
from chio_sidecar.store.hash_chain import MEMBERS
from tests.sidecar.approval_tools import approved, pay
from tests.sidecar.control_tools import key_file, sidecars
from tests.sidecar.fsck_tools import alter, select, tamper
from tests.sidecar.sidecar_tools import AUTHORITY, KERNEL, NOW, SERVER, TOOL, Clock, capability, decision, grant
from tests.sidecar.test_budgets import demand, spend
from tests.support import run

ROWS = f"SELECT seq, {MEMBERS}, chain FROM http_receipts ORDER BY seq"


class World(Protocol):
    """A store, and the ways to it.

    Attributes:
        store: the value of --receipt-store, as somebody who may erase; the key of the sidecar belongs to it.
        refusal: what plain SQL raises that the store refuses.
    """

    store: object
    refusal: type[Exception]

    def app(self) -> Any:
        """Give a sidecar on the store in a `with` block."""

    def rows(self) -> list[tuple[Any, ...]]:
        """Return number, members and digest of each row."""

    def execute(self, sql: str) -> None:
        """Run a statement with the rights to change everything that no trigger forbids."""

    def tamper(self, sql: str) -> None:
        """Run it in spite of the triggers."""

    def erase(self, ids: list[str], sign: Sign) -> list[Erased]:
        """Erase receipts without the command."""


class FileWorld:
    def __init__(self, folder: Path) -> None:
        from chio_sidecar.store.driver import sqlite3

        self.store = self.path = folder / "receipts.sqlite3"
        self.refusal: type[Exception] = sqlite3.IntegrityError
        key_file(folder / "receipts.sqlite3.key")

    @contextmanager
    def app(self) -> Iterator[Any]:
        with sidecars() as create:
            own = {"trusted_issuers": {AUTHORITY.public_hex}, "clock": Clock()}
            yield create(store_path=self.path, signing_key=KERNEL, **own)

    def rows(self) -> list[tuple[Any, ...]]:
        return select(self.path, ROWS)

    def execute(self, sql: str) -> None:
        alter(self.path, sql)

    def tamper(self, sql: str) -> None:
        tamper(self.path, sql)

    def erase(self, ids: list[str], sign: Sign) -> list[Erased]:
        return erase(self.path, ids, sign)[0]


class DatabaseWorld:
    def __init__(self, folder: Path, server: Any) -> None:
        import psycopg

        from tests.sidecar.postgres_tools import ERASE_ROLE, PostgresqlKit

        self.kit = PostgresqlKit(server)
        self.refusal: type[Exception] = psycopg.Error
        self.place = server.place(self.kit.database, ERASE_ROLE)
        self.store = f"{server.url(self.kit.database, ERASE_ROLE)}&key={key_file(folder / 'own.key')}"

    @contextmanager
    def app(self) -> Iterator[Any]:
        from chio_sidecar.config import options_of_place

        with sidecars() as create:
            own = {"trusted_issuers": {AUTHORITY.public_hex}, "clock": Clock()}
            place = self.kit.server.place(self.kit.database)
            yield create(**options_of_place(place), signing_key=KERNEL, **own)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.kit.fetch(ROWS.replace("http_receipts", "chio.http_receipts"))

    def execute(self, sql: str) -> None:
        from tests.sidecar.postgres_tools import OWNER

        self.kit.execute(sql, OWNER)

    def tamper(self, sql: str) -> None:
        self.execute(f"SET session_replication_role = replica; {sql}")

    def erase(self, ids: list[str], sign: Sign) -> list[Erased]:
        from chio_sidecar.store.postgresql import erase as database

        return database.erase(self.place, ids, sign)


def fill(world: World) -> dict[str, str]:
    """Let a sidecar decide requests of each kind; return the id of each receipt by its request id."""

    async def decide(app: Any) -> None:
        await pay(app, "paid", await approved(app))
        for number in range(3):
            await spend(app, f"spent-{number}", demand(2 + number, max_invocations=3))
        token = capability(name="cap-limited", grants=[grant(max_invocations=2)])
        for number in range(2):
            await decision(app, token, tool_server=SERVER, tool_name=TOOL, request_id=f"limited-{number}")
        for number in range(4):
            await decision(app, request_id=f"plain-{number}", path=f"/people/ada-{number}")

    with world.app() as app:
        run(decide(app))
    return {row[3]: row[1] for row in world.rows()}


def kill_while_erasing(erase: Callable[[list[str], Sign], list[Erased]], ids: list[str], steps: int) -> None:
    """Erase in a process of its own, which is killed after so many rows are replaced; after all: when it is done."""
    genuine = signer(KERNEL, reason="killed", now=NOW)
    calls = 0

    def sign(*arguments: Any) -> Any:
        nonlocal calls
        if calls == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return genuine(*arguments)

    if (child := os.fork()) == 0:
        erase(ids, sign)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
