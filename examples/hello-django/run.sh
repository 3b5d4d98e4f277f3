#!/bin/sh
# Starts the application alone, on HELLO_DJANGO_PORT (8016). It asks the sidecar at CHIO_SIDECAR_URL
# (http://127.0.0.1:9090), and answers 503 to everything but /healthz while there is none.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib/python.sh"
cd "$here"
exec "$python" manage.py runserver --noreload "127.0.0.1:${HELLO_DJANGO_PORT:-8016}"
