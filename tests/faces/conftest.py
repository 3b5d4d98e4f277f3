"""Django is configured before any of its modules is imported."""

from __future__ import annotations

from tests.django import project  # noqa: F401
