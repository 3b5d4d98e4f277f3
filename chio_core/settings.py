"""ChioSettings: the one list of options.

A keyword beats the environment (`CHIO_*`), which beats a `.env` file, which beats the default. Comma lists
are accepted where a set is wanted. `report_settings` says once, at start, which choices are unsafe and which
`CHIO_*` names nobody knows.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict, SettingsError

from chio_core.errors import ConfigurationError
from chio_core.names import CAPABILITY_HEADER, LOGGER, RECEIPT_HEADER
from chio_core.refusals.problems import checked_page
from chio_core.signing import normalize_public_key

log = logging.getLogger(LOGGER)

NameSet = Annotated[frozenset[str], NoDecode]
NameTuple = Annotated[tuple[str, ...], NoDecode]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2

_TAKEN = frozenset({
    "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "date", "host",
    "location", "set-cookie", "transfer-encoding", "upgrade", "www-authenticate",
})  # fmt: skip

FOREIGN_NAMES = frozenset({
    "CHIO_API_PROTECT_CONTROL_TOKEN", "CHIO_BIN", "CHIO_GUARDS", "CHIO_SERVICE_TOKEN", "CHIO_SIDECAR_CONTROL_TOKEN",
    "CHIO_TRUSTED_APPROVERS", "CHIO_TRUSTED_ISSUER_KEY", "CHIO_TRUSTED_ISSUER_KEYS",
})  # fmt: skip
"""`CHIO_*` names that other parts of the system read: the sidecar, its command line, the examples."""


class ChioSettings(BaseSettings):
    """Every option of the middleware, the adapters and the client. Times are seconds, sizes bytes.

    Raises:
        ConfigurationError: a value cannot be used, or a keyword is no option. The text names the option and the
            rule that it breaks, and repeats no value. (A `ConfigurationError` is a `ValueError`.)
    """

    model_config = SettingsConfigDict(
        env_prefix="CHIO_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    sidecar_url: str = Field(
        "http://127.0.0.1:9090",
        description="Where the sidecar listens: `http://`, `https://`, `unix:/path/to.sock` or `embedded:FILE`.",
    )
    timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Longest time that one decision may take, waiting for a connection included.",
    )
    connect_timeout: float = Field(2.0, gt=0, le=300, description="Longest time to open one connection.")
    max_connections: int = Field(64, ge=1, le=4096, description="Connections to the sidecar, per process.")
    exclude_paths: NameSet = Field(
        frozenset(),
        description="Paths that are not governed; exactly these, compared as the router sees them.",
    )
    exclude_prefixes: NameSet = Field(
        frozenset(),
        description="Not governed with all below: `/static` covers `/static` and `/static/a`, not `/statics`.",
    )
    exclude_methods: NameSet = Field(frozenset({"OPTIONS"}), description="Methods that are not governed.")
    receipt_header: str = Field(RECEIPT_HEADER, description="Response header that carries the receipt id.")
    capability_header: str = Field(CAPABILITY_HEADER, description="Request header that carries the capability token.")
    capability_in_query: bool = Field(
        False,
        description="Accept the token as query parameter `chio_capability` too; it lands in access logs.",
    )
    api_key_header: str = Field("x-api-key", description="Request header read as an API key.")
    session_cookie: str = Field("session", description="Cookie read as the caller's identity; empty for none.")
    fail_open: bool = Field(
        False, description="Let requests pass without a decision when the sidecar is unreachable or too slow."
    )
    observe: bool = Field(
        False,
        description="Record every decision and refuse nothing: a refusal is logged and marked, and the request runs.",
    )
    observe_paths: NameSet = Field(
        frozenset(),
        description="The same for these paths only; exactly these, compared as the router sees them.",
    )
    observe_prefixes: NameSet = Field(
        frozenset(),
        description="The same with all below: `/v2` covers `/v2` and `/v2/a`, not `/v20`.",
    )
    trusted_kernel_keys: NameTuple = Field(
        (),
        description="Public keys (hex) whose receipts count. Empty: the first key seen is trusted by this process.",
    )
    receipt_tolerance: float = Field(
        60.0, ge=0, description="How far a receipt's time may be from this clock, in either direction."
    )
    max_body_bytes: int = Field(
        10 * 1024 * 1024,
        ge=0,
        description="Largest request body; a larger one is answered 413, the sidecar not asked.",
    )
    spool_bytes: int = Field(
        1024 * 1024, ge=0, description="Bodies above this wait in a temporary file instead of memory."
    )
    explain_url: str | None = Field(
        None,
        description="Page that explains a refusal, for example the viewer; linked, with the receipt's id at the end"
        " or in place of `{receipt_id}`.",
    )
    control_token: SecretStr | None = Field(None, description="Bearer for the sidecar's control plane.")

    @field_validator(
        "exclude_paths",
        "exclude_prefixes",
        "exclude_methods",
        "observe_paths",
        "observe_prefixes",
        "trusted_kernel_keys",
        mode="before",
    )
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text.startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                raise ValueError("starts with [ but is no JSON list; write a, b, c or a list of strings") from None
        return [part.strip() for part in text.split(",") if part.strip()]

    @field_validator("sidecar_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        value = value.strip()
        parts = urlsplit(value)
        if parts.scheme in ("http", "https"):
            if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError("must be http(s)://HOST[:PORT][/BASE] without user, query or fragment")
            _ = parts.port  # raises ValueError for a port that is no port
            if not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError("must be printable ASCII without spaces; write other characters as %XX or punycode")
        elif parts.scheme in ("unix", "embedded"):
            if not value.partition(":")[2].strip("/"):
                raise ValueError(f"{parts.scheme}: needs a file path after the colon")
        else:
            raise ValueError("must start with http://, https://, unix: or embedded:")
        return value.rstrip("/") if parts.scheme in ("http", "https") else value

    @field_validator("explain_url")
    @classmethod
    def _page(cls, value: str | None) -> str | None:
        return checked_page(value.strip()) if value and value.strip() else None

    @field_validator("exclude_paths", "exclude_prefixes", "observe_paths", "observe_prefixes")
    @classmethod
    def _absolute_paths(cls, value: frozenset[str]) -> frozenset[str]:
        for path in value:
            if not path.startswith("/"):
                raise ValueError("each path must start with /")
        return value

    @field_validator("exclude_prefixes", "observe_prefixes")
    @classmethod
    def _prefixes_end_plain(cls, value: frozenset[str], info: ValidationInfo) -> frozenset[str]:
        prefixes = frozenset(prefix.rstrip("/") for prefix in value)
        if "" in prefixes and info.field_name == "exclude_prefixes":
            raise ValueError("'/' would exclude the whole application")
        if "" in prefixes:
            raise ValueError("'/' is the whole application; switch observe on for that")
        return prefixes

    @field_validator("exclude_methods")
    @classmethod
    def _methods_in_capitals(cls, value: frozenset[str]) -> frozenset[str]:
        return frozenset(_token(method, "a method").upper() for method in value)

    @field_validator("receipt_header", "capability_header", "api_key_header")
    @classmethod
    def _header_names(cls, value: str) -> str:
        return _token(value, "a header name")

    @field_validator("receipt_header", "capability_header")
    @classmethod
    def _own_header(cls, value: str) -> str:
        if value.lower() in _TAKEN:
            raise ValueError("names a header with a meaning of its own; choose one that nobody else uses")
        return value

    @field_validator("trusted_kernel_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normalize_public_key(key) for key in value)

    @model_validator(mode="after")
    def _connect_within_timeout(self) -> ChioSettings:
        if "connect_timeout" in self.model_fields_set and self.connect_timeout > self.timeout:
            raise ValueError("connect_timeout must not be longer than timeout")
        return self

    def __init__(self, **values: Any) -> None:
        unknown = sorted(name for name in values if name not in type(self).model_fields and name[:1] != "_")
        if unknown:
            near = difflib.get_close_matches(unknown[0], type(self).model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{unknown[0]} is not an option of Chio{hint}")
        try:
            super().__init__(**values)
        except (ValidationError, SettingsError) as exc:
            raise ConfigurationError(describe_errors(exc)) from None
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError("the file .env cannot be read as UTF-8 text; correct or remove it") from None


def check_one_source(config: object, client: object, options: Mapping[str, Any]) -> None:
    """Refuse keywords that would count for nothing, because complete settings are given beside them.

    Args:
        config: complete settings, or None.
        client: a client to share, which has settings of its own, or None.
        options: keywords.

    Raises:
        ConfigurationError: naming the keywords.
    """
    if options and (config is not None or client is not None):
        given = "config" if config is not None else "client (it has settings of its own)"
        raise ConfigurationError(f"give either {given} or keywords, not both (got {', '.join(sorted(options))})")


def _token(value: str, what: str) -> str:
    if not _TOKEN.match(value):
        raise ValueError(f"{what} consists of letters, digits and !#$%&'*+-.^_`|~")
    return value


def describe_errors(exc: ValidationError | SettingsError) -> str:
    """Turn a validation error into one line a setting, without values."""
    if isinstance(exc, SettingsError):
        return str(exc)
    lines = []
    for error in exc.errors(include_input=False, include_url=False):
        message = error["msg"].removeprefix("Value error, ")
        place = ".".join(str(part) for part in error["loc"])
        lines.append(f"{place} (environment CHIO_{str(error['loc'][0]).upper()}): {message}" if place else message)
    return "; ".join(lines)


def report_settings(
    settings: ChioSettings, environ: Mapping[str, str] | None = None, *, routes: int | None = None
) -> list[str]:
    """Log one line of INFO about what governs, and one warning for each unsafe choice and each unknown `CHIO_*` name.

    Args:
        environ: environment to look at; the process's own and the file `.env` by default.
        routes: how many of the application's routes are governed; None where nobody can tell.

    Returns:
        The sentences that were logged as warnings, secrets left out.
    """
    log.info("chio: %s", start_line(settings, routes))
    found = list(unsafe_choices(settings))
    for name in unknown_names(_environment() if environ is None else environ):
        near = nearest_name(name)
        hint = f"did you mean {near}?" if near else "is it misspelled?"
        found.append(f"environment variable {name} is not an option of Chio; {hint}")
    for sentence in found:
        log.warning("chio settings: %s", sentence)
    return found


def start_line(settings: ChioSettings, routes: int | None = None) -> str:
    """Return in one line who judges, whose receipts count, and what is not governed or not enforced.

    Args:
        routes: how many routes are governed; None where nobody can tell.
    """
    own = "its own" if settings.sidecar_url.startswith("embedded:") else "first key seen"
    open_doors = {*settings.exclude_paths, *(f"{p}/…" for p in settings.exclude_prefixes), *settings.exclude_methods}
    observed = _observed(settings)
    parts = [
        f"requests are judged by the sidecar {settings.sidecar_url}",
        f"key: {', '.join(settings.trusted_kernel_keys) or own}",
        f"governed routes: {routes}" if routes is not None else "",
        f"not governed: {', '.join(sorted(open_doors))}" if open_doors else "",
        f"observe mode {observed}" if observed else "",
        "fail_open is on" if settings.fail_open else "",
    ]
    return "; ".join(part for part in parts if part)


def _environment() -> dict[str, str]:
    # The source gives the names of the file in lower case.
    file = {name.upper(): "" for name in DotEnvSettingsSource(ChioSettings).env_vars}
    return file | dict(os.environ)


def unsafe_choices(settings: ChioSettings) -> list[str]:
    """Return one sentence for each setting that weakens governance."""
    return list(unsafe_options(settings).values())


def unsafe_options(settings: ChioSettings) -> dict[str, str]:
    """Return the options that weaken governance, each with one sentence."""
    found = {}
    if settings.fail_open:
        found["fail_open"] = (
            "fail_open is on: while the sidecar is unreachable or too slow, requests run without a decision, also"
            " those that a slow sidecar records as denied afterwards"
        )
    if observed := _observed(settings):
        found["observe"] = f"observe mode: what Chio refuses is recorded and runs nevertheless, {observed}"
    if not settings.trusted_kernel_keys and not settings.sidecar_url.startswith("embedded:"):
        found["trusted_kernel_keys"] = (
            "no trusted_kernel_keys are pinned: the first key that signs a good receipt is trusted by this process"
        )
    url = urlsplit(settings.sidecar_url)
    if url.scheme == "http" and not is_this_machine(url.hostname or ""):
        found["sidecar_url"] = (
            "sidecar_url is plain http to another machine: tokens and decisions can be read on the way"
        )
    if settings.capability_in_query:
        found["capability_in_query"] = (
            "capability_in_query is on: tokens in URLs end up in access logs and Referer headers"
        )
    if ungoverned := sorted(settings.exclude_methods - {"OPTIONS"}):
        found["exclude_methods"] = (
            f"exclude_methods lets every {' and '.join(ungoverned)} request run without a decision"
        )
    return found


def _observed(settings: ChioSettings) -> str:
    if settings.observe:
        return "on every path"
    parts = sorted({*settings.observe_paths, *(f"{prefix}/…" for prefix in settings.observe_prefixes)})
    return f"on {', '.join(parts)}" if parts else ""


def is_this_machine(host: str) -> bool:
    """Tell whether a host's name or number is that of the machine itself: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def nearest_name(name: str, more: Iterable[str] = FOREIGN_NAMES) -> str | None:
    """Return the `CHIO_*` name that somebody may have meant; None when none is near.

    Args:
        name: one of `unknown_names`.
        more: names that are read besides the options, where this one stands.
    """
    # Without the prefix, which would make everything look alike.
    options = [field.upper() for field in ChioSettings.model_fields]
    others = sorted(one.removeprefix("CHIO_") for one in more)
    near = difflib.get_close_matches(name.removeprefix("CHIO_"), [*options, *others], n=1)
    return f"CHIO_{near[0]}" if near else None


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Return the `CHIO_*` names in `environ` that no option and no other part of the system reads."""
    known = {f"CHIO_{name.upper()}" for name in ChioSettings.model_fields} | FOREIGN_NAMES
    return sorted(name for name in environ if name.startswith("CHIO_") and name not in known)
