"""Keys of the authority, and the files that hold them (wire protocol, sections 9.4 and 10.5)."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.place import Place
from chio_sidecar.trust.authorities import Authority, DatabaseAuthority, SeedFileAuthority
from chio_sidecar.trust.stores import RevocationStore

Opener = Callable[[Path], Authority]
BOTH = pytest.mark.parametrize("opener", [DatabaseAuthority, SeedFileAuthority])


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A SQLite file, or an empty database as the role of the trust service."""
    if request.param == "file":
        return tmp_path / "trust.sqlite3"
    pytest.importorskip("psycopg")
    from tests.sidecar.postgres_tools import TRUST_ROLE

    server = request.getfixturevalue("server")
    return server.place(server.new_database(), TRUST_ROLE)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@BOTH
def test_a_new_authority_has_one_key_in_files_of_mode_0600(tmp_path: Path, opener: Opener) -> None:
    authority = opener(tmp_path / "authority")
    status = authority.status()
    assert status.public_key == authority.signing_key().public_hex
    assert status.trusted_keys == (status.public_key,)
    assert status.generation == 1
    authority.rotate()
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    authority.close()


def rotated(open_authority: Callable[[], Authority]) -> None:
    authority = open_authority()
    keys = [authority.status().public_key]
    for generation in (2, 3):
        status = authority.rotate()
        keys.append(authority.signing_key().public_hex)
        assert (status.public_key, status.generation) == (keys[-1], generation)
        assert status.trusted_keys == tuple(keys)
        assert status.rotated_at is not None
    assert len(set(keys)) == 3
    authority.close()
    again = open_authority()
    assert (again.status(), again.signing_key().public_hex) == (status, keys[-1])
    again.close()


def test_a_rotation_makes_a_new_key_trusts_the_old_ones_and_survives_a_restart(place: Place) -> None:
    rotated(lambda: DatabaseAuthority(place))


def test_a_rotation_of_a_seed_file_makes_a_new_key_trusts_the_old_ones_and_survives_a_restart(tmp_path: Path) -> None:
    rotated(lambda: SeedFileAuthority(tmp_path / "seed"))


def test_two_processes_see_each_others_rotation(place: Place) -> None:
    one, two = DatabaseAuthority(place), DatabaseAuthority(place)
    rotated = one.rotate()
    assert two.signing_key().public_hex == rotated.public_key
    assert two.rotate().generation == 3
    assert len(one.status().trusted_keys) == 3
    one.close()
    two.close()


def test_a_crash_between_the_writes_of_a_rotation_loses_and_forges_nothing(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    authority = SeedFileAuthority(path)
    key = authority.status().public_key
    # The list of former keys was written, the seed not yet replaced.
    (tmp_path / "seed.former").write_text(f"{key} 1700000000\n")
    status = SeedFileAuthority(path).status()
    assert (status.public_key, status.trusted_keys, status.generation) == (key, (key,), 1)


def test_a_database_that_others_could_read_is_closed_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.db"
    DatabaseAuthority(path).close()
    path.chmod(0o644)
    DatabaseAuthority(path).close()
    assert mode(path) == 0o600
    assert "its mode is now 0600" in caplog.text


def test_a_seed_that_does_not_belong_to_the_public_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    DatabaseAuthority(path).close()
    seed = SigningKey.generate().seed_hex()
    for text in (seed, "nonsense"):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE authority_state SET seed_hex = ?", (text,))
        connection.close()
        with pytest.raises(ConfigurationError, match="is damaged; restore it") as caught:
            DatabaseAuthority(path)
        assert text not in caught.value.message


@BOTH
def test_a_missing_folder_is_named(tmp_path: Path, opener: Opener) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        opener(tmp_path / "nowhere" / "authority")


def test_a_file_that_is_no_database_is_named_with_its_option(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("no database " * 100)
    with pytest.raises(ConfigurationError, match=r"--authority-db\) as a database"):
        DatabaseAuthority(path)


@pytest.mark.parametrize("text", ["x", "00 1", f"{'0' * 64} x", f"{'0' * 64} 1 2"])
def test_a_damaged_list_of_former_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "seed.former").write_text(text)
    with pytest.raises(ConfigurationError, match="former keys"):
        SeedFileAuthority(tmp_path / "seed")


def test_a_lost_seed_file_is_not_replaced_with_a_new_key(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    authority = SeedFileAuthority(path)
    authority.rotate()
    newest = authority.status().public_key
    authority.rotate()
    path.unlink()
    with pytest.raises(ConfigurationError, match=rf"--authority-seed-file\) is missing, .* follow {newest}; restore"):
        SeedFileAuthority(path)
    assert [file.name for file in tmp_path.iterdir()] == ["seed.former"]


def test_a_revocation_is_new_once_and_stays(place: Place) -> None:
    store = RevocationStore(place)
    assert not store.is_revoked("cap-1")
    assert [store.revoke("cap-1"), store.revoke("cap-1"), store.revoke("cap-2")] == [True, False, True]
    store.close()
    again = RevocationStore(place)
    assert again.is_revoked("cap-1")
    assert [row.capability_id for row in again.find(None, 10)] == ["cap-2", "cap-1"]
    assert [row.capability_id for row in again.find("cap-1", 10)] == ["cap-1"]
    assert len(again.find(None, 1)) == 1
    again.close()
