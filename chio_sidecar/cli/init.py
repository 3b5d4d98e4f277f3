"""`init`: prepare the folder of an application for Chio, in observe mode, and change nothing that is there."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chio_sidecar.cli.options import URL_VARIABLE, store_of_url, wants_json
from chio_sidecar.cli.project import TEST_FILE, Project, Starter, read_project, starter
from chio_sidecar.cli.terminal import CliError, compact, emit, printable, say
from chio_sidecar.store.place import DatabasePlace

DESCRIPTION = """\
Prepare the current folder for a governed application: settings in .env (an embedded sidecar, observe mode), entries of
.gitignore for its store and its private key, and a first test. The framework is read from the sources: Django's
manage.py, else an application of FastAPI, Flask or Starlette in this folder, src, or up to four folders down, without
tests, environments and hidden folders; nothing is imported. What exists is kept: a setting, an
entry and a test file that are there already are not changed. Then the lines are printed that remain to be written.

    chio-sidecar init
    chio-sidecar init --dry-run
    chio-sidecar init shop:app                             an application that is not found, or one of several
"""

_PLACE: Final = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*(?:\(\))?")
_OBSERVE: Final = "CHIO_OBSERVE"
_STORE: Final = "chio.sqlite3"
_KEYS: Final = "*.sqlite3.key"  # of a store whose path the program puts together


@dataclass(frozen=True)
class Change:
    """What is added to one file.

    Attributes:
        path: the file.
        about: what is added, or why nothing is; never a value of a setting.
        lines: what is added; nothing if the file stays as it is.
        before: the text of the file, or None without one.
        mode: permissions of a new file, less the umask.
    """

    path: Path
    about: str
    lines: Sequence[str] = ()
    before: str | None = None
    mode: int = 0o666

    @property
    def state(self) -> str:
        """Return "kept", "written" or "extended"."""
        return "kept" if not self.lines else "written" if self.before is None else "extended"

    def write(self) -> None:
        """Write the lines to the end of the file, after an empty line.

        Raises:
            CliError: the file cannot be written.
        """
        gap = "" if not self.before else "\n" if self.before.endswith("\n") else "\n\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if self.before is None else 0)
        try:
            with open(os.open(self.path, flags, self.mode), "w", encoding="utf-8", newline="") as file:
                file.write(gap + "\n".join(self.lines) + "\n")
        except OSError as exc:
            fix = "make it writable, or change to the folder of the application"
            raise CliError(f"cannot write {self.path}: {exc.strerror}", fix=fix) from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `init`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help="the application, for example main:app")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def run(args: argparse.Namespace) -> int:
    """Write the files, and print what was done and what to do next.

    Raises:
        CliError: a file cannot be read or written, or no such application is here.
        ConfigurationError: the `CHIO_SIDECAR_URL` in `.env` cannot be read.
    """
    try:
        folder = Path.cwd()
    except OSError as exc:
        raise CliError(f"the current folder cannot be used: {exc.strerror}", fix="change to an existing one") from None
    if args.app is not None and _PLACE.fullmatch(args.app) is None:
        raise CliError(f"{args.app[:200]!r} is not an application", fix="write MODULE:APP, for example main:app")
    project = read_project(folder, args.app)
    if project.elsewhere is not None:
        raise CliError(
            f"the application is in {project.elsewhere}, a project of its own",
            fix=f"cd {shlex.quote(project.elsewhere)} && chio-sidecar init",
        )
    if args.app is not None and not (project.source and project.source.is_file()):
        raise CliError(f"this folder has no module of {args.app}", fix="change to the folder that has it")
    found = None
    if project.framework is not None and project.place is not None:
        found = starter(project.framework, project.place, project.root)

    # The private key is ignored before a setting can have it made.
    settings, environment = _settings(folder / ".env", project)
    private = _private_files(folder, environment, project.stores)
    # `.env` may hold a secret: a token, an address with a password, a setting of another program.
    has_secrets = any(
        not name.startswith("CHIO_") or (name.endswith("_TOKEN") and value) or "@" in value
        for name, value in environment.items()
    )
    secrets = ["/.env"] if has_secrets else []
    changes = [_ignored(folder / ".gitignore", [*(f"/{name}" for name in private), _KEYS, *secrets]), settings]
    if found is not None:
        test = folder / TEST_FILE
        is_there = os.path.lexists(test)
        lines = [] if is_there else found.test.splitlines()
        changes.append(Change(test, "it exists" if is_there else f"tests {project.place}", lines))
    if not args.dry_run:
        for change in changes:
            if change.lines:
                change.write()

    steps = _next_steps(folder, project, found, environment)
    if wants_json(args):
        files = [{"file": one.path.name, "state": one.state, "about": one.about} for one in changes]
        emit(compact({"files": files, "dry_run": args.dry_run, "next": steps}))
    else:
        for one in changes:
            would = "would be " if args.dry_run and one.lines else ""
            emit(printable(f"{one.path.name}: {would}{one.state}: {one.about}"))
        for step in ("", *steps):
            emit(printable(step))
    _warn_of_leaks(folder, [*private, _KEYS], secrets)
    return 0


def _settings(path: Path, project: Project) -> tuple[Change, Mapping[str, str]]:
    """Return what is added to `.env`, and all settings with their values, the new ones included."""
    from pydantic_settings import DotEnvSettingsSource

    from chio_core.settings import ChioSettings

    text = _text(path)
    found = {name.upper(): value or "" for name, value in DotEnvSettingsSource(ChioSettings).env_vars.items()}
    # Commands then read the store that the application names in its code.
    store = next((one for one in project.stores if re.fullmatch(r"[\w./-]+", one)), _STORE)
    added = {URL_VARIABLE: f"embedded:{store}"} if URL_VARIABLE not in found else {}
    # An application that is governed already must not stop refusing because its folder is prepared once more.
    if added and not project.governed and _OBSERVE not in found:
        added[_OBSERVE] = "true"
    about = ", ".join([*added, *(f"{name} is kept" for name in (URL_VARIABLE, _OBSERVE) if name in found)])
    comment = "# Chio: the sidecar runs in the process of the application."
    comment += " While it observes, it refuses nothing." if _OBSERVE in added else ""
    lines = [comment, *(f"{name}={value}" for name, value in added.items())] if added else []
    # Its owner's alone: people add secrets to it.
    return Change(path, about, lines, text, mode=0o600), found | added


def _ignored(path: Path, wanted: Sequence[str]) -> Change:
    """Return what is added to `.gitignore`."""
    text = _text(path)
    present = {line.strip().removeprefix("/") for line in (text or "").splitlines()}
    missing = [line for line in wanted if line.removeprefix("/") not in present]
    lines = ["# Chio: receipts, the private keys that sign them, and secrets", *missing] if missing else []
    return Change(path, ", ".join(missing) or "it has every entry", lines, text)


def _next_steps(folder: Path, project: Project, found: Starter | None, environment: Mapping[str, str]) -> list[str]:
    """Return the lines that remain to be written and run."""
    if found is None or project.source is None:
        return [
            "No application of FastAPI, Django, Flask or Starlette was found here, so no test was written.",
            "Change to the folder of manage.py, or name the application: chio-sidecar init MODULE:APP",
        ]
    steps = []
    if not project.governed:
        steps = [
            f"{found.where} {os.path.relpath(project.source, folder)} write:",
            *(f"    {one}" for one in found.govern),
        ]
    steps += ["Then run:", f"    {found.run}", f"    {found.serve}"]
    if environment.get(_OBSERVE, "").lower() in ("1", "true", "on", "yes", "t", "y"):
        steps += [
            "    chio-sidecar receipt diff        what would have been refused, and the line that opens it",
            f"To refuse, remove {_OBSERVE} from .env.",
        ]
    return steps


def _private_files(folder: Path, environment: Mapping[str, str], stores: Sequence[str]) -> list[str]:
    """Return patterns for the files in this folder that hold receipts or keys.

    SQLite's files and the key beside a store have its name, and more at the end.

    Args:
        environment: the settings of `.env`; those of the process count too.
        stores: the files that the sources name.
    """
    named = [Path(store) for store in stores]
    for settings in (environment, os.environ):
        store = store_of_url(settings.get(URL_VARIABLE, ""))
        if store is not None:
            named += filter(None, [store.path.key_path if isinstance(store.path, DatabasePlace) else store.path])
        if seed := settings.get("CHIO_AUTHORITY_SEED_FILE"):
            named.append(Path(seed))
    paths = [Path(os.path.normpath(folder / one)) for one in named]
    inside = [one.relative_to(folder).as_posix() for one in paths if one != folder and one.is_relative_to(folder)]
    return [re.sub(r"([\\*?\[\] ])", r"\\\1", name) + "*" for name in dict.fromkeys(inside)]


def _text(path: Path) -> str | None:
    """Return the text of a file, or None without one."""
    try:
        if path.exists() and not path.is_file():
            raise CliError(f"{path} is no regular file", fix="write its lines by hand")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeError:
        raise CliError(f"{path} is not UTF-8 text", fix="convert it, or write the lines by hand") from None
    except OSError as exc:
        raise CliError(f"cannot read {path}: {exc.strerror}") from None


def _warn_of_leaks(folder: Path, private: Sequence[str], secrets: Sequence[str]) -> None:
    """Warn of settings that others can read, and of private files that git has or would add in spite of .gitignore."""
    dotenv = folder / ".env"
    if secrets and dotenv.exists() and dotenv.stat().st_mode & 0o077:
        say("warning: other users of this machine can read the settings in .env: chmod 600 .env")
    if shutil.which("git") is None:
        return
    command = ["git", "-c", "core.fsmonitor=false", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    paths = [*private, *(name.removeprefix("/") for name in secrets)]
    listed = subprocess.run([*command, *paths], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    for name in listed.stdout.splitlines():
        say(printable(f"warning: git has {name}, or would add it: git rm --cached {name}, and make a new secret"))
