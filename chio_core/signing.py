"""Ed25519 keys and signatures, as lower-case hex text (wire protocol, conventions; RFC 8032).

libsodium does the arithmetic. It also refuses what a lenient verifier would accept: keys of small order,
non-canonical points and a scalar that is not reduced.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from chio_core.errors import InvalidDocument

_HEX = frozenset("0123456789abcdef")

NO_SUBJECT: Final = (
    "the subject is a public key of 64 hex digits, no name: leave it out, and name the user as the holder"
    " (CallerIdentity.user(…).holder, --holder)"
)
"""What to write instead of a subject such as `alice@example.com`."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that a key of this process has just made: it is known to verify, and only for these bytes.

    Attributes:
        public_hex: the public key, 64 hex digits.
        message: the bytes that were signed.
        signature: 128 hex digits.
    """

    public_hex: str
    message: bytes
    signature: str


class SigningKey:
    """A private Ed25519 key. Its `repr` does not show the seed.

    Args:
        seed: 32 secret bytes.

    Raises:
        InvalidDocument: the seed has another length.
    """

    __slots__ = ("_key", "public_hex")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise InvalidDocument(f"an Ed25519 seed has 32 bytes, this one has {len(seed)}")
        public, self._key = crypto_sign_seed_keypair(seed)
        self.public_hex: str = public.hex()

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new random key."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def from_seed_hex(cls, text: str) -> SigningKey:
        """Read a key from 64 hex digits.

        Raises:
            InvalidDocument: anything else; the message does not repeat the text.
        """
        return cls(bytes.fromhex(_digits(text, "a signing key")))

    def seed_hex(self) -> str:
        """Return the secret seed as 64 hex digits; for a key file of mode 0600 only."""
        return self._key[:32].hex()

    def sign(self, message: bytes) -> str:
        """Return the signature over `message` as 128 lower-case hex digits."""
        return crypto_sign(message, self._key)[:64].hex()

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public_hex})"


def verify_signature(public_hex: Any, message: bytes, signature_hex: Any) -> bool:
    """Return True if `signature_hex` is the signature of `message` under the public key `public_hex`.

    A malformed key or signature does not verify; nothing is raised. A signature is 128 lower-case hex digits.
    Keys and signatures of other algorithms (`p256:`, `p384:`) do not verify.
    """
    if not isinstance(public_hex, str) or not isinstance(signature_hex, str):
        return False
    key = _key_bytes(public_hex)
    if key is None:
        return False
    try:
        signature = bytes.fromhex(signature_hex)
        # `fromhex` also reads upper case and white space.
        if len(signature) != 64 or signature.hex() != signature_hex:
            return False
        crypto_sign_open(signature + message, key)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


@lru_cache(maxsize=64)
def _key_bytes(public_hex: str) -> bytes | None:
    try:
        return bytes.fromhex(normalize_public_key(public_hex))
    except InvalidDocument:
        return None


def normalize_public_key(text: str) -> str:
    """Return a public key as 64 lower-case hex digits; a leading `0x` and upper case are accepted.

    Raises:
        InvalidDocument: anything else.
    """
    return _digits(text, "an Ed25519 public key")


def _digits(text: str, what: str) -> str:
    digits = text.strip().removeprefix("0x").lower()
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise InvalidDocument(f"{what} is written as 64 hex digits")
    return digits
