"""The trust service: it issues and revokes capabilities (`chio-sidecar trust serve`)."""
