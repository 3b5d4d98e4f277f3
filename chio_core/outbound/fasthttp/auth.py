"""What the argument `auth` of a declared call takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """User and password, sent as `Authorization: Basic …`."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DigestAuth:
    """User and password for digest authentication."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """A token, sent as `Authorization: Bearer …`."""

    token: str = field(repr=False)


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def native_auth(auth: Any) -> Any:
    """Return what httpx takes as `auth`."""
    if isinstance(auth, BasicAuth):
        return httpx.BasicAuth(auth.username, auth.password)
    if isinstance(auth, DigestAuth):
        return httpx.DigestAuth(auth.username, auth.password)
    return _Bearer(auth.token) if isinstance(auth, BearerAuth) else auth
