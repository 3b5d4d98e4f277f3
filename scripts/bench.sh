# The benchmarks; arguments go to them (--help tells which).
. "$(dirname "$0")/venv.sh"
exec "$python" -m benchmarks "$@"
