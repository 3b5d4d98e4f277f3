"""A store whose schema is damaged: SQLite quotes it in what it says, and the quotation is no UTF-8."""

from __future__ import annotations

from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.cli import main
from chio_sidecar.doctor.store import check_store
from chio_sidecar.embedded import open_embedded
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.records.reader import ReceiptReader
from tests.viewer.records import fill, receipt

MESSAGE = "its schema is damaged"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = fill(tmp_path / "s.sqlite3", [receipt(1)])
    content = path.read_bytes()
    at = content.index(b"CREATE TABLE http_receipts")
    path.write_bytes(content[:at] + b"CREATE \xfcABLE" + content[at + len(b"CREATE TABLE") :])
    return path


def test_it_is_told_in_one_sentence_by_whoever_opens_it(damaged: Path) -> None:
    with pytest.raises(ConfigurationError, match=MESSAGE):
        ReceiptWindow(damaged).newest()
    with pytest.raises(ConfigurationError, match=MESSAGE):
        ReceiptReader(damaged, option="--receipt-store")
    with pytest.raises(ConfigurationError, match=MESSAGE):
        open_embedded(str(damaged))
    assert any(check.status == "fail" and MESSAGE in check.text for check in check_store(damaged))


@pytest.mark.parametrize("command", [["receipt", "diff"], ["explain", "receipt-00001"]], ids=["diff", "explain"])
def test_commands_end_with_that_sentence(command: list[str], damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--receipt-store", str(damaged)]) == 1
    assert MESSAGE in capsys.readouterr().err
