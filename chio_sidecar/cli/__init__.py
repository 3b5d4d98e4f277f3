"""The command `chio-sidecar`: the table of its commands, and what it prints and returns on an error."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chio_core.errors import ChioError
from chio_sidecar.cli.options import add_global_options, note_unused, option_of, wants_json
from chio_sidecar.cli.terminal import OutputError, TerminalHandler, emit, flush_output, report_error, say

__all__ = ["COMMANDS", "Command", "build_parser", "main"]

PROGRAM = "chio-sidecar"

_BROKEN_PIPE = 141  # what a shell reports for a command that SIGPIPE ended
_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        words: one word, or a group and a word.
        help: one line.
        module: module of this package that has the command. It is imported when the command is used, because most
            modules need libraries that take longer to load than other commands take to run.
        options: function of the module that adds options, default `run` and description to the command's parser.
        formats: values of `--format`.
        reads: options that may precede every command, and that have an effect on this one.
        needs: options that have no effect without another one, and that other one.
    """

    words: str
    help: str
    module: str
    options: str = "add_options"
    formats: Sequence[str] = ("human", "json")
    reads: Collection[str] = ()
    needs: Mapping[str, str] = field(default_factory=dict)


_STORE = ("receipt_store",)
_SERVICE = ("control_url", "control_token")

COMMANDS = (
    Command("init", "prepare the folder of an application: settings, .gitignore and a first test", "init"),
    Command(
        "api protect",
        "run the sidecar",
        "api_protect",
        reads=(*_SERVICE, *_STORE, "revocation_db", "authority_seed_file"),
        needs={"upstream_timeout": "upstream"},
    ),
    Command(
        "trust serve",
        "run the trust service",
        "trust",
        "add_serve_options",
        reads=(*_STORE, "revocation_db", "authority_db", "authority_seed_file", "budget_db"),
    ),
    Command(
        "trust revoke",
        "revoke a capability, or withdraw the key of an issuer and with it all that it has signed",
        "revocations",
        "add_revoke_options",
        reads=(*_SERVICE, *_STORE, "revocation_db"),
    ),
    Command(
        "trust rotate",
        "make a new signing key of the authority",
        "authority",
        "add_rotate_options",
        reads=(*_SERVICE, "authority_db"),
    ),
    Command(
        "trust status",
        "print whether a capability was revoked, or the key of an issuer withdrawn",
        "revocations",
        "add_status_options",
        reads=(*_SERVICE, *_STORE, "revocation_db"),
    ),
    Command(
        "trust list",
        "print the revoked capabilities, newest first",
        "revocations",
        "add_list_options",
        reads=(*_SERVICE, *_STORE, "revocation_db"),
    ),
    Command(
        "receipt list",
        "print receipts: a table for people, lines of JSON for programs",
        "receipts",
        "add_list_options",
        reads=(*_SERVICE, *_STORE),
    ),
    Command(
        "receipt show",
        "print one receipt",
        "receipts",
        "add_show_options",
        reads=_STORE,
        needs={"trusted_key": "verify"},
    ),
    Command("receipt verify", "verify receipts", "receipt_verify", reads=_STORE),
    Command("receipt diff", "print what observe mode would have refused", "receipt_diff", reads=_STORE),
    Command("receipt fsck", "check the integrity of a store", "receipt_store", "add_fsck_options", reads=_STORE),
    Command(
        "receipt backup",
        "copy a store while a sidecar writes to it",
        "receipt_store",
        "add_backup_options",
        reads=_STORE,
    ),
    Command(
        "receipt export",
        "write a folder of receipts for an auditor",
        "receipt_store",
        "add_export_options",
        reads=(*_STORE, "authority_seed_file"),
    ),
    Command(
        "receipt rotate",
        "archive old receipts, and keep the live state",
        "receipt_removal",
        "add_rotate_options",
        reads=(*_STORE, "authority_seed_file"),
    ),
    Command(
        "receipt erase",
        "erase the content of receipts, and leave a signed record of that",
        "receipt_removal",
        "add_erase_options",
        reads=(*_STORE, "authority_seed_file"),
    ),
    Command("store migrate", "make or extend the tables of a database", "store", "add_migrate_options", reads=_STORE),
    Command("store status", "print schema version and logs of a database", "store", "add_status_options", reads=_STORE),
    Command(
        "store backup", "copy the receipt store of a database to a file", "store", "add_backup_options", reads=_STORE
    ),
    Command("approval list", "print the pending approvals", "approvals", "add_list_options", reads=_STORE),
    Command("approval show", "print one approval, pending or resolved", "approvals", "add_show_options", reads=_STORE),
    Command("approval respond", "approve or deny a request", "approvals", "add_respond_options", reads=_STORE),
    Command(
        "capability issue",
        "issue a capability token",
        "trust",
        "add_issue_options",
        reads=(*_SERVICE, *_STORE, "authority_db", "authority_seed_file"),
    ),
    Command("check", "print what governs an application", "application", "add_check_options"),
    Command(
        "openapi",
        "write the document that a sidecar takes as --spec",
        "application",
        "add_openapi_options",
        ("human", "json", "yaml"),
    ),
    Command("doctor", "check settings, packages, clock, key, store and sidecar", "doctor", reads=_STORE),
    Command(
        "explain",
        "explain why a request was refused, and which capability would be accepted",
        "explain",
        reads=(*_SERVICE, *_STORE),
        needs={"operation": "server"}
        | dict.fromkeys(("method", "path", "arguments", "holder", "trusted_issuer"), "token"),
    ),
    Command("viewer", "show the receipts of a store in a browser", "viewer", reads=_STORE),
)

GROUPS = {
    "api": "govern HTTP applications",
    "trust": "run the trust service; rotate its key; revoke capabilities",
    "receipt": "read and verify receipts",
    "store": "prepare and copy a receipt store in PostgreSQL",
    "approval": "list and answer pending approvals",
    "capability": "issue capability tokens",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error, 2 for wrong usage (by `SystemExit`).

    Args:
        argv: the arguments; those of the process by default.
    """
    as_json = False

    def run() -> int:
        nonlocal as_json
        args = build_parser().parse_args(argv)
        as_json = wants_json(args)
        note_unused(args, args.command.words, args.command.reads)
        logging.basicConfig(level=logging.WARNING, handlers=[TerminalHandler()], format="%(levelname)s: %(message)s")
        status: int = args.run(args)
        return status

    # What was printed reaches its place, or the command has failed: also for --help, and after an error.
    try:
        try:
            return run()
        finally:
            flush_output()
    except ChioError as exc:
        with suppress(OutputError, BrokenPipeError):
            flush_output()
        report_error(exc, as_json=as_json)
        return 1
    except BrokenPipeError:  # the reader of the output has ended
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="The embedded Chio sidecar, its trust service and their records.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    add_global_options(parser, inner=False)
    groups = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_CommandParser)
    inner = {
        name: groups.add_parser(name, help=text, allow_abbrev=False).add_subparsers(metavar="COMMAND", required=True)
        for name, text in GROUPS.items()
    }
    for command in COMMANDS:
        group, _, name = command.words.rpartition(" ")
        leaf = inner.get(group, groups).add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        leaf.command = command
    return parser


class _Version(argparse.Action):
    """Prints the version, which takes longer to find than most commands take to run."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from chio_sidecar import package_version

        emit(f"{PROGRAM} {package_version()}")
        parser.exit()


class _Once(argparse.Action):
    """Stores the value of an option that takes one: argparse would keep the last of two, and say nothing."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        # The two names of a store are one option.
        name = "receipt_store" if self.dest == "receipt_db" else self.dest
        if option_string is not None and name in parser.given:
            raise argparse.ArgumentError(self, f"{parser.given[name]} was given before, and only one can count")
        if option_string is not None:
            parser.given[name] = option_string
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """A parser that accepts text in UTF-8 only, and whose errors move no cursor of a terminal.

    Attributes:
        given: the options with one value that were given to this parser, by their name; those after a command belong
            to the command's parser, and beat those before it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.given: dict[str, str] = {}
        for name in (None, "store"):
            self.register("action", name, _Once)
        self.color = False  # from Python 3.14 on argparse colours its help with controls, which `emit` escapes

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would ignore that its help could not be written.
        (say if file is None or file is sys.stderr else emit)(message.removesuffix("\n"))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        # Report it here, where the options of the command are known. What follows an option may be a secret.
        unknown = next((text.partition("=")[0] for text in rest if text.startswith("-")), None)
        if unknown is not None:
            from difflib import get_close_matches  # only a mistyped command needs it

            near = get_close_matches(unknown, self._option_string_actions, n=1)
            self.error(f"unrecognized option: {unknown}" + "".join(f"; did you mean {one}?" for one in near))
        if rest:
            self.error(f"unexpected argument: {rest[0]}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # After a mistyped option its value, perhaps a secret, is in the place of the command.
        if action.metavar == "COMMAND" and action.choices is not None and value not in action.choices:
            known = ", ".join(action.choices)
            raise argparse.ArgumentError(action, f"no such command, or an option before it is mistyped ({known})")
        super()._check_value(action, value)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found = super().parse_args(args, namespace)
        for name, value in vars(found).items():
            # The bytes of an argument that is no UTF-8 are lone surrogates here. Names of files are paths, and may be.
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and any("\udc80" <= char <= "\udcff" for char in text):
                    self.error(f"argument {name}: {text[:100]} is not UTF-8 text")
        return found


class _CommandParser(_Parser):
    """A parser that adds the options of its command when it parses: only then is the command's module imported."""

    command: Command | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        command, self.command = self.command, None
        if command is None:
            return super().parse_known_args(args, namespace)
        module = importlib.import_module(f"{__name__}.{command.module}")
        getattr(module, command.options)(self)
        add_global_options(self, inner=True, formats=command.formats, reads=command.reads)
        found, rest = super().parse_known_args(args, namespace)
        for name, other in command.needs.items():
            if getattr(found, name) != self.get_default(name) and getattr(found, other) == self.get_default(other):
                self.error(f"{option_of(name)} has no effect without {option_of(other)}")
        found.command = command
        return found, rest
