"""Each setting: its value, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource

from chio_core.errors import ConfigurationError
from chio_core.settings import ChioSettings, nearest_name, unknown_names, unsafe_options
from chio_sidecar.config import trusted_issuers_from
from chio_sidecar.doctor.result import Check

Source = Literal["keyword", "environment", ".env", "default"]

_REMEDIES = {
    "fail_open": "set CHIO_FAIL_OPEN=false, unless passing unjudged is what you want",
    "trusted_kernel_keys": "set CHIO_TRUSTED_KERNEL_KEYS to the sidecar's public key",
    "sidecar_url": "use https:// or unix:, or let the sidecar run on this machine",
    "capability_in_query": "have clients send the capability header instead",
    "exclude_methods": "leave only OPTIONS in CHIO_EXCLUDE_METHODS, or nothing",
    "observe": "switch observe mode off once `chio-sidecar receipt diff` shows what you expect",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Which `CHIO_*` names stand where; upper case, without values.

    Attributes:
        environment: names of the process's environment.
        file: names of the file `.env` in this folder.
    """

    environment: frozenset[str]
    file: frozenset[str]

    def of(self, option: str) -> Source:
        """Return where an option's value comes from when no keyword gives it."""
        name = f"CHIO_{option.upper()}"
        if name in self.environment:
            return "environment"
        return ".env" if name in self.file else "default"


def environment_sources(environ: Mapping[str, str]) -> Sources:
    """Return the names that are set.

    Args:
        environ: the process's environment.

    Raises:
        ConfigurationError: the file `.env` is no UTF-8 text.
    """
    try:
        file = DotEnvSettingsSource(ChioSettings).env_vars
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("the file .env cannot be read as UTF-8 text; correct or remove it") from None
    return Sources(_ours(environ), _ours(file))


def read_settings() -> ChioSettings:
    """Return the settings of environment, `.env` and defaults.

    Raises:
        ConfigurationError: one of them cannot be used; the text names it.
    """
    return ChioSettings()


def check_settings(settings: ChioSettings, sources: Sources, *, base: ChioSettings | None = None) -> Iterator[Check]:
    """Yield one check for each setting, then the names that nobody reads.

    Args:
        settings: those that count.
        sources: where names are set.
        base: the settings without the application's keywords, when `settings` are an application's own.
    """
    unsafe = unsafe_options(settings)
    for option in type(settings).model_fields:
        value = getattr(settings, option)
        source = _source(option, settings, sources, base)
        shown = _shown(value)
        facts = {"value": shown, "source": source}
        if option in unsafe:
            yield Check(
                f"setting.{option}", "warn", f"{shown} ({source}): {unsafe[option]}", _REMEDIES.get(option), facts
            )
        else:
            yield Check(f"setting.{option}", "ok", f"{shown} ({source})", None, facts)


def check_names(environ: Mapping[str, str], sources: Sources) -> Iterator[Check]:
    """Yield a warning for each `CHIO_*` name that nobody reads, and what the trusted issuers amount to."""
    names = dict.fromkeys(sources.environment | sources.file, "")
    for name in unknown_names(names):
        near = nearest_name(name)
        remedy = f"did you mean {near}?" if near else "remove it, or see the list of settings"
        yield Check(f"environment.{name}", "warn", "nobody reads this name", remedy)
    try:
        issuers = trusted_issuers_from(environ)
    except ConfigurationError as exc:
        yield Check("issuers", "fail", exc.message, "write public keys as 64 hex digits, separated by commas")
        return
    if issuers:
        yield Check("issuers", "ok", f"capabilities of {len(issuers)} issuers count besides the sidecar's own")


def _source(option: str, settings: ChioSettings, sources: Sources, base: ChioSettings | None) -> Source:
    outside = sources.of(option)
    if base is None or option not in settings.model_fields_set:
        return outside
    if outside != "default" and getattr(base, option) == getattr(settings, option):
        return outside
    return "keyword"


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "set, not shown"
    if isinstance(value, (frozenset, tuple)):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None or value == "" else str(value)


def _ours(names: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name.upper() for name in names if name.upper().startswith("CHIO_"))
