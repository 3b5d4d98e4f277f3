"""What the trust service is made of, opened from its configuration."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from chio_core.errors import ConfigurationError
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.trust.authorities import Authority, SeedFileAuthority, SqliteAuthority
from chio_sidecar.trust.revocations import RevocationStore


@dataclass(frozen=True)
class TrustConfig:
    """Options of the trust service; every file is optional.

    Attributes:
        service_token: the bearer that every call but `/health` must present.
        receipt_db: a sidecar's store, read for `/v1/receipts/query`, never written.
        budget_db: accepted and reported by `/health`; nothing is kept there.
        session_db: the same.
    """

    service_token: SecretStr
    receipt_db: Path | None = None
    revocation_db: Path | None = None
    authority_db: Path | None = None
    authority_seed_file: Path | None = None
    budget_db: Path | None = None
    session_db: Path | None = None


class TrustService:
    """The opened authority and stores behind the routes.

    Args:
        config: the options.

    Raises:
        ConfigurationError: a blank token, two authorities, or a file that cannot be used.
    """

    def __init__(self, config: TrustConfig) -> None:
        self.config = config
        self._token = config.service_token.get_secret_value().encode()
        if not self._token.strip():
            raise ConfigurationError("the service token is blank; give --service-token or CHIO_SERVICE_TOKEN a value")
        self.authority = open_authority(config.authority_db, config.authority_seed_file)
        self.revocations = RevocationStore(config.revocation_db) if config.revocation_db else None

    def accepts(self, authorization: list[str]) -> bool:
        """Tell whether these `Authorization` header values are exactly one, with the service token."""
        if len(authorization) != 1 or not authorization[0].startswith("Bearer "):
            return False
        presented = authorization[0].removeprefix("Bearer ").encode("latin-1", "replace")
        return hmac.compare_digest(presented, self._token)

    def open_receipts(self) -> ReceiptReader | None:
        """Open the receipt store for one query; None when none is configured or none exists yet.

        Raises:
            ConfigurationError: the file is no receipt store.
        """
        path = self.config.receipt_db
        return ReceiptReader(path, option="--receipt-db") if path is not None and path.exists() else None

    def close(self) -> None:
        """Close every file."""
        if self.authority is not None:
            self.authority.close()
        if self.revocations is not None:
            self.revocations.close()


def open_authority(database: Path | None, seed_file: Path | None) -> Authority | None:
    """Open the authority that the options name; None when they name none.

    Raises:
        ConfigurationError: both are named, or the file cannot be used.
    """
    if database and seed_file:
        raise ConfigurationError("--authority-db and --authority-seed-file name two authorities; give only one")
    if database:
        return SqliteAuthority(database)
    return SeedFileAuthority(seed_file) if seed_file else None
