"""The authority that signs capabilities: its key, its older keys, and their rotation (wire protocol, 9.4).

A rotation makes a new signing key. The older public keys stay trusted, so that capabilities which they
signed stay good until they expire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chio_core.signing import SigningKey


@dataclass(frozen=True)
class AuthorityStatus:
    """What may be told about an authority.

    Attributes:
        generation: 1 for the first key, one more with each rotation.
        rotated_at: when the current key became active, whole seconds since 1970; None when unknown.
        trusted_keys: all public keys whose signatures count, oldest first.
    """

    public_key: str
    generation: int
    rotated_at: int | None
    trusted_keys: tuple[str, ...]


class Authority(Protocol):
    """A place that holds the signing key of an authority. Calls may block for a disk write."""

    @property
    def backend(self) -> str:
        """What the service calls this kind of place: `sqlite` or `seed_file`."""

    def status(self) -> AuthorityStatus:
        """Return the current public key and its history."""

    def signing_key(self) -> SigningKey:
        """Return the current signing key."""

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the older ones."""

    def close(self) -> None:
        """Release what is open."""
