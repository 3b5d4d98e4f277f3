"""Keys, stores and databases that another user owns, that are links, or that others can replace."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor.store import check_store
from chio_sidecar.keys import load_or_create_key
from chio_sidecar.private_files import create_private, replace_private
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.trust.authorities import DatabaseAuthority, SeedFileAuthority
from chio_sidecar.trust.stores import RevocationStore
from tests.support import run

OTHER = 12_345
"""A user id that is neither this user's nor the superuser's."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")

OPENERS: dict[str, Callable[[Path], object]] = {
    "key": load_or_create_key,
    "store": lambda path: run(SqliteReceiptStore(path).close()),
    "seed file": lambda path: SeedFileAuthority(path).close(),
    "authority": lambda path: DatabaseAuthority(path).close(),
    "revocations": lambda path: RevocationStore(path).close(),
}


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return OPENERS[request.param]


def test_a_new_file_is_private_and_is_opened_again(opener: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = os.umask(0)
    try:
        opener(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opener(path)
    assert list(tmp_path.iterdir()) == [path]


@needs_root
def test_a_file_of_another_user_is_refused_with_the_remedy(opener: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    opener(path)
    os.chown(path, OTHER, -1)
    with pytest.raises(ConfigurationError, match=f"is owned by user {OTHER}, who can read and replace it") as caught:
        opener(path)
    first, second = caught.value.message.split("Only if its sidecar is to run as this user: ")
    assert f"run this command as that user (sudo -u '#{OTHER}' …)" in first
    assert second.startswith(f"chown 0 {path}")


@pytest.mark.parametrize("target", ["existing", "missing"])
def test_a_symbolic_link_is_not_followed(opener: Callable[[Path], object], target: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    leads = tmp_path / "elsewhere" / "file"
    if target == "existing":
        opener(leads)
    link = tmp_path / "file"
    link.symlink_to(leads)
    with pytest.raises(ConfigurationError, match="is a symbolic link; name the file that it leads to"):
        opener(link)
    assert leads.exists() == (target == "existing")


def test_a_link_to_the_folder_is_a_name_of_the_folder(opener: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "real")
    opener(tmp_path / "data" / "file")
    assert (tmp_path / "real" / "file").is_file()


RISKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "everyone": (lambda folder: folder.chmod(0o777), "every user can write to its folder"),
    "a group": (lambda folder: (os.chown(folder, -1, OTHER), folder.chmod(0o770))[1], f"group {OTHER} can write"),
    "its owner": (lambda folder: os.chown(folder, OTHER, -1), f"is owned by user {OTHER}, who can replace the file"),
}


@needs_root
@pytest.mark.parametrize("risk", RISKS)
def test_a_folder_in_which_others_can_replace_the_file_is_named(
    opener: Callable[[Path], object], risk: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = RISKS[risk]
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    opener(folder / "file")
    assert caplog.records == []
    change(folder)
    with caplog.at_level(logging.WARNING):
        opener(folder / "file")
    assert message in caplog.text
    checks = [check for check in check_store(folder / "file") if check.name == "store.folder"]
    assert any(message in check.text for check in checks)


def test_a_sticky_folder_keeps_others_from_replacing_it(
    opener: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o1777)
    opener(tmp_path / "file")
    opener(tmp_path / "file")
    assert caplog.records == []


def test_a_draft_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    # The name of a former draft was known in advance: a link there led the new key to another file.
    path, victim = tmp_path / "seed", tmp_path / "victim"
    victim.write_text("untouched")
    authority = SeedFileAuthority(path)
    for name in ("seed.new", "seed.former.new"):
        (tmp_path / name).symlink_to(victim)
    authority.rotate()
    assert victim.read_text() == "untouched"


def test_a_file_is_created_once_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert create_private(path, b"one")
    assert not create_private(path, b"two")
    assert path.read_bytes() == b"one"
    replace_private(path, b"three")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"three", 0o600)
    assert list(tmp_path.iterdir()) == [path]
