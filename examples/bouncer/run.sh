#!/bin/sh
# The door and its eighty endpoints on BOUNCER_PORT (8021): two workers that share one limit in Redis.
#
# With redis-server on PATH one is started for this; BOUNCER_REDIS names another one instead. Without either, each worker
# counts in its own memory. BOUNCER_SECRET signs tokens; one is made up and a token printed when it is not set.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib/python.sh"
cd "$here"

state=$(mktemp -d)
pids=
finish() {
    status=$?
    trap - EXIT
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$state"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -z "${BOUNCER_REDIS:-}" ] && command -v redis-server >/dev/null; then
    redis-server --unixsocket "$state/redis.sock" --port 0 --save "" --appendonly no --dir "$state" >"$state/redis.log" &
    pids=$!
    export BOUNCER_REDIS="redis+unix://$state/redis.sock"
fi
if [ -z "${BOUNCER_SECRET:-}" ]; then
    BOUNCER_SECRET=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
    export BOUNCER_SECRET
    echo "TOKEN=$("$python" issue.py alice)"
fi
export CHIO_SIDECAR_URL="${CHIO_SIDECAR_URL:-embedded:$state/receipts.sqlite3}"

# uvicorn would believe X-Forwarded-For from this machine; whom to believe is for the guards to say.
"$python" -m uvicorn app:app --host 127.0.0.1 --port "${BOUNCER_PORT:-8021}" --workers 2 --no-proxy-headers &
served=$!
pids="$served $pids"
wait "$served"
