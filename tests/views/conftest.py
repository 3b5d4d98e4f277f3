"""The views of all frameworks need Django configured before any of them is imported."""

from __future__ import annotations

from tests.django import project  # noqa: F401
