#!/bin/sh
# Starts the application alone, on HELLO_FLASK_PORT (8017). It asks the sidecar at CHIO_SIDECAR_URL
# (http://127.0.0.1:9090), and answers 503 to everything but /healthz while there is none.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib/python.sh"
cd "$here"
exec "$python" -m flask --app app run --host 127.0.0.1 --port "${HELLO_FLASK_PORT:-8017}"
