# Runs the benchmarks with the given arguments; --help lists them. Without arguments: every figure that is asked for.
. "$(dirname "$0")/venv.sh"
[ $# -eq 0 ] && exec "$python" -m benchmarks.all
exec "$python" -m benchmarks "$@"
