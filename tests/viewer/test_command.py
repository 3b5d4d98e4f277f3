"""`chio-sidecar viewer`: the page for a file, on this machine only."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from chio_sidecar.keys import load_or_create_key
from chio_sidecar.store.backup import backup
from chio_sidecar.viewer import VIEWER_PATH
from tests.sidecar.control_tools import CommandLine, serving
from tests.viewer.records import KEY, fill, receipt


def test_it_shows_the_file_and_knows_the_key_beside_it(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.sqlite3", [receipt(1)])
    key = load_or_create_key(tmp_path / "s.sqlite3.key")
    with serving("viewer", "--receipt-store", path, ready="is shown at") as server:
        address = server.ready.rpartition(" ")[2]
        assert address.startswith("http://127.0.0.1:")
        assert address.endswith(VIEWER_PATH)
        assert "Chio receipts" in httpx.get(address, trust_env=False).text
        status = httpx.get(f"{address}api/status", trust_env=False).json()
        assert (status["store"], status["keys"], status["newest"]) == ("s.sqlite3", [key.public_hex], 1)
    assert len(server.lines) == 1


def test_it_decompresses_a_compressed_archive_once_and_leaves_no_copy(tmp_path: Path) -> None:
    path, room = fill(tmp_path / "s.sqlite3", [receipt(1)]), tmp_path / "room"
    backup(path, tmp_path / "copy.xz")
    room.mkdir()
    with serving("viewer", "--receipt-store", tmp_path / "copy.xz", ready="is shown at", TMPDIR=str(room)) as server:
        address = server.ready.rpartition(" ")[2]
        (tmp_path / "copy.xz").unlink()
        status = httpx.get(f"{address}api/status", trust_env=False).json()
        assert status["store"].startswith("copy.")
        assert status["newest"] == 1
    assert list(room.iterdir()) == []


def test_it_requires_the_control_token_if_there_is_one_and_shows_no_secret(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.sqlite3", [receipt(1)])
    variables = {"CHIO_SIDECAR_CONTROL_TOKEN": "s3cret-canary"}
    arguments = ("--receipt-db", path, "viewer", "--trusted-key", KEY.public_hex)
    with serving(*arguments, ready="is shown at", **variables) as server:
        address = server.ready.rpartition(" ")[2]
        assert httpx.get(f"{address}api/status", trust_env=False).status_code == 403
        headers = {"Authorization": "Bearer s3cret-canary"}
        status = httpx.get(f"{address}api/status", headers=headers, trust_env=False).json()
        assert status["keys"] == [KEY.public_hex]
        assert not any("canary" in line for line in server.lines)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:80", "example.com:80", "unix:/tmp/x.sock", "9090"])
def test_it_listens_on_this_machine_only(tmp_path: Path, cli: CommandLine, listen: str) -> None:
    path = fill(tmp_path / "s.sqlite3", [])
    message = f"--listen {listen} is not a loopback address"
    assert message in cli.fails("viewer", "--receipt-store", path, "--listen", listen)


def test_it_says_what_is_missing(tmp_path: Path, cli: CommandLine) -> None:
    other = tmp_path / "other"
    other.write_text("no database" * 100)
    assert "viewer needs a store" in cli.fails("viewer")
    assert "there is no receipt store at" in cli.fails("viewer", "--receipt-store", tmp_path / "missing")
    assert f"cannot read {other} as a receipt store" in cli.fails("viewer", "--receipt-store", other)
    assert list(tmp_path.iterdir()) == [other]


def test_without_a_usable_key_file_it_says_that_no_key_is_known(tmp_path: Path, cli: CommandLine) -> None:
    arguments = ("viewer", "--receipt-store", fill(tmp_path / "s.sqlite3", []), "--listen", "127.0.0.1:99999")
    assert "own key is not known (there is no key file beside the store)" in cli.fails(*arguments)
    (tmp_path / "s.sqlite3.key").write_text("secret-canary")
    (tmp_path / "s.sqlite3.key").chmod(0o600)
    error = cli.fails(*arguments)
    assert ("holds no signing key" in error, "canary" in error) == (True, False)
