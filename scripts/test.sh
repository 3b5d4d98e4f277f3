# The default test suite, on all cores (at most four: tests start servers of their own); arguments go to pytest, and
# `-n 0` runs the tests in one process.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
