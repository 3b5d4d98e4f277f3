"""Issue capabilities from the application's own authority, for example when a user logs in.

The authority is the first of these that the settings name:

1. a trust service (`trust_url`, `trust_token`; wire protocol, section 9.5), whose key the sidecar follows;
2. a key file (`authority_seed_file`), whose public key the sidecar has to trust (`CHIO_TRUSTED_ISSUER_KEYS`);
3. the embedded sidecar of `sidecar_url`, with its own key.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from chio_core.canonical import parse_json, sha256_hex
from chio_core.capabilities.scope import bound
from chio_core.capabilities.tokens import backdated, issue_capability, verify_capability
from chio_core.errors import ConfigurationError, InvalidDocument, NotIssued, SidecarError
from chio_core.evaluation.outcomes import granted_operations
from chio_core.models.capability import CapabilityToken, ChioScope, Operation, ToolGrant
from chio_core.models.request import CallerIdentity
from chio_core.settings import ChioSettings
from chio_core.signing import NO_SUBJECT, SigningKey, normalize_public_key

if TYPE_CHECKING:
    from chio_core.client.client import ChioClient, SyncChioClient
    from chio_core.evaluation.exchange import RawResponse

ISSUE_PATH: Final = "/v1/capabilities/issue"

NO_SUBJECT_KEY: Final = "0" * 64
"""The subject of a token that is bound to no holder (wire protocol, section 9.5)."""

_LONGEST_SEED: Final = 1024
_SEED_FILE: Final = "authority_seed_file (environment CHIO_AUTHORITY_SEED_FILE)"

Grant = str | ToolGrant | Mapping[str, Any]
"""`shop/order`, `shop/order:invoke,read`, or a grant of the protocol as a model or a JSON object."""


class Authority:
    """Issues capabilities. One of an application is enough; it may be used by all threads and event loops.

    Args:
        settings: name the authority, see the module.
        key: the authority's key, whatever the settings name; for tests.

    Raises:
        ConfigurationError: they name none.
    """

    def __init__(self, settings: ChioSettings, key: SigningKey | None = None) -> None:
        embedded = settings.sidecar_url.startswith("embedded:")
        named = settings.trust_url is not None or settings.authority_seed_file is not None or embedded
        if key is None and not named:
            raise ConfigurationError(
                "no authority issues capabilities here: set trust_url and trust_token, or authority_seed_file"
                " (environment CHIO_TRUST_URL, CHIO_TRUST_TOKEN, CHIO_AUTHORITY_SEED_FILE), or use an embedded sidecar"
            )
        self._settings = settings
        self._lock = threading.Lock()
        self._key = key
        self._remote = key is None and settings.trust_url is not None
        self._client: ChioClient | None = None
        self._sync_client: SyncChioClient | None = None

    def issue(
        self, *grants: Grant, holder: CallerIdentity | None, ttl: int = 3600, subject: str | None = None
    ) -> CapabilityToken:
        """Issue a capability, in a thread: the response of a trust service is waited for.

        Args:
            grants: what it allows, at least one.
            holder: the only caller who may present it, as later requests have it; None: any caller may.
            ttl: seconds for which it is valid, at least 1.
            subject: public key of 64 hex digits; without one it is made from the holder. It opens nothing.

        Returns:
            The token; `to_header()` is the text that callers present, `to_cookie()` the same for a cookie.

        Raises:
            ConfigurationError: the key cannot be used, or the holder is the anonymous caller.
            InvalidDocument: a grant, the subject or the lifetime is malformed.
            NotIssued: the trust service does not respond, or refuses.
        """
        scope, named = self._order(grants, holder, ttl, subject)
        if not self._remote:
            return self._signed(scope, named, ttl)
        with self._lock:
            if self._sync_client is None:
                from chio_core.client.client import SyncChioClient

                self._sync_client = SyncChioClient(self._service())
        with _explained():
            response = self._sync_client.post(ISSUE_PATH, _body(scope, named, ttl))
        return _read(response, scope, named)

    async def aissue(
        self, *grants: Grant, holder: CallerIdentity | None, ttl: int = 3600, subject: str | None = None
    ) -> CapabilityToken:
        """Issue a capability in an event loop; see `issue`."""
        scope, named = self._order(grants, holder, ttl, subject)
        if not self._remote:
            return await asyncio.to_thread(self._signed, scope, named, ttl)
        with self._lock:
            if self._client is None:
                from chio_core.client.client import ChioClient

                self._client = ChioClient(self._service())
        with _explained():
            response = await self._client.post(ISSUE_PATH, _body(scope, named, ttl))
        return _read(response, scope, named)

    def close(self) -> None:
        """Close the connections of threads to a trust service; they are opened again when they are needed."""
        with self._lock:
            client, self._sync_client = self._sync_client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close those of the running event loop too."""
        self.close()
        if self._client is not None:
            await self._client.aclose()

    def _order(
        self, grants: tuple[Grant, ...], holder: CallerIdentity | None, ttl: int, subject: str | None
    ) -> tuple[ChioScope, str]:
        """Return the scope to issue, bound to the holder, and the subject."""
        if not grants:
            raise InvalidDocument('a capability needs a grant, for example "shop/order"')
        stated = [_grant(one) for one in grants]
        held = None if holder is None else holder.holder
        if holder is not None and held is None:
            raise ConfigurationError(
                "a capability cannot be bound to the anonymous caller: give the caller of later requests as the holder"
                " (CallerIdentity.user(…), CallerIdentity.bearer(token)), or holder=None: any caller may present it"
            )
        scope = ChioScope.model_validate({"grants": stated if held is None else [bound(one, held) for one in stated]})
        if subject is not None:
            try:
                return scope, normalize_public_key(subject)
            except InvalidDocument:
                raise InvalidDocument(NO_SUBJECT) from None
        # As the protocol's mint does with a label (section 7.4): the subject tells holders apart, and opens nothing.
        return scope, NO_SUBJECT_KEY if held is None else SigningKey(
            bytes.fromhex(sha256_hex(b"chio.holder\0" + held.encode()))
        ).public_hex

    def _signed(self, scope: ChioScope, subject: str, ttl: int) -> CapabilityToken:
        if self._key is None and self._settings.authority_seed_file is not None:
            self._key = read_seed(self._settings.authority_seed_file)
        key = self._key
        if key is None:
            from chio_core.client.in_process import own_key

            # Not kept: the key may be withdrawn in the store at any time.
            key = own_key(self._settings.sidecar_url)
        begin = backdated(int(time.time()), ttl)
        return issue_capability(key, subject=subject, scope=scope, ttl_seconds=ttl, now=begin)

    def _service(self) -> ChioSettings:
        # The carriers of the sidecar's client send the control token as the bearer of this path.
        changes = {"sidecar_url": self._settings.trust_url, "control_token": self._settings.trust_token}
        return self._settings.model_copy(update={**changes, "evaluate_token": None})


def _grant(grant: Grant) -> dict[str, Any]:
    if isinstance(grant, ToolGrant):
        return grant.to_wire()
    if not isinstance(grant, str):
        return {"operations": ["invoke"], **grant}
    place, _, listed = grant.rpartition(":")
    operations = listed.split(",")
    if not place or not set(operations) <= set(get_args(Operation)):
        place, operations = grant, []
    server, slash, tool = place.partition("/")
    if not server or not slash or not tool:
        raise InvalidDocument('a grant is written "SERVER/TOOL" or "SERVER/TOOL:invoke,read", or as an object')
    return {"server_id": server, "tool_name": tool, "operations": list(granted_operations(operations))}


def _body(scope: ChioScope, subject: str, ttl: int) -> bytes:
    order = {"subjectPublicKey": subject, "scope": scope.to_wire(), "ttlSeconds": ttl}
    return json.dumps(order, separators=(",", ":")).encode()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SidecarError as exc:
        raise NotIssued(f"the trust service issued no capability: {exc.code}; is it running at trust_url?") from None


def _read(response: RawResponse, scope: ChioScope, subject: str) -> CapabilityToken:
    """Return the token of a trust service; one that differs from the order is not used."""
    if response.status != 200:
        remedy = "; check trust_token" if response.status in (401, 403) else ""
        if response.status == 409:
            remedy = "; it has no key, or its key was withdrawn: chio-sidecar trust rotate"
        raise NotIssued(f"the trust service issued no capability: status {response.status}{remedy}")
    try:
        document = parse_json(response.body)
        token = verify_capability(document.get("capability") if isinstance(document, dict) else None)
    except InvalidDocument:
        raise NotIssued("the trust service sent no valid capability; compare its clock with this one") from None
    if token.scope.to_signed() != scope.to_signed() or token.subject != subject:
        raise NotIssued("the trust service sent another capability than was ordered")
    return token


def read_seed(path: str) -> SigningKey:
    """Read the setting `authority_seed_file`.

    Raises:
        ConfigurationError: the file cannot be read, is open to other users, or holds no key; its content is not shown.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            text = file.read(_LONGEST_SEED).decode("ascii", "replace")
    except OSError as exc:
        raise ConfigurationError(f"{_SEED_FILE}: cannot read {path}: {exc.strerror}") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ConfigurationError(f"{_SEED_FILE}: {path} must be a file that only its owner may read: chmod 600")
    try:
        return SigningKey.from_seed_hex(text)
    except InvalidDocument:
        raise ConfigurationError(f"{_SEED_FILE}: {path} holds no key: 64 hex digits and a newline") from None


class Issuer:
    """An authority for one request: the caller is the holder, unless another one is named.

    Args:
        authority: returns the application's authority.
        caller: returns who is calling, as later requests will have it, or an awaitable of it.
    """

    def __init__(self, authority: Callable[[], Authority], caller: Callable[[], Any]) -> None:
        self._authority = authority
        self._caller = caller

    def issue(
        self,
        *grants: Grant,
        ttl: int = 3600,
        holder: CallerIdentity | Literal["caller"] | None = "caller",
        subject: str | None = None,
    ) -> CapabilityToken:
        """Issue a capability in a thread; see `Authority.issue`. `"caller"`: the caller of this request."""
        if holder == "caller":
            found = self._caller()
            if isinstance(found, Awaitable):
                found.close()  # type: ignore[attr-defined]
                raise ConfigurationError("a session is read asynchronously here: await aissue, or give the holder")
            holder = _usable(found)
        return self._authority().issue(*grants, holder=holder, ttl=ttl, subject=subject)

    async def aissue(
        self,
        *grants: Grant,
        ttl: int = 3600,
        holder: CallerIdentity | Literal["caller"] | None = "caller",
        subject: str | None = None,
    ) -> CapabilityToken:
        """Issue a capability in an event loop; see `issue`."""
        if holder == "caller":
            found = self._caller()
            holder = _usable((await found) if isinstance(found, Awaitable) else found)
        return await self._authority().aissue(*grants, holder=holder, ttl=ttl, subject=subject)


def _usable(caller: CallerIdentity | None) -> CallerIdentity:
    if caller is not None:
        if caller.auth_method.method == "cookie" and not caller.verified:
            # A login replaces the session, and a cookie that holds the session itself changes with it.
            raise ConfigurationError(
                "a capability is not bound to the value of a session cookie, which changes: identify users by their"
                " session (an extractor, see docs/capabilities.md), or give holder=CallerIdentity.user(…)"
            )
        return caller
    return CallerIdentity.anonymous()  # cannot be a holder, which `Authority` says
