"""Django's own admin under the recipe of docs/django.md: its forms work, each request has a receipt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SETTINGS = """
from chio_django import Policy

SECRET_KEY = "signs nothing here"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["chio_django", *(f"django.contrib.{name}" for name in
                  ("admin", "auth", "contenttypes", "sessions", "messages"))]
MIDDLEWARE = [
    "chio_django.ChioDjangoMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
CONTEXT = ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
           "django.contrib.messages.context_processors.messages"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
              "OPTIONS": {"context_processors": CONTEXT}}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CHIO_SIDECAR_URL = "embedded:chio.sqlite3"
CHIO_VIEW_POLICIES = {"admin:*": Policy(side_effects=False), "/accounts/": Policy(side_effects=False)}
"""

URLS = """
from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.http import HttpResponse
from django.urls import path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/logout", LogoutView.as_view(next_page="/")),
    path("other", lambda request: HttpResponse("ran")),
]
"""

WALK = """
import re

import django

django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
User.objects.create_superuser("ada", "ada@example.com", "pw")
client = Client(enforce_csrf_checks=True)


def step(response):
    print(response.status_code, "receipt" if "X-Chio-Receipt" in response.headers else "none")
    found = re.search(r'csrfmiddlewaretoken" value="(\\w+)"', response.content.decode())
    return found and found[1]


token = step(client.get("/admin/login/"))
step(client.post("/admin/login/?next=/admin/", {"username": "ada", "password": "pw", "csrfmiddlewaretoken": token}))
token = step(client.get("/admin/auth/group/add/"))
step(client.post("/admin/auth/group/add/", {"name": "friends", "csrfmiddlewaretoken": token}))
step(client.post("/admin/auth/group/add/", {"name": "forged"}))
step(client.post("/other", {"csrfmiddlewaretoken": token}))
step(client.post("/accounts/logout", {"csrfmiddlewaretoken": token}))
"""

SEEN = """200 receipt
302 receipt
200 receipt
302 receipt
403 receipt
403 receipt
302 receipt
"""


def test_the_forms_of_the_admin_work_with_receipts_and_all_else_stays_refused(tmp_path: Path) -> None:
    for name, text in (("settings", SETTINGS), ("urls", URLS), ("walk", WALK)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    done = subprocess.run(
        [sys.executable, "walk.py"],
        cwd=tmp_path,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == SEEN, done.stderr
