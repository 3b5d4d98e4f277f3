# Runs the benchmarks with the given arguments; --help lists them. Without arguments: the middleware, then the sidecar.
. "$(dirname "$0")/venv.sh"
[ $# -eq 0 ] || exec "$python" -m benchmarks "$@"
status=0
"$python" -m benchmarks || status=$?
"$python" -m benchmarks.sidecar || status=$?
exit $status
