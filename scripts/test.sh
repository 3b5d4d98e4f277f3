# Runs the default test suite on all cores, at most four because tests start servers. Arguments go to pytest; `-n 0` runs
# the tests in one process.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
