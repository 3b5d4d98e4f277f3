"""ChioSettings: the one list of options.

A keyword beats the environment (`CHIO_*`), which beats `.env`, which beats the default. Sets may be comma lists.
`chio_core.settings_report` says at start what they are, and which of them are unsafe.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from chio_core.endpoint import Endpoint, check_socket_path, split_urls
from chio_core.errors import ConfigurationError
from chio_core.names import CAPABILITY_HEADER, RECEIPT_HEADER
from chio_core.signing import normalize_public_key

NameSet = Annotated[frozenset[str], NoDecode]
NameTuple = Annotated[tuple[str, ...], NoDecode]

RECEIPT_PLACEHOLDER = "{receipt_id}"
"""Text in the setting `explain_url` that is replaced by the receipt's id."""

LONGEST_EXPLAIN_URL = 2048
"""Most characters of the setting `explain_url`."""

# RFC 3986, section 2: the characters of a URL. It is written into a header between < and >.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2

_TAKEN = frozenset({
    "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "date", "host",
    "location", "set-cookie", "transfer-encoding", "upgrade", "www-authenticate",
})  # fmt: skip


class ChioSettings(BaseSettings):
    """Every option of the middleware, the adapters and the client. Times are seconds, sizes bytes.

    Raises:
        ConfigurationError: a value cannot be used, or a keyword is no option. The message names the option and the
            rule that it breaks, and repeats no value. (A `ConfigurationError` is a `ValueError`.)
    """

    model_config = SettingsConfigDict(
        env_prefix="CHIO_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    sidecar_url: str = Field(
        "http://127.0.0.1:9090",
        description="Where it listens: `http://`, `https://`, `unix:PATH`, a list of these, `embedded:FILE` or"
        " `embedded:postgresql://…`.",
    )
    sidecars_share_store: bool = Field(
        False,
        description="The sidecars of a list store in one database: evaluations are spread over them, and repeated.",
    )
    timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Longest time that one decision may take; at most half of it to wait for a free connection.",
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
    capability_source: str = Field(
        "header",
        description="Where the token is if the header is absent: `header` (nowhere else), `cookie:NAME`, `session` or"
        " `session:KEY`; see [who holds the capability](capabilities.md).",
    )
    capability_in_query: bool = Field(
        False,
        description="Accept the token as query parameter `chio_capability` too; it lands in access logs.",
    )
    api_key_header: str = Field("x-api-key", description="Request header read as an API key.")
    credential_headers: NameSet = Field(
        frozenset(),
        description="Further headers of outgoing calls that never follow a redirect to another origin.",
    )
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
        description="Largest request body; a larger one is refused with 413, without an evaluation.",
    )
    spool_bytes: int = Field(
        1024 * 1024, ge=0, description="Bodies above this wait in a temporary file instead of memory."
    )
    body_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Longest time for a request body to arrive, under ASGI; then 408. WSGI servers have their own.",
    )
    max_spooled_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=0,
        description="Bytes of bodies in temporary files, per process; a body that does not fit is refused with 503.",
    )
    explain_url: str | None = Field(
        None,
        description="Page that explains a refusal, for example the viewer; linked, with the receipt's id at the end"
        " or in place of `{receipt_id}`.",
    )
    evaluate_token: SecretStr | None = Field(
        None,
        description="Bearer for evaluations: the value of the sidecar's `CHIO_SIDECAR_EVALUATE_TOKEN`, if it has one.",
    )
    control_token: SecretStr | None = Field(None, description="Bearer for the sidecar's control plane.")
    trust_url: str | None = Field(
        None, description="Trust service that issues the capabilities of this application: `http(s)://` or `unix:`."
    )
    trust_token: SecretStr | None = Field(None, description="Bearer for that trust service.")
    authority_seed_file: str | None = Field(
        None,
        description="File with the key that signs them instead. Neither: the key of the embedded sidecar.",
    )

    @field_validator(
        "exclude_paths",
        "exclude_prefixes",
        "exclude_methods",
        "credential_headers",
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

    @field_validator("evaluate_token", "control_token", "trust_token")
    @classmethod
    def _bearer(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(bearer_text(value.get_secret_value()))

    @field_validator("trust_url")
    @classmethod
    def _known_service(cls, value: str | None) -> str | None:
        if value is not None and value.strip().startswith("embedded:"):
            raise ValueError("must start with http://, https:// or unix:")
        return None if value is None else _sidecar_url(value.strip())

    @field_validator("capability_source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        kind, _, name = value.strip().partition(":")
        if kind == "cookie" and name:
            return f"cookie:{_token(name, 'a cookie name')}"
        if value.strip() in ("header", "session") or (kind == "session" and name):
            return value.strip()
        raise ValueError("must be header, cookie:NAME, session or session:KEY; a function is the option capability")

    @field_validator("sidecar_url")
    @classmethod
    def _known_schemes(cls, value: str) -> str:
        urls = [_sidecar_url(url) for url in split_urls(value)]
        if len(urls) != len(set(urls)):
            raise ValueError("a list must not name one sidecar twice")
        if len(urls) > 1 and any(url.startswith("embedded:") for url in urls):
            raise ValueError("an embedded sidecar has no others beside it; name one, or a list of http(s):// and unix:")
        return ",".join(urls)

    @field_validator("explain_url")
    @classmethod
    def _usable_page(cls, value: str | None) -> str | None:
        value = value.strip() if value else None
        if not value:
            return None
        if len(value) > LONGEST_EXPLAIN_URL:
            raise ValueError(f"must have at most {LONGEST_EXPLAIN_URL:,} characters")
        if not _URL.fullmatch(value.replace(RECEIPT_PLACEHOLDER, "")):
            raise ValueError("must be printable ASCII without spaces, quotes and braces other than {receipt_id}")
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must start with http:// or https:// and name a host")
        if "@" in parts.netloc or RECEIPT_PLACEHOLDER in parts.netloc:
            raise ValueError("must name the host without credentials and without {receipt_id}")
        _check_port(parts)
        if "#" in value and RECEIPT_PLACEHOLDER not in value:
            raise ValueError("must have no fragment: the receipt's id becomes it, or write {receipt_id} in its place")
        return value

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
    def _header_names(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name != "api_key_header" and value.lower() in _TAKEN:
            raise ValueError("names a header with another meaning; choose an unused name")
        return _token(value, "a header name")

    @field_validator("credential_headers")
    @classmethod
    def _header_set(cls, value: frozenset[str]) -> frozenset[str]:
        return frozenset(_token(name, "a header name") for name in value)

    @field_validator("trusted_kernel_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normalize_public_key(key) for key in value)

    @property
    def sidecar_urls(self) -> tuple[str, ...]:
        """The addresses in `sidecar_url`, one or several."""
        return split_urls(self.sidecar_url)

    @model_validator(mode="after")
    def _several_sidecars_have_known_keys(self) -> ChioSettings:
        if len(self.sidecar_urls) > 1 and not self.trusted_kernel_keys:
            raise ValueError(
                "several sidecars need trusted_kernel_keys (CHIO_TRUSTED_KERNEL_KEYS): the public keys of all of them"
            )
        return self

    @model_validator(mode="after")
    def _connect_within_timeout(self) -> ChioSettings:
        if "connect_timeout" in self.model_fields_set and self.connect_timeout > self.timeout:
            raise ValueError("connect_timeout must not be longer than timeout")
        return self

    @model_validator(mode="after")
    def _trust_service_with_token(self) -> ChioSettings:
        if self.trust_url is not None and self.trust_token is None:
            raise ValueError("trust_url needs trust_token (environment CHIO_TRUST_TOKEN): the bearer of that service")
        return self

    def __init__(self, **values: Any) -> None:
        unknown = sorted(name for name in values if name not in type(self).model_fields and name[:1] != "_")
        if unknown:
            near = difflib.get_close_matches(unknown[0], type(self).model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{unknown[0]} is not an option of Chio{hint}")
        try:
            super().__init__(**values)
        except ValidationError as exc:
            lines = []
            for error in exc.errors(include_input=False, include_url=False):
                message = error["msg"].removeprefix("Value error, ")
                place = ".".join(str(part) for part in error["loc"])
                variable = f"CHIO_{place.partition('.')[0].upper()}"
                lines.append(f"{place} (environment {variable}): {message}" if place else message)
            raise ConfigurationError("; ".join(lines)) from None
        except SettingsError as exc:
            raise ConfigurationError(str(exc)) from None
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError("the file .env cannot be read as UTF-8 text; correct or remove it") from None


def check_one_source(config: object, client: object, options: Mapping[str, Any]) -> None:
    """Refuse keywords that would be ignored, because complete settings are given beside them.

    Args:
        config: complete settings, or None.
        client: a client to share, which has its own settings, or None.
        options: keywords.

    Raises:
        ConfigurationError: with the names of the keywords.
    """
    if options and (config is not None or client is not None):
        given = "config" if config is not None else "client (it has its own settings)"
        raise ConfigurationError(f"give either {given} or keywords, not both (got {', '.join(sorted(options))})")


def _token(value: str, what: str) -> str:
    if not _TOKEN.match(value):
        raise ValueError(f"{what} consists of letters, digits and !#$%&'*+-.^_`|~")
    return value


def bearer_text(value: str) -> str:
    """Return a bearer token without spaces around it.

    Raises:
        ValueError: it is blank, or cannot be sent in a header; the text repeats nothing of it.
    """
    text = value.strip()
    if not text:
        raise ValueError("is blank; give it a value, or unset it")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces, because it is sent in a header")
    return text


def _check_port(parts: SplitResult) -> None:
    """Check the port of a URL. The standard library's own message would repeat an invalid port, which may be a secret.

    Raises:
        ValueError: it is no number from 0 to 65535.
    """
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("must name a port from 0 to 65535, or none") from None


def _sidecar_url(value: str) -> str:
    """Check one address of a sidecar.

    Raises:
        ValueError: it cannot be used.
    """
    parts = urlsplit(value)
    if parts.scheme in ("http", "https"):
        if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must be http(s)://HOST[:PORT][/BASE] without user, query or fragment")
        # First, because two URLs with a space between them are read as one with a strange port.
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(
                "must be printable ASCII without spaces; separate several URLs with commas, "
                "and write other characters as %XX or punycode"
            )
        _check_port(parts)
    elif parts.scheme in ("unix", "embedded"):
        if not value.partition(":")[2].strip("/"):
            raise ValueError(f"{parts.scheme}: needs a file path after the colon")
        check_socket_path(Endpoint.parse(value).socket_path or "")
    else:
        raise ValueError("must start with http://, https://, unix: or embedded:")
    return value.rstrip("/") if parts.scheme in ("http", "https") else value
