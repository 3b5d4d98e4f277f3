"""`chio-sidecar viewer`: the page for a file, on this machine only."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from chio_sidecar.cli import main
from chio_sidecar.keys import load_or_create_key
from chio_sidecar.viewer import VIEWER_PATH
from tests.sidecar.control_tools import serving
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


def test_it_asks_for_the_control_token_where_there_is_one_and_shows_no_secret(tmp_path: Path) -> None:
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
def test_it_listens_on_this_machine_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], listen: str) -> None:
    path = fill(tmp_path / "s.sqlite3", [])
    assert main(["viewer", "--receipt-store", str(path), "--listen", listen]) == 1
    assert f"--listen {listen} is not a loopback address" in capsys.readouterr().err


def test_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["viewer"]) == 1
    assert "viewer needs a store" in capsys.readouterr().err
    assert main(["viewer", "--receipt-store", str(tmp_path / "missing")]) == 1
    assert "there is no receipt store at" in capsys.readouterr().err
    other = tmp_path / "other"
    other.write_text("no database" * 100)
    assert main(["viewer", "--receipt-store", str(other)]) == 1
    assert f"cannot read {other} as a receipt store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [other]


def test_without_a_usable_key_file_it_says_that_no_key_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill(tmp_path / "s.sqlite3", [])
    arguments = ["viewer", "--receipt-store", str(path), "--listen", "127.0.0.1:99999"]
    assert main(arguments) == 1
    assert "own key is not known (there is no key file beside the store)" in capsys.readouterr().err
    (tmp_path / "s.sqlite3.key").write_text("secret-canary")
    (tmp_path / "s.sqlite3.key").chmod(0o600)
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "holds no signing key" in told
    assert "canary" not in told
