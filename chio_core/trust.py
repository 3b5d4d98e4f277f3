"""KeyTrust: which kernel keys count, and what was said about it once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from chio_core.names import LOGGER
from chio_core.receipts import Expectation

log = logging.getLogger(LOGGER)

_MAX_NOTED = 1000


class KeyTrust:
    """The trusted kernel keys of one client.

    With pinned keys, exactly those. Without, the key of the first good receipt is trusted for as long as this
    object lives; that is said in one warning, and any other key is refused from then on.

    Args:
        pinned: public keys in hex; empty for trust on first use.
    """

    def __init__(self, pinned: Collection[str] = ()) -> None:
        self._keys: frozenset[str] | None = frozenset(pinned) or None
        self._lock = threading.Lock()
        self._noted: set[str] = set()

    def keys(self) -> frozenset[str] | None:
        """Return the keys that count; None while the first one is still to be seen."""
        return self._keys

    def remember(self, key: str) -> None:
        """Trust `key` if none is trusted yet.

        Two first answers may arrive at once: the one that is second here must not slip through unchecked.

        Raises:
            ReceiptRejected: another key was trusted in the meantime.
        """
        if self._keys is not None and key in self._keys:
            return
        with self._lock:
            if self._keys is None:
                self._keys = frozenset({key})
                log.warning(
                    "chio: trusting kernel key %s on first use; pin it with CHIO_TRUSTED_KERNEL_KEYS=%s",
                    key,
                    key,
                )
        if key not in self._keys:
            from chio_core.errors import ReceiptRejected

            raise ReceiptRejected("kernel_key", "another kernel key was trusted first")

    def note_route(self, pattern: str, expectation: Expectation) -> None:
        """Warn once a route when the sidecar judged the plain path because it does not know the template."""
        template = expectation.template
        if template is None or pattern == template or template in self._noted or "{" not in template:
            return
        if pattern != expectation.request.path:
            return
        if len(self._noted) < _MAX_NOTED:
            self._noted.add(template)
            log.warning(
                "chio: the sidecar does not know route %s and judged the plain path; give it the OpenAPI document",
                template,
            )
