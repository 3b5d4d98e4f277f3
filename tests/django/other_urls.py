"""URLs of another virtual host."""

from __future__ import annotations

from django.urls import path

from tests.django import views

urlpatterns = [path("hello", views.transfer), path("elsewhere/<int:place>", views.bare)]
