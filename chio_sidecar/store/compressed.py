"""A store in one compressed file: an archive or a backup whose name ends in `.xz`.

It is what `xz` makes of the SQLite file, so `xz -d` gives that back. What an archive states under a signature is about
its rows, not about the bytes of a file, and holds for both. SQLite reads no compressed file: to be read it is written,
piece by piece, to a temporary one.
"""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from chio_core.errors import ConfigurationError
from chio_sidecar.private_files import create_private, sync_folder

_PRESET = 4  # docs/operations.md has the figures
_PIECE = 1 << 20  # bytes
_MOST_MEMORY = 128 << 20  # bytes for a dictionary; that of `xz -9` takes half of it
_MOST_GROWTH = 200  # times; receipts grow eightfold, and the pages of erased ones that were not rewritten are zeros


def is_compressed(path: Path) -> bool:
    """Return True if a file of this name is compressed."""
    return path.suffix == ".xz"


def check_plain(path: Path) -> None:
    """Return if a file of this name is one that SQLite can write to.

    Raises:
        ConfigurationError: it is compressed.
    """
    if is_compressed(path):
        raise ConfigurationError(f"{path} is compressed, and only read; to write to it decompress it: xz -d {path}")


def decompressed(path: Path, *, most: int | None = None) -> Iterator[bytes]:
    """Yield the content of a compressed file in pieces of 1 MiB at most, or only its first bytes.

    Args:
        path: the file.
        most: how many bytes of the content are wanted; None for all.

    Raises:
        ConfigurationError: the file is damaged, ends too early, or grows more than an archive can.
        OSError: it cannot be read.
    """
    left = _MOST_GROWTH * path.stat().st_size + _PIECE if most is None else most
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
    with path.open("rb") as file:
        try:
            while not decompressor.eof and left > 0:
                raw = file.read(_PIECE) if decompressor.needs_input else b""
                if decompressor.needs_input and not raw:
                    raise ConfigurationError(f"{path} ends too early; copy it again, or restore it from a backup")
                piece = decompressor.decompress(raw, min(_PIECE, left))
                left -= len(piece)
                yield piece
        except lzma.LZMAError as exc:
            text = f"cannot decompress {path}: {exc}; copy it again, or restore it from a backup"
            raise ConfigurationError(text) from None
        if most is not None:
            return
        if not decompressor.eof:
            raise ConfigurationError(f"{path} grows more than {_MOST_GROWTH} times, which no archive does")
        if decompressor.unused_data or file.read(1):
            raise ConfigurationError(f"{path} has bytes after its end; copy it again, or restore it from a backup")


@contextmanager
def plain_copy(path: Path) -> Iterator[Path]:
    """Give a temporary file with the content of a compressed one, removed after the block.

    Raises:
        ConfigurationError: as `decompressed`, or there is no room for it.
    """
    with ExitStack() as stack:
        try:
            plain = stack.enter_context(NamedTemporaryFile(prefix=f"{path.stem}."))
            plain.writelines(decompressed(path))
            plain.flush()
        except OSError as exc:
            text = f"cannot decompress {path} to a temporary file: {exc.strerror}; TMPDIR names another folder for it"
            raise ConfigurationError(text) from None
        yield Path(plain.name)


@contextmanager
def rewritten(path: Path) -> Iterator[Path]:
    """Give a file beside a compressed one, with its content; after the block it is compressed in its place.

    The caller holds `rewriting`: what a process that was killed has left has the same name, and is removed first.

    Raises:
        ConfigurationError: as `decompressed`.
        OSError: a file cannot be written; the compressed one is as it was.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    create_private(draft)
    try:
        with draft.open("r+b") as plain:
            plain.writelines(decompressed(path))
        yield draft
        compress(draft)
        draft.chmod(path.stat().st_mode & 0o7777)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def compress(path: Path) -> None:
    """Put the compressed form of a file, of mode 0600, in its place; it is on the disk then.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.xz")
    draft.unlink(missing_ok=True)
    create_private(draft)
    try:
        with path.open("rb") as plain, draft.open("r+b") as file:
            with lzma.open(file, "wb", preset=_PRESET) as packed:
                shutil.copyfileobj(plain, packed, _PIECE)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
