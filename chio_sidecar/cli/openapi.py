"""`openapi`: write the document that a sidecar takes as `--spec`, made from the routes of an application."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml

from chio_core.canonical import sha256_hex
from chio_sidecar.cli.application import read_routes
from chio_sidecar.cli.options import CliError, say

FORMATS = ("human", "json", "yaml")

DESCRIPTION = """\
Write the OpenAPI document of an application for a sidecar: every route with its methods, and the policy that its
dependencies state. The application is imported, not started.

    chio-sidecar openapi main:app --output openapi.json
    chio-sidecar openapi main:app --check openapi.json     in a build: fail when the file is out of date

The document is JSON, or YAML with --format yaml or an --output that ends in .yaml or .yml. What the sidecar will
judge otherwise than the routes suggest is said on standard error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("app", metavar="MODULE:APP", help="where the application is, for example main:app")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="FILE", type=Path, help="write there instead of to standard output")
    where.add_argument("--check", metavar="FILE", type=Path, help="write nothing; exit 1 when FILE says otherwise")


def run(args: argparse.Namespace) -> int:
    """Write the document, or compare it with a file; return 1 when that differs.

    Raises:
        CliError: the application cannot be imported, or the file cannot be read or written.
    """
    document = read_routes(args.app)
    file = args.output or args.check
    text = document.text
    if args.format == "yaml" or (args.format is None and file is not None and file.suffix in (".yaml", ".yml")):
        text = yaml.safe_dump(json.loads(text), sort_keys=True)
    if args.check is not None:
        return _compare(args.check, text)
    if args.output is None:
        sys.stdout.write(text)
        return 0
    _write(args.output, text)
    say(f"wrote {document.operations} operations to {args.output}, policy hash {sha256_hex(text.encode())}")
    return 0


def _compare(path: Path, text: str) -> int:
    try:
        same = path.read_bytes() == text.encode()
    except OSError as exc:
        raise CliError(f"cannot read --check {path}: {exc.strerror}", fix="write it with --output") from None
    say(f"{path} is {'up to date' if same else 'out of date: write it again with --output'}")
    return 0 if same else 1


def _write(path: Path, text: str) -> None:
    # A sidecar that starts meanwhile reads the old document or the new one, never half of it.
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openapi-") as folder:
            new = Path(folder, path.name)
            new.write_bytes(text.encode())
            if path.exists():
                new.chmod(path.stat().st_mode & 0o777)
            new.replace(path)
    except OSError as exc:
        raise CliError(f"cannot write --output {path}: {exc.strerror}") from None
