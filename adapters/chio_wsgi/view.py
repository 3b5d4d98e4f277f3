"""WSGIGuardRequest: the view of a request over a WSGI environment (PEP 3333)."""

from __future__ import annotations

from typing import Any

from chio_core.threads.wsgi_view import EnvironView


class WSGIGuardRequest(EnvironView):
    """A `chio_core.GuardRequest` for one request; see `EnvironView`."""

    @property
    def url_path(self) -> str:
        """Decoded path, script name included; bytes that are not UTF-8 are replacement characters."""
        return self._decoded("SCRIPT_NAME") + self.route_path

    @property
    def route_path(self) -> str:
        """Decoded path as the application gets it, without the script name."""
        return self._decoded("PATH_INFO") or "/"

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        return str(self.environ.get("wsgi.url_scheme") or "http")

    @property
    def scope(self) -> dict[str, Any]:
        """The TLS extension where there is a client certificate. The application and its routes are not known."""
        return self.tls()

    def _decoded(self, key: str) -> str:
        return str(self.environ.get(key) or "").encode("latin-1", "replace").decode("utf-8", "replace")
