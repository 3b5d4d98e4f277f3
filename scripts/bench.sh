# Runs the benchmarks with the given arguments; --help lists them.
. "$(dirname "$0")/venv.sh"
exec "$python" -m benchmarks "$@"
