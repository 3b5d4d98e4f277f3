from __future__ import annotations

import os

# The example has no sessions and no forms, so nothing is signed with this. A real project reads it from a secret store.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "hello-django-signs-nothing")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "hello_project.urls"
WSGI_APPLICATION = "hello_project.wsgi.application"
INSTALLED_APPS = ["chio_django"]  # for `manage.py check`; the middleware needs no entry here
TIME_ZONE = "UTC"
USE_TZ = True

MIDDLEWARE = [
    "chio_django.ChioDjangoMiddleware",
]

CHIO_SIDECAR_URL = os.environ.get("CHIO_SIDECAR_URL", "http://127.0.0.1:9090")
CHIO_FAIL_OPEN = False
CHIO_EXCLUDE_PATHS = ["/healthz"]
CHIO_EXCLUDE_METHODS = ["OPTIONS"]
CHIO_RECEIPT_HEADER = "X-Chio-Receipt"
