"""The URLs of the project for tests: those of the contract, and what only Django has."""

from __future__ import annotations

from django.urls import include, path, re_path

from tests.django import api, views
from tests.faces.apps import django_app

shop = [path("orders/<int:order>/", views.bare), re_path(r"^parts/(?P<part>[a-z]{2,}(?:-\d+)?)/$", views.bare)]

urlpatterns = [
    path("hello", views.hello),
    path("ahello", views.ahello),
    path("pets/<int:pet>/tags/<slug:tag>", views.bare),
    re_path(r"^archive/(?P<year>[0-9]{4})/(\w+)/$", views.bare),
    path("shop/<slug:shop>/", include(shop)),
    path("astream", views.astream),
    path("file", views.file),
    path("atomic", views.in_transaction),
    path("transfer", views.transfer),
    path("atransfer", views.atransfer),
    path("any", views.any_capability),
    path("accounts/<int:account>", views.account),
    path("accounts", views.Accounts.as_view()),
    path("vault", views.Vault.as_view()),
    path("async-vault", views.AsyncVault.as_view()),
    path("async-accounts", views.AsyncAccounts.as_view()),
    path("api/", include(api.urlpatterns)),
    *django_app.urlpatterns,
]
