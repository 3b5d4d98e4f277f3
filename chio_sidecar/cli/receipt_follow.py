"""`receipt list --follow`: print each receipt as it is stored, also after the store was away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn

from chio_sidecar.cli.options import StorePlace
from chio_sidecar.cli.terminal import CliError, flush_output, say, wait_for_more
from chio_sidecar.records.archive import ReceiptArchive, ReceiptFilter, open_archive
from chio_sidecar.store.driver import Unavailable

_POLL_SECONDS = 0.5
_LONGEST_WAIT = 8.0  # seconds between two tries to open a store that is away


def follow(
    store: StorePlace,
    wanted: ReceiptFilter,
    show: Callable[[Iterable[Any]], None],
    *,
    after: int | None,
    newest: int,
    raw: bool,
) -> NoReturn:
    """Print receipts that are stored, then each as it is stored; only an exception ends it.

    A store that cannot be read for a time is opened again until it can. No receipt is left out or printed twice.

    Args:
        store: the store.
        wanted: conditions on the receipts.
        show: prints receipts; each that it takes from its argument counts as printed.
        after: number of the row to begin behind; None begins with the newest receipts.
        newest: how many of these.
        raw: give `show` the stored texts.

    Raises:
        CliError: another store is in its place.
        ConfigurationError: it cannot be read at the start, or not for a reason that can pass.
    """
    reader = open_archive(store.path, option=store.named_by)
    try:
        printed = reader.last if after is None else after
        if after is None:
            for number, _ in islice(reader.stored_rows(wanted, newest_first=True), newest):
                printed = number - 1
        known = _newest_row(reader)

        def new_receipts() -> Iterator[Any]:
            nonlocal printed
            for number, receipt in (reader.stored_rows if raw else reader.rows)(wanted, after=printed):
                printed = number
                yield receipt

        while True:
            try:
                show(new_receipts())
                flush_output()
                printed = max(printed, reader.last)
                wait_for_more(_POLL_SECONDS)
                reader.refresh()
                known = _still_known(reader, known)
            except Unavailable as exc:
                reader.close()
                flush_output()
                say(f"{exc.message}; trying again until it is back")
                reader, known = _opened_again(store, known)
    finally:
        reader.close()


def _opened_again(store: StorePlace, known: tuple[int, str] | None) -> tuple[ReceiptArchive, tuple[int, str] | None]:
    """Return the store as soon as it can be read, and its newest row."""
    seconds = _POLL_SECONDS
    while True:
        wait_for_more(seconds)
        seconds = min(2 * seconds, _LONGEST_WAIT)
        try:
            reader = open_archive(store.path, option=store.named_by)
        except Unavailable:
            continue
        try:
            return reader, _still_known(reader, known)
        except Unavailable:
            reader.close()
        except BaseException:
            reader.close()
            raise


def _newest_row(reader: ReceiptArchive) -> tuple[int, str] | None:
    """Return number and id of the newest row, None for an empty store."""
    found = reader.cells(ReceiptFilter(), reader.first, reader.last, limit=1, paths=["id"])
    return found[0][:2] if found else None


def _still_known(reader: ReceiptArchive, known: tuple[int, str] | None) -> tuple[int, str] | None:
    """Return number and id of the newest row, if the store is the one that had the row `known`.

    Raises:
        CliError: it is not. Its row numbers are others, so receipts would be lost or printed twice.
    """
    if known is None:
        return _newest_row(reader)
    number, receipt_id = known
    found = reader.find(receipt_id)
    if found is None:
        reader.refresh()  # it may have been archived since the last time
        is_same = number < max(reader.after_archived(), default=0)
    else:
        is_same = found[0] == number
    if not is_same:
        raise CliError(
            f"{reader.place} is another store than before: its row {number} is not receipt {receipt_id}",
            fix="if it was restored from a backup, start the command again; it begins with the newest receipts",
        )
    return known if reader.last == number else _newest_row(reader)
