"""System checks. `manage.py check` shows errors and mistakes, `manage.py check --deploy` also what weakens governance.

| id | says |
|---|---|
| `chio.E001` | a `CHIO_*` setting cannot be used |
| `chio.E002` | a `CHIO_*` setting is not an option of Chio; its name is misspelled |
| `chio.E003` | a hook (`CHIO_EXTRACTOR`, `CHIO_ON_DECISION`, `CHIO_REFUSAL_PAGE` …) cannot be imported |
| `chio.E004` | the middleware is listed more than once |
| `chio.E005` | `CHIO_GUARDS` cannot be used, or its order cannot work |
| `chio.E006` | a store, key or document that a setting names cannot be used |
| `chio.E007` | `CHIO_VIEW_POLICIES` cannot be used |
| `chio.E008` | `CHIO_CAPABILITY_SOURCE` is a cookie or the session, and `CsrfViewMiddleware` is not installed |
| `chio.I001` | the guards, in the order in which they run |
| `chio.W001` | deploy: `CHIO_FAIL_OPEN` is on |
| `chio.W002` | deploy: `CHIO_TRUSTED_KERNEL_KEYS` is empty |
| `chio.W003` | deploy: `CHIO_SIDECAR_URL` is plain http to another machine |
| `chio.W004` | deploy: `CHIO_CAPABILITY_IN_QUERY` is on |
| `chio.W005` | the application is installed, the middleware is not |
| `chio.W006` | a page cache is outside the middleware |
| `chio.W007` | a finding about a guard, for example a limit that each process counts separately |
| `chio.W008` | deploy: `CHIO_EXCLUDE_METHODS` names more than `OPTIONS` |
| `chio.W009` | deploy: observe mode (`CHIO_OBSERVE`, `CHIO_OBSERVE_PATHS`, `CHIO_OBSERVE_PREFIXES`) |
| `chio.W010` | `CHIO_VIEW_POLICIES` is set and the middleware is not installed, or one of its keys fits no view |
| `chio.W011` | deploy: `CHIO_TRUST_URL` is plain http to another machine |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as CheckWarning
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.module_loading import import_string

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Chain, Finding
from chio_core.routes.findings import csrf_findings, route_findings
from chio_core.routes.listing import ListedRoute
from chio_core.settings import ChioSettings
from chio_core.settings_report import unsafe_options
from chio_django.conf import GUARDS, HOOKS, VIEW_POLICIES, conf
from chio_django.context import LiveRuntime
from chio_django.listing import list_routes

MIDDLEWARE: Final = "chio_django.ChioDjangoMiddleware"
_PAGE_CACHES: Final = (
    "django.middleware.cache.CacheMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
    "django.middleware.cache.UpdateCacheMiddleware",
)
_UNSAFE: Final = {
    "fail_open": ("chio.W001", "Set CHIO_FAIL_OPEN = False."),
    "trusted_kernel_keys": ("chio.W002", "Set CHIO_TRUSTED_KERNEL_KEYS to the public key of your sidecar."),
    "sidecar_url": ("chio.W003", "Use https://, unix: or an address of this machine in CHIO_SIDECAR_URL."),
    "trust_url": ("chio.W011", "Use https://, unix: or an address of this machine in CHIO_TRUST_URL."),
    "capability_in_query": ("chio.W004", "Set CHIO_CAPABILITY_IN_QUERY = False; send the token in its header."),
    "exclude_methods": ("chio.W008", 'Leave CHIO_EXCLUDE_METHODS = ["OPTIONS"]; exclude single paths instead.'),
    "observe": (
        "chio.W009",
        "Read `chio-sidecar receipt diff`, then take CHIO_OBSERVE, CHIO_OBSERVE_PATHS and CHIO_OBSERVE_PREFIXES out.",
    ),
}


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the settings can be used and that the middleware is at a place where it works."""
    found: list[CheckMessage] = []
    try:
        _ = conf.settings
    except ConfigurationError as exc:
        hint = "Correct the value in your settings module, or in the environment where it is not set there."
        found.append(Error(f"A setting of Chio cannot be used: {exc.message}", hint=hint, id="chio.E001"))
    for name, hint in conf.unknown.items():
        found.append(Error(f"{name} is not an option of Chio, so it has no effect.", hint=hint, id="chio.E002"))
    found += _check_hooks() + _check_guards() + _check_policies() + _check_files()
    return found + _check_middleware() + _check_csrf()


def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Check what weakens governance in production."""
    try:
        options: ChioSettings = conf.settings
    except ConfigurationError:
        return []  # chio.E001 says so
    return [
        CheckWarning(f"{sentence[:1].upper()}{sentence[1:]}.", hint=_UNSAFE[name][1], id=_UNSAFE[name][0])
        for name, sentence in unsafe_options(options).items()
    ]


def _check_hooks() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for name in HOOKS:
        try:
            conf.hook(name)
        except ConfigurationError as exc:
            found.append(Error(f"{exc.message}.", hint=f"Correct {name} or remove it.", id="chio.E003"))
    return found


def _check_guards() -> list[CheckMessage]:
    try:
        findings = conf.guards().chain.check()
    except ConfigurationError as exc:
        return [Error(f"{exc.message}.", hint=f"Correct {GUARDS} or remove it.", id="chio.E005")]
    return [
        Info(f"Guards run in this order: {finding.message}.", id="chio.I001")
        if finding.severity == "INFO"
        else CheckWarning(f"{finding.message}.", id="chio.W007")
        for finding in findings
    ]


def _check_policies() -> list[CheckMessage]:
    try:
        policies = conf.view_policies()
    except ConfigurationError as exc:
        return [Error(f"{exc.message}.", hint=f"Correct {VIEW_POLICIES} or remove it.", id="chio.E007")]
    if not policies:
        return []
    if not any(map(_is_ours, settings.MIDDLEWARE)):
        hint = f'Add "{MIDDLEWARE}" to MIDDLEWARE.'
        return [CheckWarning(f"{VIEW_POLICIES} has no effect without the middleware.", hint=hint, id="chio.W010")]
    hint = (
        "Name a URL pattern, all patterns that begin so (admin:*), a view (module.function), or a path of the URLconf."
    )
    return [
        CheckWarning(f"{VIEW_POLICIES}: {key!r} fits no view.", hint=hint, id="chio.W010")
        for key in policies.unused((one.name, one.template) for one in list_routes(policies))
    ]


def governing() -> tuple[Chain, ChioSettings, list[str]] | None:
    """Return what governs the project, for `chio-sidecar check`: guards, settings, classes of the middleware inside.

    Raises:
        ConfigurationError: a setting cannot be used.
    """
    listed = list(settings.MIDDLEWARE)
    at = next((place for place, path in enumerate(listed) if _is_ours(path)), None)
    if at is None:
        return None
    return conf.guards().chain, conf.settings, [path.rpartition(".")[2] for path in listed[at + 1 :]]


def findings(routes: Sequence[ListedRoute], options: ChioSettings) -> Iterator[Finding]:
    """Yield the findings of `chio-sidecar check` that are Django's own: these checks, and those of the routes."""
    for message in (*_check_hooks(), *_check_policies(), *_check_files(), *_check_middleware(), *_check_csrf()):
        severity = "ERROR" if message.is_serious() else "WARN"
        yield Finding(severity, str(message.id), f"{message.msg} {message.hint}")
    yield from route_findings(routes, options)


def _check_files() -> list[CheckMessage]:
    try:
        runtime = LiveRuntime().get()
    except ConfigurationError:
        return []  # chio.E001, E003 or E005 says so
    try:
        runtime.check()
    except ConfigurationError as exc:
        hint = "Correct the setting, or the file that it names; until then no request is served."
        return [Error(f"A file cannot be used: {exc.message}.", hint=hint, id="chio.E006")]
    return []


def _check_middleware() -> list[CheckMessage]:
    listed = list(settings.MIDDLEWARE)
    ours = [place for place, path in enumerate(listed) if _is_ours(path)]
    if not ours:
        hint = f'Add "{MIDDLEWARE}" to MIDDLEWARE, unless single views are guarded with require_capability only.'
        return [CheckWarning("chio_django is installed, but its middleware is not.", hint=hint, id="chio.W005")]
    found: list[CheckMessage] = []
    if len(ours) > 1:
        hint = f'Leave one "{MIDDLEWARE}" in MIDDLEWARE.'
        found.append(Error("Chio would evaluate every request more than once.", hint=hint, id="chio.E004"))
    for path in listed[: ours[0]]:
        if path in _PAGE_CACHES:
            hint = f'Move "{MIDDLEWARE}" before it.'
            found.append(CheckWarning(f"{path} responds from its cache before Chio runs.", hint=hint, id="chio.W006"))
    return found


def _check_csrf() -> list[CheckMessage]:
    try:
        options: ChioSettings = conf.settings
    except ConfigurationError:
        return []  # chio.E001 says so
    protected = any(_is_a(path, CsrfViewMiddleware) for path in settings.MIDDLEWARE)
    hint = 'Add "django.middleware.csrf.CsrfViewMiddleware" to MIDDLEWARE, or take CHIO_CAPABILITY_SOURCE out.'
    return [
        Error(f"{one.message.partition(':')[0]}.", hint=hint, id="chio.E008")
        for one in csrf_findings(options, protected, "")
    ]


def _is_ours(path: str) -> bool:
    from chio_django.middleware import ChioDjangoMiddleware

    return _is_a(path, ChioDjangoMiddleware)


def _is_a(path: str, kind: type) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, kind)


__all__: Sequence[str] = ("MIDDLEWARE", "check_deployment", "check_settings")
