"""URLs whose meaning depends on the language."""

from __future__ import annotations

from django.conf.urls.i18n import i18n_patterns
from django.urls import path
from django.utils.translation import gettext_lazy as _

from tests.django import views

urlpatterns = [
    path("plain", views.bare),
    *i18n_patterns(path(_("account/<int:number>/"), views.transfer), prefix_default_language=False),
]
