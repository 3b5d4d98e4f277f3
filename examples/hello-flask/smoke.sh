#!/bin/sh
# One capability authority, one sidecar, one application; three requests; what came of them is under .artifacts/.
#
# Ports: HELLO_FLASK_PORT, HELLO_FLASK_SIDECAR_PORT, HELLO_FLASK_TRUST_PORT; free ones where not given.
# CHIO_BIN names the `chio` command; without it one on PATH is used, and without that the embedded sidecar.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib/python.sh"
. "$here/../lib/smoke.sh"
smoke_begin "$here" hello-flask

start_trust "${HELLO_FLASK_TRUST_PORT:-}"
start_sidecar "${HELLO_FLASK_SIDECAR_PORT:-}" "${HELLO_FLASK_PORT:-}" "$here/openapi.yaml"
start_app "$here" -m flask --app app run --host 127.0.0.1 --port "$app_port"
issue_capability hello_write

# 1. GET /hello: allowed
call hello GET /hello
check hello '
assert body["message"] == "hello from flask", body
assert body["receipt_id"], body
'

# 2. POST /echo without a capability: denied
call deny POST /echo '{"message": "hello", "count": 2}'
check deny '
assert body["error"] == "chio_access_denied", body
assert body["message"], body
'
grep -q " 403 " "$artifacts/deny.headers"

# 3. POST /echo with X-Chio-Capability: allowed
call allow POST /echo '{"message": "hello", "count": 2}' "$capability"
check allow '
assert body["message"] == "hello", body
assert body["count"] == 2, body
assert body["receipt_id"], body
assert body["body_cached"] is True, body
'

collect_receipts
report hello deny allow
