import os

from chio_django import Policy

DEBUG = True  # for runserver's admin styles; a deployment sets it to False, and SHOP_SECRET
SECRET_KEY = os.environ.get("SHOP_SECRET", "for this example only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
USE_TZ = True
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
    "django.contrib.sessions", "django.contrib.staticfiles", "rest_framework", "rest_framework.authtoken",
    "chio_django", "shop",
]  # fmt: skip
MIDDLEWARE = [
    "chio_django.ChioDjangoMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

CHIO_SIDECAR_URL = os.environ.get("CHIO_SIDECAR_URL", "embedded:receipts.sqlite3")
CHIO_CAPABILITY_SOURCE = "session"
CHIO_EXTRACTOR = "chio_django.session_user"
# The admin has its own permissions. Each request of it is evaluated and has a receipt, and needs no capability.
CHIO_VIEW_POLICIES = {"admin:*": Policy(side_effects=False)}
