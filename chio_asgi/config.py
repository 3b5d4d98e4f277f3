"""ChioASGIConfig: the options of the middleware, and their source."""

from __future__ import annotations

from typing import Any

from chio_core.client.client import ChioClient
from chio_core.settings import ChioSettings


class ChioASGIConfig(ChioSettings):
    """The options of `ChioASGIMiddleware`: all of `chio_core.ChioSettings`, under the published name."""


def settings_for(config: ChioSettings | None, client: ChioClient | None, **options: Any) -> ChioSettings:
    """Return the effective settings: `config`, else `client.settings`, else those of the environment.

    Args:
        options: keywords that override the environment.

    Raises:
        ConfigurationError: the environment or a keyword cannot be used.
    """
    if config is not None:
        return config
    return client.settings if client is not None else ChioASGIConfig(**options)
