"""Pages of a long database: what the database does for each filter, as it explains itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("psycopg")

from chio_core.canonical import compact_json
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.export_postgresql import open_logs
from chio_sidecar.records.fsck_postgresql import DatabaseInspection
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.store.place import DatabasePlace, Place
from tests.sidecar.control_tools import CommandLine
from tests.sidecar.postgres_tools import OWNER, PostgresqlKit, Server
from tests.viewer.records import receipt

TEMPLATE = receipt(
    1,
    id="@id",
    request_id="@request",
    caller_identity_hash="@caller",
    route_pattern="/orders/@route/items",
    verdict={"verdict": "@verdict"},
    capability_id="cap-@capability",
    metadata={"padding": "x" * 700},
)
FILL = """
INSERT INTO chio.http_receipts (log_id, seq, id, receipt_json, request_id, fingerprint, created_at, chain)
SELECT 1, n, 'r' || n, replace(replace(replace(replace(replace(replace(%s, '@id', 'r' || n), '@request', 'q' || n),
    '@caller', repeat(md5((n %% 5000)::text), 2)), '@route', (n %% 40)::text), '@capability', (n %% 20000)::text),
    '@verdict', CASE WHEN n %% 997 = 0 THEN 'deny' ELSE 'allow' END), 'q' || n, 'f', '', ''
FROM generate_series(1, %s) AS n
"""
CALLER = "a87ff679a2f3e71d9181a67b7542122c" * 2  # MD5 of 4
FILTERS = {
    "all": ReceiptFilter(),
    "refused": ReceiptFilter(outcome="deny"),
    "cancelled, which none is": ReceiptFilter(outcome="cancel"),
    "of a capability": ReceiptFilter(capability_id="cap-7"),
    "of no capability": ReceiptFilter(capability_id="cap-none"),
    "of a caller": ReceiptFilter(caller=CALLER),
    "refused, of a caller": ReceiptFilter(outcome="deny", caller=CALLER),
    "a part of a caller": ReceiptFilter(caller="4b227777d4dd"),
    "a route": ReceiptFilter(route="ORDERS/39"),
    "no route": ReceiptFilter(route="other"),
    "another method": ReceiptFilter(method="PATCH"),
    "an operation": ReceiptFilter(tool_name="POST /other"),
    "a part of a capability": ReceiptFilter(capability="none"),
}
PAGES: dict[str, Callable[[Place, ReceiptFilter], object]] = {
    "viewer": lambda place, wanted: ReceiptWindow(place).list(wanted),
    "count": lambda place, wanted: ReceiptWindow(place).count(wanted),
    "newest": lambda place, wanted: ReceiptWindow(place).newest(),
}


class Explained:
    """A database that logs the plan and the time of each statement.

    Args:
        server: where it is made.
        rows: number of its receipts.
    """

    def __init__(self, server: Server, rows: int) -> None:
        kit = PostgresqlKit(server)
        self.place = server.place(kit.database)
        self.log = server.folder / "log"
        with server.connect(kit.database, OWNER) as owner:
            try:
                owner.execute("LOAD 'auto_explain'")
            except Exception as exc:  # noqa: BLE001 - of the database
                pytest.skip(f"this server cannot explain what it does: {exc}")
            owner.execute(FILL, (compact_json(TEMPLATE), rows))
            owner.execute(
                "INSERT INTO chio.logs (epoch, holder, leased_until, seq, digest) VALUES (1, '', now(), %s, '')",
                (rows,),
            )
            owner.execute("VACUUM ANALYZE chio.http_receipts")
            settings = {
                "session_preload_libraries": "auto_explain",
                "auto_explain.log_min_duration": "0",
                "auto_explain.log_nested_statements": "on",
                # A short table is read whole, if that is allowed, whatever indexes it has.
                "enable_seqscan": "on" if rows > 100_000 else "off",
                "jit": "on" if rows > 100_000 else "off",
            }
            for name, value in settings.items():
                owner.execute(f"ALTER DATABASE {kit.database} SET {name} = '{value}'")

    def plans(self, read: Callable[[], object]) -> tuple[str, float]:
        """Return the plans of what `read` does, and the milliseconds that they took together."""
        before = self.log.stat().st_size
        read()
        with self.log.open("rb") as log:
            log.seek(before)
            text = log.read().decode("utf-8", "replace")
        return text, sum(map(float, re.findall(r"duration: ([0-9.]+) ms  plan:", text)))


@pytest.fixture(scope="module")
def rows(full_size: bool) -> int:
    return 1_000_000 if full_size else 5_000


@pytest.fixture(scope="module")
def explained(server: Server, rows: int) -> Explained:
    return Explained(server, rows)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_page_is_read_by_an_index_and_takes_less_than_50_ms_of_the_database(
    name: str, page: str, explained: Explained, full_size: bool, record_property: Any
) -> None:
    plans, took = explained.plans(lambda: PAGES[page](explained.place, FILTERS[name]))
    assert "Scan" in plans
    assert "Seq Scan on http_receipts" not in plans
    record_property("milliseconds", took)
    print(f"{page}, {name}: {took:.1f} ms")
    assert took < 50 or not full_size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "statements"),
    [
        ("receipt list --limit 20", 2),
        ("receipt show r77", 1),
        ("receipt diff", 3),
        ("explain r997", 1),
        ("explain q997", 2),
        ("doctor", 1),
    ],
)
def test_no_statement_of_a_command_reads_the_whole_table_or_takes_50_ms_of_the_database(
    command: str, statements: int, explained: Explained, cli: CommandLine, full_size: bool
) -> None:
    plans, _ = explained.plans(lambda: cli("--receipt-store", explained.place.url, *command.split(), status=None))
    took = [float(text) for text in re.findall(r"duration: ([0-9.]+) ms  plan:", plans)]
    assert len(re.findall(r"on (?:chio\.)?http_receipts", plans)) >= statements
    assert "Seq Scan on http_receipts" not in plans
    print(f"{command}: {len(took)} statements of at most {max(took):.1f} ms")
    assert max(took) < 50 or not full_size


@pytest.mark.parametrize("name", ["refused", "of a capability", "of a caller"])
def test_a_filter_with_an_index_reads_no_other_receipts(name: str, explained: Explained) -> None:
    index = {"refused": "refused", "of a capability": "capability_id", "of a caller": "caller_identity_hash"}[name]
    plans, _ = explained.plans(lambda: PAGES["viewer"](explained.place, FILTERS[name]))
    assert f"http_receipts_{index}" in plans


def exported(place: Place) -> int:
    assert isinstance(place, DatabasePlace)
    with open_logs(place) as logs:
        return len(list(islice(logs[0].stored(2_001, 5_000), 1_200)))


def checked(place: Place) -> int:
    assert isinstance(place, DatabasePlace)
    with closing(DatabaseInspection(place)) as inspection:
        return len({finding.row for finding in islice(inspection.parts()[0].findings(), 4_000)})


@pytest.mark.parametrize("read", [exported, checked])
def test_a_page_of_a_log_is_read_by_the_number_of_its_first_row(
    read: Callable[[Place], int], explained: Explained
) -> None:
    found: list[int] = []
    plans, _ = explained.plans(lambda: found.append(read(explained.place)))
    pages = [plan for plan in plans.split("Query Text: ")[1:] if "ORDER BY seq LIMIT 500" in plan]
    assert found[0] >= 1_000
    assert len(pages) >= 2  # of three: the last is logged as its transaction ends
    for page in pages:
        assert "Index Scan using http_receipts_log_id_seq_key" in page
        assert "Sort" not in page


def test_a_page_that_ends_early_is_continued_until_every_match_is_found(explained: Explained, rows: int) -> None:
    window, found, before = ReceiptWindow(explained.place), [], None
    for _ in range(rows):
        listing = window.list(FILTERS["a route"], before=before)
        found += [row["seq"] for row in listing.rows]
        before = listing.next
        if before is None or len(found) > 500:
            break
    assert found == sorted((n for n in range(1, rows + 1) if n % 40 == 39), reverse=True)[: len(found)]
    with open_archive(explained.place) as archive:
        assert [number for number, _ in archive.rows(FILTERS["of a capability"])] == list(range(7, rows + 1, 20_000))


def test_a_download_has_the_matches_that_more_than_one_page_finds(explained: Explained, rows: int) -> None:
    matches = sum(str(number % 20_000).startswith("77") for number in range(1, rows + 1))
    found = ReceiptWindow(explained.place).texts(ReceiptFilter(capability="cap-77"), limit=50)
    assert (len(found.texts), found.complete) == (min(matches, 50), matches <= 50)
