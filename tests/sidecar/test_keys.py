"""The signing key file: durable, private, and created once."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.keys import load_or_create_key

SEED = "21" * 32


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_text(text)
    return path


def test_a_missing_file_is_created_privately_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "k"
    key = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert len(text) == 65
    assert text == key.seed_hex() + "\n"
    assert load_or_create_key(path).public_hex == key.public_hex
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", [SEED, SEED + "\n", SEED.upper() + "\r\n", " " + SEED + "\n"])
def test_a_key_that_a_person_wrote_is_read(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k", text)
    assert load_or_create_key(path).public_hex == SigningKey(b"\x21" * 32).public_hex


@pytest.mark.parametrize("text", ["", "secret", SEED[:-1], SEED + SEED, SEED + "\n" + SEED, "g" * 64, "\x00" * 5000])
def test_a_file_without_a_key_is_refused_without_repeating_it(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k", text)
    with pytest.raises(ConfigurationError) as caught:
        load_or_create_key(path)
    assert str(path) in caught.value.message
    assert "restore it from a backup" in caught.value.message
    for piece in ("secret", SEED[:8], "gggg"):
        assert piece not in caught.value.message
    assert path.read_text() == text


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "k", SEED, mode)
    with pytest.raises(ConfigurationError, match=f"has mode {mode:04o}.*chmod 600 {path}"):
        load_or_create_key(path)


def test_a_folder_or_a_pipe_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigurationError, match="no regular file"):
            load_or_create_key(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"folder {tmp_path}/missing does not exist; create it"):
        load_or_create_key(tmp_path / "missing" / "k")


def _load(path: Path, start: object, found: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    found.put(load_or_create_key(path).public_hex)  # type: ignore[attr-defined]


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_load, args=(tmp_path / "k", start, found)) for _ in range(4)]
    for process in processes:
        process.start()
    keys = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(keys) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "k"]
