"""conf: the options of Chio, from Django's settings (`CHIO_*`), then the environment, then the defaults.

Nothing is kept here: each look reads Django's settings as they are, so `override_settings` works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from chio_core.errors import ConfigurationError
from chio_core.evaluation.policies import ViewPolicies
from chio_core.guards.chain import guard_list
from chio_core.settings import ChioSettings
from chio_core.settings_report import nearest_name, unknown_names
from chio_core.threads.guards import ChainRunner

PREFIX: Final = "CHIO_"
HOOKS: Final = (
    "CHIO_CAPABILITY", "CHIO_CLIENT", "CHIO_EXTRACTOR", "CHIO_ON_DECISION", "CHIO_ON_RECEIPT", "CHIO_REFUSAL_PAGE",
    "CHIO_SYNC_CLIENT",
)  # fmt: skip
"""Settings with a function or its dotted path; they exist in Django's settings only."""

GUARDS: Final = "CHIO_GUARDS"
"""Setting with guards: a list of objects or dotted paths, or one `Chain`."""


VIEW_POLICIES: Final = "CHIO_VIEW_POLICIES"
"""Setting with the policy of views by name or path, see `chio_core.evaluation.policies.ViewPolicies`."""


class Conf:
    """A lazy look at Django's settings."""

    @property
    def options(self) -> dict[str, Any]:
        """Options that Django's settings hold, by their name in `ChioSettings`."""
        names = {field: f"{PREFIX}{field.upper()}" for field in ChioSettings.model_fields}
        return {field: getattr(settings, name) for field, name in names.items() if hasattr(settings, name)}

    @property
    def settings(self) -> ChioSettings:
        """All options.

        Raises:
            ConfigurationError: a value cannot be used; the text names it.
        """
        return ChioSettings(**self.options)

    @property
    def unknown(self) -> dict[str, str]:
        """Unknown `CHIO_*` names in Django's settings, each with a hint."""
        present = [name for name in dir(settings) if name.startswith(PREFIX) and name.isupper()]
        hints = {}
        for name in unknown_names(dict.fromkeys(present, "")):
            if name not in HOOKS:
                near = nearest_name(name, (*HOOKS, GUARDS, VIEW_POLICIES))
                hints[name] = (
                    f"Did you mean {near}?" if near else "Remove it, or see docs/django.md for the known names."
                )
        return hints

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return the function that one of `HOOKS` names, or None.

        Raises:
            ConfigurationError: it cannot be imported, or is no function.
        """
        value = getattr(settings, name, None)
        if isinstance(value, str):
            try:
                value = import_string(value)
            except ImportError as exc:
                raise ConfigurationError(f"{name} names something that cannot be imported: {exc}") from None
        if value is not None and not callable(value):
            raise ConfigurationError(f"{name} must be a function or the dotted path of one")
        return value

    def guards(self) -> ChainRunner:
        """Return the guards around the decision; a path may name a guard, a chain, or a class without arguments.

        Raises:
            ConfigurationError: one cannot be imported, is no guard, or they cannot work in this order.
        """
        value = getattr(settings, GUARDS, ())
        return ChainRunner(list(map(_guard, guard_list(value, GUARDS))))

    def view_policies(self) -> ViewPolicies:
        """Return what the settings state about views.

        Raises:
            ConfigurationError: a key or a policy cannot be used.
        """
        return ViewPolicies(getattr(settings, VIEW_POLICIES, None), VIEW_POLICIES)


def _guard(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError as exc:
            raise ConfigurationError(f"{GUARDS} names something that cannot be imported: {exc}") from None
    if isinstance(value, type):
        try:
            value = value()
        except TypeError as exc:
            raise ConfigurationError(
                f"{GUARDS}: {value.__name__} cannot be made without arguments ({exc}); make one in a module and name it"
            ) from None
    return value


conf = Conf()
