"""What the doctor finds, one check at a time."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_sidecar.doctor import Check, guarded
from chio_sidecar.doctor.environment import Sources, check_distributions, check_names, check_settings, check_versions
from chio_sidecar.doctor.sidecar import check_sidecar
from chio_sidecar.doctor.store import Patience, check_store
from chio_sidecar.keys import load_or_create_key
from chio_sidecar.records.file import last_kernel_key
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.control_tools import evaluate, sidecars
from tests.sidecar.fsck_tools import alter

KEY, OTHER = SigningKey(b"\x21" * 32), SigningKey(b"\x22" * 32)
NOW = 1_776_272_775.0
NOTHING = Sources(frozenset(), frozenset())


def by_name(checks: Iterator[Check] | list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_each_setting_is_shown_with_its_value_and_source() -> None:
    sources = Sources(frozenset({"CHIO_TIMEOUT", "CHIO_FAIL_OPEN"}), frozenset({"CHIO_EXCLUDE_PATHS"}))
    base = ChioSettings(timeout=3.0, exclude_paths={"/b", "/a"})
    settings = ChioSettings(timeout=3.0, exclude_paths={"/b", "/a"}, fail_open=True, max_connections=5)
    found = by_name(check_settings(settings, sources, base=base))
    assert list(found) == [f"setting.{name}" for name in ChioSettings.model_fields]
    expected = {"timeout": "environment", "exclude_paths": ".env", "max_connections": "keyword", "observe": "default"}
    expected["fail_open"] = "keyword"  # the environment names it too, with another value
    assert {name: found[f"setting.{name}"].facts["source"] for name in expected} == expected
    assert found["setting.exclude_paths"].facts["value"] == "/a, /b"
    assert found["setting.fail_open"].status == "warn"
    assert found["setting.fail_open"].remedy


def test_no_secret_is_shown() -> None:
    settings = ChioSettings(control_token="hunter2")
    found = by_name(check_settings(settings, NOTHING))
    assert "set, not shown" in found["setting.control_token"].text
    for check in found.values():
        assert "hunter2" not in check.line() + json.dumps(check.document())


def test_names_without_a_meaning_are_reported_with_the_nearest_one() -> None:
    environ = {"CHIO_FAILOPEN": "1", "CHIO_ZZZZ": "1", "CHIO_BIN": "x", "CHIO_TIMEOUT": "5"}
    found = by_name(check_names(environ, Sources(frozenset(environ), frozenset({"CHIO_SIDECARURL"}))))
    assert found["environment.CHIO_FAILOPEN"].remedy == "did you mean CHIO_FAIL_OPEN?"
    assert found["environment.CHIO_SIDECARURL"].remedy == "did you mean CHIO_SIDECAR_URL?"
    assert set(found) == {"environment.CHIO_FAILOPEN", "environment.CHIO_SIDECARURL", "environment.CHIO_ZZZZ"}


def test_trusted_issuers_are_counted_and_bad_ones_fail() -> None:
    good = {"CHIO_TRUSTED_ISSUER_KEYS": f"{KEY.public_hex},{OTHER.public_hex}"}
    assert "2 issuers" in by_name(check_names(good, NOTHING))["issuers"].text
    assert by_name(check_names({"CHIO_TRUSTED_ISSUER_KEY": "nonsense"}, NOTHING))["issuers"].status == "fail"


def install(folder: Path, name: str, module: str, content: str = "") -> None:
    """Lay out an installed distribution as pip does."""
    package = folder / module
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(content)
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"{module}/__init__.py,sha256={digest},{len(content)}\n")


def test_a_published_package_that_was_installed_last_owns_the_name(tmp_path: Path) -> None:
    install(tmp_path, "chio-frameworks", "chio_asgi", "ours = True")
    install(tmp_path, "chio-asgi", "chio_asgi", "theirs = True")
    check = by_name(check_distributions([str(tmp_path)]))["package.chio_asgi"]
    assert (check.status, check.facts["owner"]) == ("fail", "chio-asgi")
    assert check.remedy == "pip uninstall -y chio-asgi && pip install --force-reinstall --no-deps -e CHECKOUT"


def test_ours_over_a_published_package_is_a_warning(tmp_path: Path) -> None:
    install(tmp_path, "chio-asgi", "chio_asgi", "theirs = True")
    install(tmp_path, "chio-frameworks", "chio_asgi", "ours = True")
    check = by_name(check_distributions([str(tmp_path)]))["package.chio_asgi"]
    assert (check.status, check.facts["owner"]) == ("warn", "chio-frameworks")


def test_the_other_published_packages_are_no_conflict(tmp_path: Path) -> None:
    install(tmp_path, "chio-sdk-python", "chio_sdk")
    found = by_name(check_distributions([str(tmp_path)]))
    assert {check.status for check in found.values()} == {"ok"}
    assert "chio-sdk-python 0.1.0" in found["package.chio_sdk"].text


def test_all_rivals_are_uninstalled_at_once(tmp_path: Path) -> None:
    for name, module in (("chio-asgi", "chio_asgi"), ("chio-django", "chio_django"), ("chio_fastapi", "chio_fastapi")):
        install(tmp_path, name, module)
    remedies = {check.remedy for check in check_distributions([str(tmp_path)]) if check.status == "fail"}
    assert len(remedies) == 1
    assert "uninstall -y chio-asgi chio-fastapi chio-django &&" in str(remedies.pop())


def test_this_interpreter_can_be_checked() -> None:
    assert guarded("package", check_distributions)


NEEDED = [
    "httpx>=0.28",
    "fastapi>=0.137; extra == 'fastapi'",
    'redis>=8; extra == "guards"',
    "pyjwt[crypto]>=2.15; extra == 'guards'",
]


def installed(**versions: str) -> Callable[[str], str]:
    def find(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return find


def test_versions_are_compared_with_the_least_ones() -> None:
    found = by_name(check_versions(NEEDED, installed=installed(httpx="0.28.1", fastapi="0.99.1", pyjwt="2.15.0rc1")))
    statuses = {name: found[f"version.{name}"].status for name in ("httpx", "fastapi", "pyjwt")}
    assert statuses == {"httpx": "ok", "fastapi": "fail", "pyjwt": "ok"}
    assert found["version.fastapi"].remedy == "pip install 'fastapi>=0.137'"
    assert "version.redis" not in found  # of an extra that is not installed


def test_a_library_that_two_extras_need_is_reported_once() -> None:
    needed = ["starlette>=1.3.1; extra == 'fastapi'", "starlette>=1.3.1; extra == 'sidecar'"]
    names = [check.name for check in check_versions(needed, installed=installed(starlette="1.3.1"))]
    assert names.count("version.starlette") == 1


def test_a_library_that_is_always_needed_fails_if_it_is_missing() -> None:
    found = by_name(check_versions(["httpx>=0.28", "nonsense ==="], installed=installed(), python=(3, 10, 9)))
    assert found["version.httpx"].status == found["version.python"].status == "fail"


def test_a_checkout_that_is_not_installed_is_a_warning() -> None:
    assert by_name(check_versions([], installed=installed()))["version.chio-frameworks"].status == "warn"


def test_the_version_of_sqlite_names_the_journal_of_the_store() -> None:
    for version, journal in (((3, 40, 1), "rollback journal"), ((3, 52, 0), "with a safe write-ahead log")):
        found = by_name(check_versions(NEEDED, installed=installed(), sqlite=version))
        assert journal in found["version.sqlite"].text


def health(
    *, status: int = 200, date: float | None = NOW, body: Any = None, **members: Any
) -> Callable[[httpx.Request], httpx.Response]:
    document = {"status": "healthy", "version": "0.1.0", **members} if body is None else body

    headers = {} if date is None else {"date": formatdate(date, usegmt=True)}
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return lambda _: httpx.Response(status, headers=headers, content=content)


def checked(respond: Callable[[httpx.Request], httpx.Response], now: float = NOW, **options: Any) -> dict[str, Check]:
    last = options.pop("last_key", None)
    settings = ChioSettings(sidecar_url="http://127.0.0.1:9", **options)
    return by_name(check_sidecar(settings, transport=httpx.MockTransport(respond), clock=lambda: now, last_key=last))


def test_a_healthy_sidecar_with_a_pinned_key_and_the_same_clock_is_fine() -> None:
    found = checked(health(kernel_key=KEY.public_hex), trusted_kernel_keys=(KEY.public_hex,))
    assert {check.status for check in found.values()} == {"ok"}
    assert set(found) == {"sidecar", "clock", "key"}
    assert "version 0.1.0" in found["sidecar"].text


@pytest.mark.parametrize(
    ("ahead", "status"),
    [(0.5, "ok"), (-1.0, "ok"), (20, "ok"), (40, "warn"), (-61, "warn"), (62, "fail"), (-4000, "fail")],
)
def test_the_clock_is_compared_within_the_tolerance(ahead: float, status: str) -> None:
    assert checked(health(), NOW + ahead, receipt_tolerance=60)["clock"].status == status


def test_a_sidecar_without_a_date_has_no_clock_to_compare() -> None:
    assert checked(health(date=None))["clock"].status == "warn"


def test_the_key_is_compared_with_the_pinned_ones() -> None:
    named, pinned = health(kernel_key=KEY.public_hex), {"trusted_kernel_keys": (OTHER.public_hex,)}
    assert checked(named)["key"].status == "warn"
    assert KEY.public_hex in str(checked(named)["key"].remedy)
    assert checked(named, **pinned)["key"].status == "fail"
    assert checked(health(), **pinned)["key"].status == "ok"
    assert checked(health(), **pinned, last_key=KEY.public_hex)["key"].status == "fail"
    assert checked(health())["key"].status == "warn"


def test_a_sidecar_without_a_store_is_a_warning_and_its_key_is_not_one_to_pin() -> None:
    found = checked(health(kernel_key=KEY.public_hex, receipt_backend="ephemeral"))
    assert (found["sidecar.store"].status, found["sidecar.store"].remedy) == (
        "warn",
        "start it with --receipt-store FILE",
    )
    assert found["key"].remedy == "start it with --receipt-store FILE, then pin its key"
    assert "sidecar.store" not in checked(health(kernel_key=KEY.public_hex, receipt_backend="durable"))


@pytest.mark.parametrize(
    ("respond", "status", "word"),
    [
        (health(status=503, detail="the disk is full"), "fail", "disk is full"),
        (health(body={"status": "degraded"}), "warn", "degraded"),
        (health(body=b"<html>"), "fail", "not as a Chio sidecar"),
        (health(body={"ok": True}), "fail", "not as a Chio sidecar"),
        (health(status=404, body=b""), "fail", "404"),
        (health(body=b"[" * 200_000), "fail", "not as a Chio sidecar"),
    ],
)
def test_the_response_of_a_sick_or_foreign_server_is_reported(respond: Any, status: str, word: str) -> None:
    check = checked(respond)["sidecar"]
    assert (check.status, word in check.text) == (status, True)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (httpx.ConnectError("refused"), "refused"),
        (httpx.ConnectTimeout("late"), "no connection within 2 s"),
        (httpx.ReadTimeout("late"), "no response within 5 s"),
        (httpx.RemoteProtocolError("odd"), "the exchange broke"),
        (httpx.InvalidURL("odd"), "no request can be sent"),
        (OSError("odd"), "no request can be sent"),
    ],
)
def test_a_sidecar_that_cannot_be_reached_fails_with_a_remedy(error: Exception, word: str) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise error

    found = checked(broken)
    assert [(name, check.status, word in check.text) for name, check in found.items()] == [("sidecar", "fail", True)]
    assert found["sidecar"].remedy


@pytest.mark.parametrize(
    ("path", "text"), [("a.sock", "there is no socket"), ("none/a.sock", "the folder of its socket does not exist")]
)
def test_a_socket_that_is_missing_is_told_from_its_folder(path: str, text: str, tmp_path: Path) -> None:
    (check,) = check_sidecar(ChioSettings(sidecar_url=f"unix:{tmp_path}/{path}"))
    assert (check.status, text in check.text) == ("fail", True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one receipt, and its key."""
    path = tmp_path / "receipts.sqlite3"
    with sidecars() as create:
        evaluate(create(store_path=path), method="GET")
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {one.name: (one.stat().st_mode, one.read_bytes()) for one in folder.iterdir()}


def test_a_store_in_good_order_is_fine_and_stays_as_it_is(store: Path) -> None:
    before = snapshot(store.parent)
    found = by_name(check_store(store))
    assert {check.status for check in found.values()} == {"ok"}
    assert found["store"].facts == {"receipts": 1}
    assert found["store.integrity"].status == "ok"
    assert snapshot(store.parent) == before
    assert last_kernel_key(store) == found["key"].facts["kernel_key"]


def test_a_store_with_a_write_ahead_log_is_read_without_making_files(store: Path) -> None:
    alter(store, "PRAGMA journal_mode=wal")
    before = snapshot(store.parent)
    assert by_name(check_store(store))["store.integrity"].status == "ok"
    assert snapshot(store.parent) == before


def test_the_write_ahead_log_of_a_running_sidecar_is_read(store: Path) -> None:
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("INSERT INTO revoked_capabilities VALUES ('cap', 1)")
        assert "1 revoked" in by_name(check_store(store))["store"].text


def test_a_log_without_its_index_is_left_for_the_sidecar_to_repair(store: Path) -> None:
    alter(store, "PRAGMA journal_mode=wal")
    store.with_name(store.name + "-wal").write_bytes(b"x" * 32)
    before = snapshot(store.parent)
    assert by_name(check_store(store))["store"].status == "warn"
    assert snapshot(store.parent) == before


def test_a_store_that_is_not_there_yet_is_no_mistake(tmp_path: Path) -> None:
    found = by_name(check_store(tmp_path / "new.sqlite3"))
    assert {check.status for check in found.values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_fails(tmp_path: Path) -> None:
    check = by_name(check_store(tmp_path / "no" / "new.sqlite3"))["store"]
    assert (check.status, check.remedy) == ("fail", f"mkdir -p {tmp_path}/no")


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert by_name(check_store(path))["store"].status == "fail"
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    alter(path, "CREATE TABLE users (id INTEGER)")
    assert "another program" in by_name(check_store(path))["store"].text


def test_damage_is_found(store: Path) -> None:
    content = bytearray(store.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    store.write_bytes(content)
    assert "fail" in {check.status for check in check_store(store)}


def test_the_integrity_check_ends_in_time(store: Path) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    alter(store, f"{numbers} INSERT INTO revoked_capabilities SELECT 'cap-' || i, i FROM n")
    ticks = map(float, range(10**6))
    found = by_name(check_store(store, patience=Patience(0.5, 0.5), clock=lambda: next(ticks)))
    assert found["store.integrity"].status == "warn"


def test_a_store_or_key_that_others_may_read_is_reported(store: Path) -> None:
    store.chmod(0o644)
    key = store.with_name(store.name + ".key")
    key.chmod(0o640)
    found = by_name(check_store(store))
    assert (found["store.mode"].status, found["store.mode"].remedy) == ("warn", f"chmod 600 {store}")
    assert found["key"].status == "fail"
    assert "chmod 600" in found["key"].line()


def test_the_key_beside_the_store_is_compared(store: Path) -> None:
    key = store.with_name(store.name + ".key")
    public = by_name(check_store(store))["key"].facts["kernel_key"]
    assert by_name(check_store(store, pinned=(public,)))["key"].status == "ok"
    assert by_name(check_store(store, pinned=(KEY.public_hex,)))["key"].status == "fail"
    key.unlink()
    assert by_name(check_store(store))["key"].status == "fail"
    load_or_create_key(key)
    assert by_name(check_store(store))["key"].status == "warn"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_store_that_cannot_be_written_fails(store: Path) -> None:
    store.chmod(0o400)
    assert "fail" in {check.status for check in check_store(store)}


def test_a_check_that_breaks_is_a_finding_and_hides_none() -> None:
    def look() -> Iterator[Check]:
        yield Check("a", "ok", "fine")
        raise ZeroDivisionError("odd")

    def refuse() -> Iterator[Check]:
        raise ConfigurationError("no such file; make one")
        yield

    assert [check.status for check in guarded("x", look)] == ["ok", "fail"]
    assert guarded("x", refuse)[0].text == "no such file; make one"


def test_a_check_is_one_line_for_people_and_one_object_for_programs() -> None:
    check = Check("clock", "warn", "late", "set it", {"seconds": 3})
    assert check.line() == "warn clock: late; set it"
    assert check.document() == {"check": "clock", "status": "warn", "message": "late", "remedy": "set it", "seconds": 3}
    assert Check("clock", "ok", "fine").line() == "ok   clock: fine"
