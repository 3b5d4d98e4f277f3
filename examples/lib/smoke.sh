# Shared by the smoke tests of the examples. Sourced after python.sh, by a script with `set -eu`.
#
# In order of use: smoke_begin, start_trust, start_sidecar, start_app, issue_capability, then call and check for each
# request, collect_receipts, report. Everything that is started here is stopped when the script ends.

lib=$(cd "$here/../lib" && pwd)

# port [NUMBER]: prints that port, or any free one without a number; fails if it is taken.
port() {
    "$python" "$lib/smoke.py" port "$@"
}

# smoke_begin FOLDER NAME: makes a new folder for the results, and unsets the inherited CHIO_ variables.
smoke_begin() {
    name=$2
    stamp=$(date -u +%Y%m%dT%H%M%SZ)
    mkdir -p "$1/.artifacts"
    artifacts=$1/.artifacts/$stamp
    # Two runs within one second must not mix.
    until mkdir "$artifacts" 2>/dev/null; do
        sleep 1
        stamp=$(date -u +%Y%m%dT%H%M%SZ)
        artifacts=$1/.artifacts/$stamp
    done
    mkdir "$artifacts/logs" "$artifacts/state"
    chio=${CHIO_BIN:-$(command -v chio || true)}
    for variable in $(env | sed -n 's/^\(CHIO_[A-Z0-9_]*\)=.*/\1/p'); do
        unset "$variable"
    done
    # Loopback must not go through a proxy.
    export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
    service_token=$("$python" -c 'import secrets; print(secrets.token_hex(16))')
    pids=
    trap smoke_end EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Ends the processes that were started here.
smoke_end() {
    status=$?
    trap - EXIT
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in $pids; do
        wait "$pid" 2>/dev/null || true
    done
    if [ $status -ne 0 ]; then
        echo "$name: FAILED; see $artifacts/logs" >&2
    fi
    exit $status
}

# The sidecar's command line: the real one, or the embedded one.
run_chio() {
    if [ -n "$chio" ]; then
        "$chio" "$@"
    else
        "$python" -m chio_sidecar "$@"
    fi
}

# step TEXT: says what is done now; on a slow machine each takes some time.
step() {
    echo "$name: $1 …" >&2
}

# start NAME URL COMMAND…: runs a command in the background until URL answers 200.
start() {
    service=$1
    health=$2
    shift 2
    "$@" >"$artifacts/logs/$service.log" 2>&1 &
    pids="$! $pids"
    "$python" "$lib/smoke.py" wait "$service" "$health" $! "$artifacts/logs/$service.log"
}

start_trust() {
    step "1 of 5, starting the trust service"
    trust=http://127.0.0.1:$(port $1)
    state=$artifacts/state
    set -- trust serve --listen "${trust#http://}" --service-token "$service_token" \
        --receipt-db "$state/trust-receipts.sqlite3" --revocation-db "$state/revocations.sqlite3" \
        --authority-db "$state/authority.sqlite3" --budget-db "$state/budgets.sqlite3"
    start_chio trust "$trust/health" "$@"
    authority=$("$python" "$lib/smoke.py" authority "$trust" "$service_token")
}

# start_sidecar PORT APP_PORT SPEC: the sidecar trusts exactly the authority of the trust service.
start_sidecar() {
    step "2 of 5, starting the sidecar"
    sidecar=http://127.0.0.1:$(port $1)
    app_port=$(port $2)
    export CHIO_TRUSTED_ISSUER_KEY="$authority"
    start_chio sidecar "$sidecar/chio/health" \
        --control-url "$trust" --control-token "$service_token" \
        api protect --upstream "http://127.0.0.1:$app_port" --spec "$3" --listen "${sidecar#http://}" \
        --receipt-store "$artifacts/state/sidecar-receipts.sqlite3"
    unset CHIO_TRUSTED_ISSUER_KEY
}

# start_chio NAME URL ARGUMENT…
start_chio() {
    service=$1 health=$2
    shift 2
    if [ -n "$chio" ]; then
        set -- "$chio" "$@"
    else
        set -- "$python" -m chio_sidecar "$@"
    fi
    start "$service" "$health" "$@"
}

# start_app FOLDER ARGUMENT…: the application, told where the sidecar is and, with the embedded one, whose receipts count.
start_app() {
    step "3 of 5, starting the application"
    export CHIO_SIDECAR_URL="$sidecar"
    kernel_key=$("$python" "$lib/smoke.py" kernel-key "$artifacts/state/sidecar-receipts.sqlite3.key")
    if [ -n "$kernel_key" ]; then
        export CHIO_TRUSTED_KERNEL_KEYS="$kernel_key"
    fi
    folder=$1
    shift
    cd "$folder"
    start app "http://127.0.0.1:$app_port/healthz" "$python" "$@"
}

# issue_capability TOOL: the authority's response in capability.json, the token in capability.token and `capability`.
issue_capability() {
    step "4 of 5, issuing a capability and sending the requests"
    "$python" "$lib/smoke.py" issue "$trust" "$service_token" "$1" >"$artifacts/capability.json"
    "$python" "$lib/smoke.py" token "$artifacts/capability.json" >"$artifacts/capability.token"
    capability=$(cat "$artifacts/capability.token")
}

# call NAME METHOD PATH [BODY [CAPABILITY]]: leaves NAME.headers and NAME.json.
call() {
    answer=$artifacts/$1 method=$2 url=http://127.0.0.1:$app_port$3 body=${4:-} token=${5:-}
    if ! command -v curl >/dev/null 2>&1; then
        "$python" "$lib/smoke.py" call "$answer" "$method" "$url" "$body" "$token"
        return
    fi
    set -- --silent --show-error --max-time 20 --request "$method"
    [ -z "$body" ] || set -- "$@" --header "content-type: application/json" --data "$body"
    [ -z "$token" ] || set -- "$@" --header "X-Chio-Capability: $token"
    curl "$@" --dump-header "$answer.headers" --output "$answer.json" "$url"
}

# check NAME ASSERTIONS: Python, with the parsed body as `body`.
check() {
    "$python" -c "
import json, sys
body = json.load(open(sys.argv[1]))
$2" "$artifacts/$1.json"
}

# receipts.ndjson: what the sidecar has stored.
collect_receipts() {
    step "5 of 5, reading and verifying the receipts"
    store=$artifacts/state/sidecar-receipts.sqlite3
    run_chio receipt list --receipt-db "$store" >"$artifacts/receipts.ndjson" 2>>"$artifacts/logs/receipts.log"
    # The real command lists tool-call receipts, of which an HTTP sidecar has none.
    if [ ! -s "$artifacts/receipts.ndjson" ]; then
        "$python" -m chio_sidecar receipt list --receipt-db "$store" >"$artifacts/receipts.ndjson"
    fi
}

# report NAME…: one line for each call, its receipt verified here; fails when one does not verify.
report() {
    "$python" "$lib/smoke.py" report "$name" "$artifacts" "$kernel_key" "${chio:-embedded}" "$@"
}
