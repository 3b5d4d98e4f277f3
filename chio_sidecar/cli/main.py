"""The command line: one table of commands, and how errors end."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chio_core.errors import ChioError
from chio_sidecar.cli import (
    api_protect,
    capability_issue,
    check,
    doctor,
    explain,
    openapi,
    receipt_diff,
    receipt_list,
    receipt_show,
    receipt_verify,
    trust_serve,
    viewer,
)
from chio_sidecar.cli import approvals as approval
from chio_sidecar.cli import receipt_store as receipt_fsck
from chio_sidecar.cli import trust as trust_revocation
from chio_sidecar.cli.options import add_global_options, report_error, wants_json
from chio_sidecar.service.metrics import package_version

PROGRAM = "chio-sidecar"

_BROKEN_PIPE = 141  # what a shell reports for a command that SIGPIPE ended
_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One command: its two words (or one, without group), what it is for, its options, what it does, its formats."""

    group: str | None
    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    description: str | None = None
    formats: Sequence[str] = ("human", "json")


COMMANDS = (
    Command(
        "api",
        "protect",
        "run the sidecar",
        api_protect.add_arguments,
        api_protect.run,
        api_protect.DESCRIPTION,
    ),
    Command(
        "trust",
        "serve",
        "run the trust service",
        trust_serve.add_arguments,
        trust_serve.run,
        trust_serve.DESCRIPTION,
    ),
    Command("trust", "revoke", "revoke a capability", trust_revocation.add_arguments, trust_revocation.revoke),
    Command(
        "trust",
        "status",
        "tell whether a capability was revoked",
        trust_revocation.add_arguments,
        trust_revocation.status,
    ),
    Command("receipt", "list", "print receipts, one a line", receipt_list.add_arguments, receipt_list.run),
    Command("receipt", "show", "print one receipt", receipt_show.add_arguments, receipt_show.run),
    Command("receipt", "verify", "check receipts", receipt_verify.add_arguments, receipt_verify.run),
    Command(
        "receipt",
        "diff",
        "tell what observe mode would have refused",
        receipt_diff.add_arguments,
        receipt_diff.run,
        receipt_diff.DESCRIPTION,
    ),
    Command(
        "receipt",
        "fsck",
        "tell whether a store is what the sidecar wrote",
        receipt_fsck.add_arguments,
        receipt_fsck.run,
        receipt_fsck.DESCRIPTION,
    ),
    Command("approval", "list", "print what waits for a person", approval.add_list_arguments, approval.run_list),
    Command("approval", "show", "print one question, or its answer", approval.add_show_arguments, approval.run_show),
    Command(
        "approval",
        "respond",
        "approve or deny a request",
        approval.add_respond_arguments,
        approval.run_respond,
        approval.DESCRIPTION,
    ),
    Command(
        "capability",
        "issue",
        "make a capability token",
        capability_issue.add_arguments,
        capability_issue.run,
        capability_issue.DESCRIPTION,
    ),
    Command(
        None,
        "check",
        "tell what governs an application",
        check.add_arguments,
        check.run,
        check.DESCRIPTION,
    ),
    Command(
        None,
        "openapi",
        "write the document that a sidecar takes as --spec",
        openapi.add_arguments,
        openapi.run,
        openapi.DESCRIPTION,
        openapi.FORMATS,
    ),
    Command(
        None,
        "doctor",
        "look at settings, packages, clock, key, store and sidecar",
        doctor.add_arguments,
        doctor.run,
        doctor.DESCRIPTION,
    ),
    Command(
        None,
        "explain",
        "tell why a request was refused, and what would pass",
        explain.add_arguments,
        explain.run,
        explain.DESCRIPTION,
    ),
    Command(
        None,
        "viewer",
        "show the receipts of a store in a browser",
        viewer.add_arguments,
        viewer.run,
        viewer.DESCRIPTION,
    ),
)

GROUPS = {
    "api": "govern HTTP applications",
    "trust": "issue and revoke capabilities",
    "receipt": "read and check receipts",
    "approval": "answer what waits for a person",
    "capability": "make capability tokens",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error, 2 for wrong usage (by `SystemExit`).

    Args:
        argv: the arguments; those of the process by default.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except ChioError as exc:
        report_error(exc, as_json=wants_json(args))
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="The embedded Chio sidecar, its trust service and their records.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {package_version()}")
    add_global_options(parser, inner=False)
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    inner = {
        name: groups.add_parser(name, help=text, allow_abbrev=False).add_subparsers(metavar="COMMAND", required=True)
        for name, text in GROUPS.items()
    }
    for command in COMMANDS:
        parent = groups if command.group is None else inner[command.group]
        leaf = parent.add_parser(
            command.name,
            help=command.help,
            description=command.description or f"{command.help.capitalize()}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(leaf)
        add_global_options(leaf, inner=True, formats=command.formats)
        leaf.set_defaults(run=command.run)
    return parser
