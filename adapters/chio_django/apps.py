"""The application: `INSTALLED_APPS = ["chio_django", …]` adds the system checks. The middleware works without it."""

from __future__ import annotations

from functools import cached_property

from django.apps import AppConfig
from django.core import checks

from chio_django.checks import check_deployment, check_settings
from chio_django.context import LiveRuntime


class ChioDjangoConfig(AppConfig):
    """Registers the system checks."""

    name = "chio_django"
    verbose_name = "Chio"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_settings, checks.Tags.security)
        checks.register(check_deployment, checks.Tags.security, deploy=True)

    @cached_property
    def runtime(self) -> LiveRuntime:
        """For views that are guarded by a decorator in a project without the middleware."""
        return LiveRuntime()
