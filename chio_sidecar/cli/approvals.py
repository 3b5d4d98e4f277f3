"""`approval list`, `approval show` and `approval respond`: what waits for a person, and the person's answer."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from chio_sidecar.cli import approval_place as places
from chio_sidecar.cli.approval_place import approval_place
from chio_sidecar.cli.options import CliError, compact, emit, say, wants_json

DESCRIPTION = """\
Answer a question that waits for a person. The sidecar signs the answer. An approval lets exactly the same request
pass once, within an hour, when it is repeated with the header X-Chio-Approval: ID.

--receipt-store FILE (or CHIO_SIDECAR_URL=embedded:FILE) answers in the store of an embedded sidecar, also while its
application runs.
"""


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval list`."""
    places.add_arguments(parser)


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval show`."""
    parser.add_argument("id", metavar="ID", help="id of the approval")
    places.add_arguments(parser)


def add_respond_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval respond`."""
    parser.add_argument("id", metavar="ID", help="id of the approval")
    answer = parser.add_mutually_exclusive_group(required=True)
    answer.add_argument("--approve", dest="outcome", action="store_const", const="approved", help="say yes")
    answer.add_argument("--deny", dest="outcome", action="store_const", const="denied", help="say no")
    parser.add_argument("--reason", metavar="TEXT", help="why; it is kept with the answer")
    places.add_arguments(parser)


def run_list(args: argparse.Namespace) -> int:
    """Print the open questions, oldest first, one a line.

    Raises:
        CliError: they cannot be had.
    """
    found = approval_place(args).pending()
    approvals = [one for one in found.get("approvals") or () if isinstance(one, dict)]
    if wants_json(args):
        emit(compact({"approvals": approvals, "count": len(approvals)}))
        return 0
    for one in approvals:
        emit(f"{_plain(one.get('approval_id'))}  until {_time(one.get('expires_at'))}  {_plain(one.get('summary'))}")
    if not approvals:
        say("no approval is waiting")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one question, or the answer to it.

    Raises:
        CliError: it is not known, or has expired.
    """
    found = approval_place(args).show(_id(args))
    emit(compact(found) if wants_json(args) else json.dumps(found, ensure_ascii=True, indent=2))
    return 0


def run_respond(args: argparse.Namespace) -> int:
    """Answer a question.

    Raises:
        CliError: it is not known, was answered already, or has expired.
    """
    answer = {"outcome": args.outcome} | ({} if args.reason is None else {"reason": args.reason})
    found = approval_place(args).respond(_id(args), answer)
    if wants_json(args):
        emit(compact(found))
        return 0
    emit(f"{_plain(found.get('approval_id'))}: {_plain(found.get('outcome'))}")
    if args.outcome == "approved":
        say(f"the same request passes once with the header X-Chio-Approval: {_plain(args.id)}")
    return 0


def _id(args: argparse.Namespace) -> str:
    found = str(args.id).strip()
    if not found or found in (".", ".."):
        raise CliError("the id of the approval is blank", fix="`approval list` prints the ids")
    return found


def _plain(value: Any) -> str:
    # Strangers write paths and subjects, and terminals obey controls.
    return json.dumps(str(value), ensure_ascii=True)[1:-1]


def _time(value: Any) -> str:
    if not isinstance(value, int) or not 0 <= value < 2**37:
        return "?"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
