# The default test suite; arguments go to pytest.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest "$@"
