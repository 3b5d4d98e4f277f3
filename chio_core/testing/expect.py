"""What a test expects of the questions and answers, as sentences that say what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chio_core.models.receipt import HttpReceipt
from chio_core.testing.ledger import Ledger
from chio_core.testing.question import Asked


def asked_for(asked: Sequence[Asked], method: str | None, path: str | None) -> list[Asked]:
    """Return the questions about a request.

    Raises:
        AssertionError: there is none.
    """
    found = [one for one in asked if one.is_about(method, path)]
    if found:
        return found
    about = f" about {method} {path}" if method is not None else ""
    known = ", ".join(dict.fromkeys(f"{one.method} {one.path}" for one in asked)) or "nothing at all"
    raise AssertionError(
        f"nobody asked the sidecar{about}; it was asked about {known}. Is the application governed and connected "
        "(chio.connect(app)), is the path excluded, and has the test made the request?"
    )


def requirement(asked: Sequence[Asked], requires: str) -> None:
    """Check that one of the questions asks for a capability.

    Raises:
        AssertionError: none does.
    """
    if any(one.requires == requires for one in asked):
        return
    one = asked[-1]
    instead = f"asked for {one.requires}" if one.requires is not None else "asked for no capability by name"
    server, _, tool = requires.partition("/")
    raise AssertionError(
        f"{one.method} {one.route} {instead}, not for {requires}: does its route lack "
        f'Depends(RequireCapability("{server}", "{tool}"))?'
    )


def named_receipt(response: Any, ledger: Ledger) -> HttpReceipt:
    """Return the stored receipt that a response names in a header.

    Raises:
        AssertionError: it names none that was stored.
    """
    values = [str(value) for _, value in response.headers.items()]
    for value in values:
        entry = ledger.find(value)
        if entry is not None:
            return entry.receipt
    raise AssertionError(f"the response (status {response.status_code}) names no receipt that was stored")
