"""The settings of the tests' Django project. Its servers and files are named by the environment."""

import os

DATABASE = os.environ.get("DJANGOAPP_DATABASE", ":memory:")
REDIS = os.environ.get("DJANGOAPP_REDIS", "redis://127.0.0.1:1")

# How long a store that is away is waited for.
GLOBAL_LOCK_CONFIG = {"lock_ttl": float(os.environ.get("DJANGOAPP_LEASE", 10))}

SECRET_KEY = "of the tests"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "djangoapp.urls"
INSTALLED_APPS = [
    "djangoapp",
    "globallock",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]
MIDDLEWARE = [
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
