# Runs the default test suite: everything but the paths of tests/long.txt. One process more than there are cores, since tests
# wait for what they start, and at most four. Arguments go to pytest; `-n 0` runs the tests in one process.
. "$(dirname "$0")/venv.sh"
cores=$(getconf _NPROCESSORS_ONLN)
# In the order of their names the files with few but long tests are not all left to the end.
# shellcheck disable=SC2046 # an option for each path
exec "$python" -m pytest -n $((cores < 3 ? cores + 1 : 4)) --dist loadfile --no-loadscope-reorder \
    $(sed 's/^/--ignore=/' tests/long.txt) "$@"
