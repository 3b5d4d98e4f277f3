"""ChioASGIConfig: the options of the middleware."""

from __future__ import annotations

from chio_core.settings import ChioSettings


class ChioASGIConfig(ChioSettings):
    """The options of `ChioASGIMiddleware`: all of `chio_core.ChioSettings`, under the published name."""
