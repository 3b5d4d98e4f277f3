"""The embedded sidecar: decisions, signed receipts, the trust service and the command `chio-sidecar`."""
