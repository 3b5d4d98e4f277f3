"""ChioAutoSchema: what views require and state in the OpenAPI document of drf-spectacular.

Set `REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "chio_django.drf.schema.ChioAutoSchema"}`.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent

from chio_core.evaluation.requirements import RequirementSource, rules_of
from chio_core.models.openapi import (
    CAPABILITY_SCHEME,
    CAPABILITY_SCHEME_TEXT,
    SIDE_EFFECTS,
    merge_members,
    needs_capability,
)
from chio_django.conf import conf
from chio_django.drf.permissions import ChioCapability


class ChioAutoSchema(AutoSchema):
    """The schema of a view, with the security scheme of the capability header where a permission requires one."""

    def get_auth(self) -> list[dict[str, Any]]:
        """Return the alternatives of authentication, each together with the capability."""
        alternatives = super().get_auth()
        if not needs_capability(self.method.upper(), {SIDE_EFFECTS: False, **self._members()}):
            return alternatives
        scheme = {
            "type": "apiKey",
            "in": "header",
            "name": conf.settings.capability_header,
            "description": CAPABILITY_SCHEME_TEXT,
        }
        self.registry.register_on_missing(
            ResolvedComponent(CAPABILITY_SCHEME, ResolvedComponent.SECURITY_SCHEMA, scheme, ChioCapability)  # type: ignore[no-untyped-call]
        )
        return [{**one, CAPABILITY_SCHEME: []} for one in alternatives] or [{CAPABILITY_SCHEME: []}]

    def get_extensions(self) -> dict[str, Any]:
        """Return the extensions of the operation, with the `x-chio-*` members of what the view requires and states."""
        return {**super().get_extensions(), **self._members()}

    def _members(self) -> dict[str, Any]:
        handler = getattr(self.view, getattr(self.view, "action", None) or self.method.lower(), None)
        sources = list(rules_of(handler))
        for permission in self.view.get_permissions():
            sources += [permission] if isinstance(permission, RequirementSource) else rules_of(permission)
        return merge_members(source.chio_extensions() for source in sources)
