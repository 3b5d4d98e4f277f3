"""What an application finds when it starts: settings, and the versions of Python and of the installed libraries."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distributions, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource

from chio_core.errors import ConfigurationError
from chio_core.settings import ChioSettings
from chio_core.settings_report import nearest_name, unknown_names, unsafe_options
from chio_sidecar.config import trusted_issuers_from
from chio_sidecar.doctor import Check
from chio_sidecar.store.driver import FIRST_SAFE_WAL, sqlite3

Source = Literal["keyword", "environment", ".env", "default"]

DISTRIBUTION = "chio-frameworks"

OLDEST_PYTHON = (3, 11)

PUBLISHED = {"chio-asgi": "chio_asgi", "chio-fastapi": "chio_fastapi", "chio-django": "chio_django"}
"""Published distributions whose import names this one also has."""

HARMLESS = {"chio-sdk-python": "chio_sdk", "chio-sdk": "chio"}
"""Published distributions of the same family with other import names."""

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*(?:>=\s*(?P<least>[0-9][0-9.]*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["'](?P<extra>[^"']+)["']""")

_REMEDIES = {
    "fail_open": "set CHIO_FAIL_OPEN=false, unless requests may run without a decision",
    "trusted_kernel_keys": "set CHIO_TRUSTED_KERNEL_KEYS to the sidecar's public key",
    "sidecar_url": "use https:// or unix:, or let the sidecar run on this machine",
    "capability_in_query": "have clients send the capability header instead",
    "exclude_methods": "leave only OPTIONS in CHIO_EXCLUDE_METHODS, or nothing",
    "observe": "switch observe mode off once `chio-sidecar receipt diff` shows what you expect",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where `CHIO_*` names are set; the names in upper case, without values.

    Attributes:
        environment: names of the process's environment.
        file: names of the file `.env` in the working folder.
    """

    environment: frozenset[str]
    file: frozenset[str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Sources:
        """Read the names of the process's environment `environ` and of `.env`.

        Raises:
            ConfigurationError: the file `.env` is no UTF-8 text.
        """
        try:
            file = DotEnvSettingsSource(ChioSettings).env_vars
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError("the file .env cannot be read as UTF-8 text; correct or remove it") from None
        named = [{name.upper() for name in names if name.upper().startswith("CHIO_")} for names in (environ, file)]
        return cls(*map(frozenset, named))

    def of(self, option: str) -> Source:
        """Return where an option's value comes from if no keyword gives it."""
        name = f"CHIO_{option.upper()}"
        if name in self.environment:
            return "environment"
        return ".env" if name in self.file else "default"


def check_settings(settings: ChioSettings, sources: Sources, *, base: ChioSettings | None = None) -> Iterator[Check]:
    """Yield one check for each setting.

    Args:
        settings: the effective settings.
        sources: where names are set.
        base: the settings without the application's keywords, if `settings` are an application's own.
    """
    unsafe = unsafe_options(settings)
    for option in type(settings).model_fields:
        value = getattr(settings, option)
        source = sources.of(option)
        # A keyword may repeat the environment's value: then the environment is the source.
        if base is not None and option in settings.model_fields_set:
            source = source if source != "default" and getattr(base, option) == value else "keyword"
        if isinstance(value, SecretStr):
            shown = "set, not shown"
        elif isinstance(value, (frozenset, tuple)):
            shown = ", ".join(sorted(map(str, value))) or "none"
        elif isinstance(value, bool):
            shown = str(value).lower()
        else:
            shown = "none" if value is None or value == "" else str(value)
        facts = {"value": shown, "source": source}
        if option in unsafe:
            text, remedy = f"{shown} ({source}): {unsafe[option]}", _REMEDIES.get(option)
            yield Check(f"setting.{option}", "warn", text, remedy, facts)
        else:
            yield Check(f"setting.{option}", "ok", f"{shown} ({source})", None, facts)


def check_names(environ: Mapping[str, str], sources: Sources) -> Iterator[Check]:
    """Yield a warning for each `CHIO_*` name that has no meaning, and a check of the trusted issuers."""
    for name in unknown_names(dict.fromkeys(sources.environment | sources.file, "")):
        near = nearest_name(name)
        remedy = f"did you mean {near}?" if near else "remove it, or see the list of settings"
        yield Check(f"environment.{name}", "warn", "this name has no meaning", remedy)
    try:
        issuers = trusted_issuers_from(environ)
    except ConfigurationError as exc:
        yield Check("issuers", "fail", exc.message, "write public keys as 64 hex digits, separated by commas")
        return
    if issuers:
        yield Check("issuers", "ok", f"capabilities of {len(issuers)} issuers count besides the sidecar's own")


def check_versions(
    needed: Iterable[str] | None = None,
    *,
    installed: Callable[[str], str] = version,
    python: tuple[int, ...] = sys.version_info[:3],
    sqlite: tuple[int, ...] = sqlite3.sqlite_version_info,
) -> Iterator[Check]:
    """Yield one check for Python, SQLite and each library.

    Args:
        needed: requirements as package metadata states them; None: those of this distribution.
        installed: returns the version of a distribution, or raises `PackageNotFoundError`.
        python, sqlite: versions that run.
    """
    good = python >= OLDEST_PYTHON
    remedy = None if good else f"use {_dotted(OLDEST_PYTHON)} or newer"
    yield Check("version.python", "ok" if good else "fail", _dotted(python), remedy)
    text = (
        f"{_dotted(sqlite)}, with a safe write-ahead log"
        if sqlite >= FIRST_SAFE_WAL
        else f"{_dotted(sqlite)}, so the store uses a rollback journal"
        f" (write-ahead logs are safe from {_dotted(FIRST_SAFE_WAL)} on)"
    )
    yield Check("version.sqlite", "ok", text)
    if needed is None:
        try:
            needed = requires(DISTRIBUTION)
        except PackageNotFoundError:
            needed = None
    known = list(needed or ())
    if not known:
        yield Check(
            f"version.{DISTRIBUTION}", "warn", "it runs without being installed, so the least versions are not known",
            "pip install -e . in the checkout, or pip install the wheel",
        )  # fmt: skip
    libraries: dict[tuple[str, str], Check] = {}  # several extras may need the same library: it is reported once
    for requirement in known:
        specifier, _, marker = requirement.partition(";")
        match, extra = _REQUIREMENT.match(specifier.strip()), _EXTRA.search(marker)
        if match is None:
            continue
        name, least = match["name"], match["least"]
        try:
            found = installed(name)
        except PackageNotFoundError:
            if extra is not None or marker.strip():
                continue  # not needed here
            check = Check(f"version.{name}", "fail", "not installed", f"pip install '{name}>={least or 0}'")
        else:
            check = Check(f"version.{name}", "ok", f"{found} (least: {least or 'any'})")
            if least is not None and _numbers(found) < _numbers(least):
                text = f"{found} is older than {least}, the least that works"
                check = Check(f"version.{name}", "fail", text, f"pip install '{name}>={least}'")
        libraries.setdefault((check.name, check.text), check)
    yield from libraries.values()


def check_distributions(path: Sequence[str] | None = None) -> Iterator[Check]:
    """Yield a check for each import name that two distributions claim, and for related distributions.

    Args:
        path: folders to search; None: those of this interpreter.
    """
    found: dict[str, Distribution] = {}
    for one in distributions() if path is None else distributions(path=list(path)):
        found.setdefault(_name(one), one)  # the first on the path is the one that is imported
    rivals = [name for name in PUBLISHED if name in found]
    own = [found[DISTRIBUTION]] if DISTRIBUTION in found else []
    for name in rivals:
        module, claimants = PUBLISHED[name], [found[name], *own]
        owner, origin = _owner(module, path, claimants)
        titles = " and ".join(f"{_name(one)} {one.version}" for one in claimants)
        verb = "both claim" if own else "claims"
        text = f"{titles} {verb} {module}; imported is that of {owner}" + (f" ({origin})" if origin is not None else "")
        remedy = f"pip uninstall -y {' '.join(rivals)} && pip install --force-reinstall --no-deps -e CHECKOUT"
        yield Check(f"package.{module}", "fail" if owner in rivals else "warn", text, remedy, {"owner": owner})
    for name in HARMLESS:
        if name in found:
            text = f"{name} {found[name].version} is installed; its import name {HARMLESS[name]} is not claimed twice"
            yield Check(f"package.{HARMLESS[name]}", "ok", text)
    if not rivals:
        yield Check("package", "ok", f"no other distribution claims {', '.join(PUBLISHED.values())}")


def _owner(module: str, path: Sequence[str] | None, claimants: Iterable[Distribution]) -> tuple[str, Path | None]:
    """Return which distribution the imported file comes from, the one that was installed last, and that file."""
    try:
        spec = find_spec(module) if path is None else PathFinder.find_spec(module, list(path))
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        return "no distribution", None
    origin = Path(spec.origin)
    try:
        content = origin.read_bytes()
    except OSError:
        return "an unreadable file", origin
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    for one in claimants:
        for file in one.files or ():
            recorded = file.hash if str(file) == f"{module}/__init__.py" else None
            if recorded is not None and (recorded.mode, recorded.value) == ("sha256", digest):
                return _name(one), origin
    return "a folder that no distribution has recorded", origin


def _name(distribution: Distribution) -> str:
    return (distribution.metadata["Name"] or "").lower().replace("_", "-")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release numbers of a version, without trailing zeros: `5.2.0rc1` is (5, 2)."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text.rpartition("!")[2].lstrip("v"))
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
