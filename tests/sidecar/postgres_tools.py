"""A PostgreSQL server of the tests' own, on a socket in a temporary folder, and a database for each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chio_sidecar.store.hash_chain import MEMBERS
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import connect
from chio_sidecar.store.postgresql.schema import migrate
from chio_sidecar.store.postgresql.store import PostgresqlReceiptStore
from tests.watchdog import Watchdog

OWNER, ROLE, ARCHIVE_ROLE, TRUST_ROLE = "chio_owner", "chio_sidecar", "chio_archive", "chio_trust"
ERASE_ROLE = "chio_erase"
_NUMBERS = count(1)
_END = """
server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$server"
while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
umount "$1/data" 2>/dev/null
rm -rf "$1"
"""


def binaries() -> Path:
    """Return the folder of `initdb`; without one the test is skipped, in CI it fails."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    if os.environ.get("CI"):
        pytest.fail("there is no PostgreSQL server here, and CI must have one: apt-get install postgresql")
    pytest.skip("there is no PostgreSQL server on this machine (initdb)")


class Server:
    """A server in a folder; the user `postgres`, or `nobody`, runs it if the tests run as root.

    Args:
        room: size of a disk of its own, for example `96m`; without the right to mount one the test is skipped.
        settings: of the server, in place of those that only make the tests fast.
    """

    def __init__(self, *, room: str | None = None, **settings: str) -> None:
        self.folder_of_programs = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            import pwd

            users = {one.pw_name: one for one in pwd.getpwall()}
            who = users.get("postgres") or users["nobody"]
            self._as = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
            os.chown(self.folder, who.pw_uid, who.pw_gid)
        self._data = self.folder / "data"
        self._is_mounted = False
        self._watchdog = Watchdog(_END, self.folder)
        if room is not None:
            self._data.mkdir()
            self.give_room(room, "size={},mode=700" + f",uid={os.stat(self.folder).st_uid}")
            self._is_mounted = True
        initdb = ["initdb", "-D", "data", "-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run(*initdb)
        fast = {"fsync": "off", "max_connections": "200", "deadlock_timeout": "100ms"} | settings
        options = [f"-c{name}={value}" for name, value in fast.items()]
        self._options = " ".join([f"-k {self.folder}", "-c listen_addresses=", *options])
        self.start()
        try:
            with self.connect("postgres") as admin:
                admin.execute(
                    ";".join(f"CREATE ROLE {role} LOGIN" for role in (ROLE, ARCHIVE_ROLE, ERASE_ROLE, TRUST_ROLE))
                )
                admin.execute("CREATE DATABASE chio_template")
            with contextlib.closing(connect(self.place("chio_template", OWNER), seconds=10)) as owner:
                migrate(owner, ROLE, archive_role=ARCHIVE_ROLE, erase_role=ERASE_ROLE, trust_role=TRUST_ROLE)
        except BaseException:
            self.close()
            raise

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self.folder_of_programs / command, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
            **self._as,
        )

    def give_room(self, room: str, options: str = "remount,size={}") -> None:
        """Mount the disk of the server, or make it larger."""
        command = ["mount", "-t", "tmpfs", "-o", options.format(room), "tmpfs", self._data]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            self.close()
            pytest.skip("this user cannot mount a small disk")

    def has(self, command: str) -> bool:
        return (self.folder_of_programs / command).exists()

    def start(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", self._options, "start")

    def restart(self) -> None:
        """Start again, whether the server is up, or has stopped because its disk was full."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "-l", "log", "-o", self._options, "restart")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        if self._is_mounted:
            subprocess.run(["umount", self._data], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._watchdog.close()

    def processes(self) -> list[int]:
        """Return the ids of the server and of what it has started."""
        parent = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
        return [parent, *map(int, children.split())]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop every process of the server; it neither responds nor closes a connection."""
        parent = self.processes()[0]
        os.kill(parent, signal.SIGSTOP)  # first, so that it starts no others
        stopped = self.processes()
        try:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):  # a worker that has come to its end
                    os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def pooled(self, database: str) -> Iterator[DatabasePlace]:
        """Start PgBouncer before a database: two connections, given to clients for a transaction at a time."""
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("PgBouncer is not installed")
        folder = self.folder / f"pool-{database}"
        folder.mkdir()
        (folder / "ini").write_text(
            f"[databases]\n{database} = host={self.folder} user={ROLE}\n[pgbouncer]\nlisten_addr =\n"
            f"unix_socket_dir = {folder}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        )
        if self._as:
            os.chown(folder, self._as["user"], self._as["group"])
        process = subprocess.Popen(
            [program, "ini"], cwd=folder, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **self._as
        )
        try:
            assert process.stderr is not None
            said = ""
            while "process up" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            yield DatabasePlace.parse(f"postgresql:///{database}?host={folder}&port=6432&user={ROLE}")
        finally:
            process.kill()
            process.communicate()

    def url(self, database: str, user: str = ROLE) -> str:
        return f"postgresql:///{database}?host={self.folder}&user={user}"

    def place(self, database: str, user: str = ROLE) -> DatabasePlace:
        return DatabasePlace.parse(self.url(database, user))

    def connect(self, database: str, user: str = OWNER) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database, user), autocommit=True)

    def new_database(self) -> str:
        name = f"t{next(_NUMBERS)}"
        with self.connect("postgres") as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE chio_template")
        return name


class PostgresqlKit:
    refusal: type[Exception] = psycopg.Error

    def __init__(self, server: Server, database: str | None = None) -> None:
        self.server = server
        self.database = database or server.new_database()

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def open(self, **options: Any) -> PostgresqlReceiptStore:
        return PostgresqlReceiptStore(self.server.place(self.database), **options)

    def execute(self, sql: str, user: str = ROLE) -> None:
        with self.server.connect(self.database, user) as connection:
            connection.execute("SET search_path = chio")
            connection.execute(sql)

    def fetch(self, sql: str, user: str = OWNER) -> list[tuple[Any, ...]]:
        with self.server.connect(self.database, user) as connection:
            return connection.execute(sql).fetchall()

    def chained(self) -> list[tuple[int, list[str], str]]:
        rows = self.fetch(f"SELECT seq, {MEMBERS}, chain FROM chio.http_receipts ORDER BY log_id, seq")
        return [(sequence, members, digest) for sequence, *members, digest in rows]
