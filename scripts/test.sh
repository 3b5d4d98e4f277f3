# Runs the default test suite, everything but the paths of tests/long.txt, on all cores, at most four because tests start
# servers. Arguments go to pytest; `-n 0` runs the tests in one process.
. "$(dirname "$0")/venv.sh"
# shellcheck disable=SC2046 # an option for each path
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile $(sed 's/^/--ignore=/' tests/long.txt) "$@"
